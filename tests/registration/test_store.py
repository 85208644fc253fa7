"""Descriptors by name, file and default."""

import pytest

from flowmatch.registration import MODELS, Spin
from flowmatch.registration.store import available, load, load_descriptor, save_weights
from flowmatch.zoo import WEIGHTS


def test_shipped_descriptors_load_and_document_their_training():
    for name, entry in available().items():
        keys = {"file", "model", "summary", "recipe", "command", "data", "seed", "steps"}
        assert keys | {"commit"} <= entry.keys()
        assert (WEIGHTS / entry["file"]).stat().st_size < 4 * 2**20
        network = load(name)
        assert network.unit and network.dimensions == 32 and not network.training
    assert sum(bool(entry.get("default")) for entry in available().values()) == 1


def test_default_and_names():
    assert isinstance(load_descriptor(), Spin)
    assert load_descriptor("fpfh") == "fpfh"
    with pytest.raises(ValueError, match="no weights named 'shot' ship"):
        load_descriptor("shot")


def test_a_file_takes_precedence_over_a_name(tmp_path):
    arguments = {"channels": 1, "dimensions": 3, "detail": 4.0}
    save_weights(tmp_path / "w.safetensors", MODELS["slim"](**arguments), "slim", arguments)
    for name in ("default", "fpfh", "slim"):
        network = load_descriptor(name, weights=tmp_path / "w.safetensors")
        assert (network.dimensions, network.detail) == (3, 4.0)
    with pytest.raises(ValueError, match="name must be one of 3dmatch, slim"):
        save_weights(tmp_path / "x.safetensors", MODELS["slim"](1, 1), "fpfh")
