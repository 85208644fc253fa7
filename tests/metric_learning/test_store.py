"""Files of embedding networks, and hostile ones."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowmatch.metric_learning import EmbeddingNet, available, load, save_weights


def test_weights_round_trip(tmp_path):
    network = EmbeddingNet("small", 4, channels=1, size=8, metric="l2").eval()
    path = tmp_path / "e.safetensors"
    save_weights(path, network)
    loaded = load(path)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded(x), network(x)) and (loaded.size, loaded.metric) == (8, "l2")
    assert not loaded.training and load(weights=path).arguments == network.arguments
    for key, tensor in load_file(path).items():  # float32 in the file
        assert torch.equal(tensor, network.state_dict()[key])


def test_no_weights_ship():
    assert available() == {}
    with pytest.raises(ValueError, match="no weights for metric_learning ship"):
        load()
    with pytest.raises(ValueError, match="no weights named 'best' ship"):
        load("best")
    with pytest.raises(FileNotFoundError, match="no file of weights at none.safetensors"):
        load("none.safetensors")
    with pytest.raises(ValueError, match="must be an EmbeddingNet, got Linear"):
        load(torch.nn.Linear(1, 1))
    network = EmbeddingNet("small", 4)
    assert load(network) is network and not network.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (None, "does not say its network"),
        ([], "expected arguments of its network by name"),
        ({"dimension": 10**15}, "1000000000000000 is beyond 65536"),
        ({"dimension": 1e308}, r"1e\+308 is beyond 65536"),
        ({"dimension": 5}, "does not fit EmbeddingNet: embedding.bias is"),
        ({"dimension": 0}, "dimension must be at least 1, got 0"),
        ({"backbone": "vgg"}, "backbone must be one of"),
        ({"backbone": []}, "cannot be built with"),
        ({"metric": "x"}, "metric must be cosine or l2, got 'x'"),
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"size": "8"}, "cannot be built with"),
        ({"sise": 8}, "cannot be built with"),
    ],
)
def test_untrusted_weights(tmp_path, arguments, message):
    path = tmp_path / "e.safetensors"
    network = EmbeddingNet("small", 4, channels=1)
    if isinstance(arguments, dict):
        arguments = network.arguments | arguments
    metadata = {"model": "embedding", "arguments": json.dumps(arguments)}
    save_file(network.state_dict(), path, None if arguments is None else metadata)
    with pytest.raises(ValueError, match=message):
        load(path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    network = EmbeddingNet("small", 4, channels=1)
    save_weights(tmp_path / "e.safetensors", network)
    with torch.no_grad():
        network.embedding.bias[0] = torch.nan
    with pytest.raises(ValueError, match="must be finite, these are not: embedding.bias"):
        save_weights(tmp_path / "nan.safetensors", network)
    assert not (tmp_path / "nan.safetensors").exists()
    metadata = {"model": "embedding", "arguments": json.dumps(network.arguments)}
    save_file(network.state_dict(), tmp_path / "nan.safetensors", metadata)
    with pytest.raises(ValueError, match="must be finite, these are not: embedding.bias"):
        load(tmp_path / "nan.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "e.safetensors").read_bytes()[:-9])
    with pytest.raises(ValueError, match="not a whole .safetensors file"):
        load(tmp_path / "cut.safetensors")
