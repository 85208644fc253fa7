"""The retrieval network: its maps, its whitening, its weights in a file."""

import pytest
import torch
import torch.nn.functional as F

from flowmatch.align.backbones import SmallBackbone
from flowmatch.retrieval import RetrievalNet, Whitening, available, load, save_weights
from flowmatch.retrieval.network import SignedMaps, initial_network
from flowmatch.retrieval.store import STORE


def test_signed_maps_keep_negative_features():
    images = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    maps = SignedMaps(torch.nn.Identity())(images)
    assert maps.shape == (1, 6, 4, 5) and maps.min() == 0
    torch.testing.assert_close(maps[:, :3] - maps[:, 3:], (images - 0.45) / 0.225)


def test_descriptors_are_whitened():
    torch.manual_seed(0)
    network, images = RetrievalNet(4).eval(), torch.rand(2, 3, 64, 48)
    with torch.no_grad():
        pooled = network.pooled(images)
        torch.testing.assert_close(pooled.norm(dim=1), torch.ones(2))
        torch.testing.assert_close(network(images), pooled)
        network.whitening = Whitening(torch.full((32,), 0.1), torch.eye(32).flip(0))
        torch.testing.assert_close(network(images), F.normalize(pooled.flip(1) - 0.1, dim=1))


def test_initial_network_has_the_backbone_of_alignment():
    from flowmatch.align import load as load_align

    backbone = load_align().get_submodule("backbone")
    network = initial_network()
    assert network.arguments == {"width": backbone.width, "front": backbone.front}
    for name, tensor in backbone.state_dict().items():
        assert network.maps.backbone.state_dict()[name].equal(tensor)
    with pytest.raises(ValueError, match="expected a SmallBackbone, got Identity"):
        RetrievalNet.from_backbone(torch.nn.Identity())


def test_no_weights_ship():
    assert available() == {}
    with pytest.raises(ValueError, match="no weights for retrieval ship"):
        load()


def test_weights_come_back_with_their_whitening(tmp_path):
    network = RetrievalNet.from_backbone(SmallBackbone(4, "structure")).eval()
    network.projection.copy_(torch.eye(32).flip(0))
    path = tmp_path / "w.safetensors"
    save_weights(path, network, "retrieval", network.arguments, torch.float32)
    back = load(path, device="cpu")
    assert STORE.digest(path).startswith("w.safetensors ")
    images = torch.rand(2, 3, 64, 48)
    assert back(images).equal(network(images))
    assert not back.pooled(images).equal(back(images))
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a whole"):
        load(path, device="cpu")
