"""Weights of all tasks by one name, and files that others published."""

import pytest
import torch

from flowmatch import catalogue
from flowmatch.flow import RAFTSmall
from flowmatch.flow.store import STORE
from flowmatch.matching.networks import TFeat
from flowmatch.registration.store import STORE as REGISTRATION

WRAPPERS = [
    lambda state: state,
    lambda state: {"state_dict": state, "epoch": 3},
    lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
]


@pytest.mark.parametrize("wrap", WRAPPERS, ids=["plain", "state_dict", "model, module."])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".params"])
def test_published_files_are_recognised(tmp_path, suffix, wrap):
    for network in (RAFTSmall(iterations=1), TFeat()):
        path = tmp_path / f"{type(network).__name__}{suffix}"
        torch.save(wrap(network.state_dict()), path)
        if suffix == ".ckpt" and isinstance(network, TFeat):
            continue
        loaded = catalogue.load(path)
        assert type(loaded) is type(network)
        assert not loaded.training
        for key, value in network.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value)


def test_unknown_files_are_answered_with_their_keys_and_the_known_layouts(tmp_path):
    torch.save({"backbone.weight": torch.ones(2), "head.bias": torch.ones(2)}, tmp_path / "x.pth")
    expected = (
        "none of FlowNetPytorch's .* RAFT; its keys begin with backbone, head; .*"
        "expected TFeat, HardNet, SOSNet or HyNet, got backbone.weight, head.bias"
    )
    with pytest.raises(ValueError, match=expected):
        catalogue.load(tmp_path / "x.pth")
    torch.save({"epoch": 3, "net": {"fnet.weight": torch.ones(2)}}, tmp_path / "y.pth")
    with pytest.raises(
        ValueError, match="in state_dict, in model and at the top, where there are epoch, net"
    ):
        catalogue.load(tmp_path / "y.pth")


def test_code_in_a_file_is_not_executed(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (tmp_path.joinpath("executed").touch, ())

    torch.save({"fnet.weight": Harmful()}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="x.pth is not"):
        catalogue.load(tmp_path / "x.pth")
    assert not (tmp_path / "executed").exists()


def test_stores_read_published_files_of_their_task(tmp_path):
    torch.save(RAFTSmall(iterations=1).state_dict(), tmp_path / "raft.pth")
    for model, weights in ((tmp_path / "raft.pth", None), ("default", tmp_path / "raft.pth")):
        assert isinstance(STORE.load(model, weights=weights), RAFTSmall)
    with pytest.raises(ValueError, match="published files of registration are not known"):
        REGISTRATION.load(weights=tmp_path / "raft.pth")
    with pytest.raises(FileNotFoundError, match="no file of weights at .*none.pth"):
        catalogue.load(tmp_path / "none.pth")
