"""Weights by name and by file, and checks of untrusted files."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flowmatch.flow import FlowNetS, PyramidNet, available, load, save_weights
from flowmatch.flow.store import STORE
from flowmatch.zoo import WEIGHTS, load_initial_weights, unwrapped


def test_shipped_weights_load_and_say_how_they_were_made():
    index = available()
    assert STORE.default_name() in index
    assert sum(bool(entry.get("default")) for entry in index.values()) == 1
    for name, entry in index.items():
        assert {"file", "summary", "recipe", "command", "data", "commit"} <= entry.keys()
        assert (WEIGHTS / entry["file"]).stat().st_size < 12 * 2**20
        model = load(name)
        assert not model.training
        assert all(p.dtype == torch.float32 for p in model.parameters())


def test_round_trip(tmp_path):
    model = FlowNetS(width=1 / 16)
    save_weights(tmp_path / "w.safetensors", model, "flownets", {"width": 1 / 16})
    network = load(weights=tmp_path / "w.safetensors")  # the file knows its network
    assert isinstance(network, FlowNetS)
    for key, value in network.state_dict().items():
        assert torch.equal(value, model.state_dict()[key].half().float())


def test_unknown_name_lists_what_there_is():
    with pytest.raises(ValueError, match="no weights named 'raft'.*there are: .*pyramid"):
        load("raft")


def test_unknown_device():
    with pytest.raises(ValueError, match="device"):
        load(device="cuda:99")


def write(path, tensors, **metadata):
    save_file(tensors, path, metadata)
    return path


def test_names_in_a_file_cannot_write_to_the_terminal(tmp_path):
    save_file({"\x1b[2J\nweight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"\?\[2J\?weight is unexpected") as caught:
        load("flownets", weights=tmp_path / "w.safetensors")
    assert str(caught.value).isprintable()


def test_missing_and_unexpected_keys_are_named(tmp_path):
    tensors = PyramidNet().state_dict()
    del tensors["sharpness"]
    tensors["extra"] = torch.zeros(1)
    tensors["correct.bias"] = torch.zeros(3)
    path = write(tmp_path / "w.safetensors", tensors, model="pyramid")
    expected = r"correct.bias is \[3\], not \[2\]; extra is unexpected; sharpness is missing"
    with pytest.raises(ValueError, match=expected):
        load(weights=path)


def test_a_file_cannot_ask_for_a_huge_network(tmp_path):
    """Width 10000 would be 3.9e15 parameters; the file is refused before any is allocated."""
    arguments = json.dumps({"width": 10000})
    path = write(tmp_path / "w.safetensors", {"a": torch.zeros(1)}, model="flownets",
                 arguments=arguments)  # fmt: skip
    with pytest.raises(ValueError, match="does not fit FlowNetS"):
        load(weights=path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "does not say its network"),
        ({"model": "nonsense"}, "does not say its network"),
        ({"model": "flownets", "arguments": "{"}, "arguments of its network are damaged"),
        ({"model": "flownets", "arguments": '{"depth": 3}'}, "cannot be built with"),
        ({"model": "flownets", "arguments": "[1]"}, "expected arguments of its network by name"),
        ({"model": "flownets", "arguments": '{"width": -1}'}, "width must be positive"),
        ({"model": "flownets", "arguments": '{"width": 1e308}'}, "1e308 is beyond 65536"),
        ({"model": "flownets", "arguments": '{"width": NaN}'}, "NaN is beyond 65536"),
        ({"model": "flownets", "arguments": '{"width": "wide"}'}, "cannot be built with"),
        # Python converts no text of 5000 digits; an honest number of iterations is 32.
        ({"model": "raft", "arguments": '{"iterations": %s}' % ("7" * 5000)}, "is beyond 65536"),
        ({"model": "raft", "arguments": '{"iterations": 1000000000}'}, "is beyond 65536"),
        ({"model": "pyramid", "arguments": '{"channels": [-16, 32]}'}, "cannot be built with"),
        ({"model": "pyramid", "arguments": "[" * 200_000}, "arguments of its network are damaged"),
    ],
)
def test_refuses_other_metadata(tmp_path, metadata, message):
    path = write(tmp_path / "w.safetensors", {"a": torch.zeros(1)}, **metadata)
    with pytest.raises(ValueError, match=message):
        load(weights=path)


def test_refuses_files_that_are_not_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        load(weights=tmp_path / "absent.safetensors")
    torch.save(PyramidNet().state_dict(), tmp_path / "pickled.safetensors")
    with pytest.raises(ValueError, match="not a whole .safetensors file"):
        load(weights=tmp_path / "pickled.safetensors")
    whole = write(tmp_path / "w.safetensors", PyramidNet().state_dict(), model="pyramid")
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole .safetensors file"):
        load(weights=whole)


def test_weights_are_finite(tmp_path):
    model = PyramidNet()
    torch.nn.init.constant_(model.sharpness, 1e6)  # more than float16 holds
    with pytest.raises(ValueError, match="must be finite, these are not: sharpness"):
        save_weights(tmp_path / "w.safetensors", model, "pyramid")
    assert not list(tmp_path.iterdir())
    tensors = PyramidNet().state_dict() | {"sharpness": torch.tensor(torch.nan)}
    path = write(tmp_path / "w.safetensors", tensors, model="pyramid")
    with pytest.raises(ValueError, match="must be finite"):
        load(weights=path)


def test_digest_changes_with_the_file(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, PyramidNet(), "pyramid")
    before = STORE.digest(weights=path)
    assert STORE.digest(weights=path) == before
    save_weights(path, PyramidNet(), "pyramid")
    assert STORE.digest(weights=path) != before


def test_save_refuses_an_unknown_network(tmp_path):
    with pytest.raises(ValueError, match="name must be one of"):
        save_weights(tmp_path / "w.safetensors", PyramidNet(), "mine")
    assert not list(tmp_path.iterdir())


def test_a_given_network_stays_on_its_device_unless_another_is_named():
    with torch.device("meta"):
        model = PyramidNet()
    assert load(model, device=None) is model
    assert next(model.parameters()).device.type == "meta"


def test_weights_are_float32_whatever_the_default_type(tmp_path):
    save_weights(tmp_path / "w.safetensors", PyramidNet(), "pyramid")
    torch.set_default_dtype(torch.float64)
    try:
        model = load(tmp_path / "w.safetensors")
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


class Named(nn.Module):
    """A wrapper that holds its network by a name, as FSDP does."""

    def __init__(self, name, model):
        super().__init__()
        setattr(self, name, model)


def with_encoder(wrap):
    def wrap_part(model):
        model.encoder = wrap(model.encoder)
        return model

    return wrap_part


WRAPPERS = {
    "compiled": torch.compile,
    "parallel": torch.nn.DataParallel,
    "both": lambda model: torch.nn.DataParallel(torch.compile(model)),
    "average": torch.optim.swa_utils.AveragedModel,
    "fsdp": lambda model: Named("_fsdp_wrapped_module", model),
    "part compiled": with_encoder(torch.compile),
    "part of fsdp": with_encoder(lambda part: Named("_fsdp_wrapped_module", part)),
    "part checkpointed": with_encoder(lambda part: Named("_checkpoint_wrapped_module", part)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrapped_networks_are_saved_and_loaded_by_their_own_names(tmp_path, wrap):
    expected = {key: tensor.half().float() for key, tensor in PyramidNet().state_dict().items()}
    model = PyramidNet()
    model.load_state_dict(expected)
    wrapped = wrap(model)
    save_weights(tmp_path / "ours.safetensors", wrapped, "pyramid")
    # As a training loop writes it, without flowmatch.
    save_file(
        {key: tensor.clone() for key, tensor in wrapped.state_dict().items()},
        tmp_path / "theirs.safetensors",
        metadata={"model": "pyramid"},
    )
    for name in ("ours", "theirs"):
        state = load(tmp_path / f"{name}.safetensors").state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], tensor) for key, tensor in expected.items())


def test_names_that_would_coincide_are_not_unwrapped():
    state = {"a.weight": 1, "a._orig_mod.weight": 2}
    assert unwrapped(state) == state


def test_what_load_would_refuse_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="does not fit flownets: blend.bias is unexpected"):
        save_weights(tmp_path / "w.safetensors", PyramidNet(), "flownets")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("has_them", [True, False])
def test_added_layers_begin_anew(has_them):
    model = nn.ModuleDict({"old": nn.Linear(2, 2), "new_1": nn.Linear(2, 2)})
    initial = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    start = {key: tensor + 1 for key, tensor in initial.items() if has_them or "old" in key}
    load_initial_weights(model, start, "two", added=("new_",))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, start[key] if "old" in key else initial[key])
    with pytest.raises(ValueError, match="old.bias"):
        load_initial_weights(model, {"old.weight": start["old.weight"]}, "two", added=("new_",))
