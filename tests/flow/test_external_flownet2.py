"""NVIDIA's checkpoints of FlowNet 2.0: recognised, complete, with the same flow."""

from functools import partial

import pytest
import torch

from flowmatch.flow import (
    MODELS,
    FlowNet2,
    FlowNet2CS,
    FlowNet2CSS,
    FlowNet2SD,
    load,
    load_external,
)
from flowmatch.flow.external import convert_checkpoint
from flowmatch.flow.store import STORE

STACKS = {"FlowNet2SD": FlowNet2SD, "FlowNet2CS": FlowNet2CS, "FlowNet2CSS": FlowNet2CSS,
          "FlowNet2": FlowNet2}  # fmt: skip


@pytest.fixture
def thin(monkeypatch):
    """Make the stacks thin, because full ones would take most of the time of these tests."""
    for network in STACKS.values():
        for models in (MODELS, STORE.models):
            monkeypatch.setitem(models, network.__name__.lower(), partial(network, width=1 / 16))


@pytest.mark.parametrize("name", STACKS)
def test_stacks(name, tmp_path, thin):
    """The names are NVIDIA's; a converted file gives the same flow."""
    model = STACKS[name](width=1 / 16).eval()
    torch.save({"epoch": 9, "state_dict": model.state_dict()}, tmp_path / "c.pth.tar")
    weights = convert_checkpoint(
        tmp_path / "c.pth.tar", tmp_path / "c.safetensors", dtype=torch.float32
    )
    assert (weights.source, weights.name) == (f"NVIDIA's {name}", name.lower())
    pair = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        expected = model(*pair)[0]
        for loaded in (weights.network, load(weights=tmp_path / "c.safetensors")):
            assert type(loaded) is STACKS[name]
            assert not loaded.training
            assert torch.equal(loaded(*pair)[0], expected)


def test_a_whole_small_displacement_network(tmp_path):
    """A network of NVIDIA's size has all parameters."""
    with torch.device("meta"):
        shapes = {key: t.shape for key, t in FlowNet2SD().state_dict().items()}
    state = {key: torch.rand(()).expand(shape) for key, shape in shapes.items()}  # a small file
    torch.save({"state_dict": state}, tmp_path / "sd.pth.tar")
    network = load_external(tmp_path / "sd.pth.tar")
    assert sum(t.numel() for t in network.parameters()) == 45_371_666


@pytest.mark.parametrize("name", STACKS)
def test_stacks_swap_red_and_blue_of_pictures_alone(name, tmp_path, thin):
    torch.save(STACKS[name](width=1 / 16).state_dict(), tmp_path / "c.pth")
    model, swapped = (load_external(tmp_path / "c.pth", bgr=bgr) for bgr in (False, True))
    pair = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        flows = [model(*pair)[0], swapped(*(image.flip(1) for image in pair))[0]]
    torch.testing.assert_close(*flows, rtol=1e-3, atol=1e-5 * flows[0].abs().max().item())


@pytest.mark.parametrize("name", STACKS)
def test_stacks_lack_nothing_and_hold_nothing_else(name, tmp_path, thin):
    state = STACKS[name](width=1 / 16).state_dict()
    part = "" if name == "FlowNet2SD" else "flownets_1."
    del state[f"{part}conv4.0.weight"]
    state[f"{part}conv4.1.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "c.pth")
    expected = (rf"does not fit NVIDIA's {name}: {part}conv4.0.weight is missing; "
                rf"{part}conv4.1.weight is unexpected$")  # fmt: skip
    with pytest.raises(ValueError, match=expected):
        load_external(tmp_path / "c.pth")


def test_only_pinard_has_another_unit(tmp_path, thin):
    state = FlowNet2SD(width=1 / 16).state_dict()
    torch.save({"state_dict": state, "div_flow": 1}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match="NVIDIA's FlowNet2SD has no div_flow but 20, got 1"):
        load_external(tmp_path / "c.pth")
