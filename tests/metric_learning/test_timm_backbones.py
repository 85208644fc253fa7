"""Backbones of timm, by a small stand-in with the functions of timm that are called."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from flowmatch.metric_learning.fit import load_backbone
from flowmatch.metric_learning.networks import EmbeddingNet
from flowmatch.metric_learning.timm_backbones import TimmBackbone


class Model(nn.Module):
    """Five pooled features; ``num_features`` is that of the last map, as in MobileNetV3."""

    def __init__(self, in_chans):
        super().__init__()
        self.conv_stem = nn.Conv2d(in_chans, 5, 3)
        self.num_features, self.head_hidden_size = 3, 5
        self.pretrained_cfg = {"mean": (0.4, 0.5, 0.6), "std": (0.1, 0.2, 0.3)}

    def forward(self, x):
        return self.conv_stem(x).mean((2, 3))


@pytest.fixture
def timm(monkeypatch):
    """Put the stand-in in the place of timm; returns the arguments of its calls."""
    calls = []

    def create_model(name, pretrained, num_classes, in_chans):
        calls.append((name, pretrained, num_classes, in_chans))
        return Model(in_chans)

    module = ModuleType("timm")
    module.create_model, module.is_model = create_model, lambda name: name == "net.a1"
    monkeypatch.setitem(sys.modules, "timm", module)
    return calls


def test_a_model_of_timm_is_a_backbone(timm):
    network = EmbeddingNet("timm/net.a1", 2, size=8)
    assert timm == [("net.a1", False, 0, 3)]
    assert network.embedding.in_features == 5 and network(torch.zeros(4, 3, 8, 8)).shape == (4, 2)
    assert network.arguments["backbone"] == "timm/net.a1"
    again = EmbeddingNet(**network.arguments)
    again.load_state_dict(network.state_dict())
    pictures = torch.rand(2, 3, 8, 8)
    assert torch.equal(again(pictures), network(pictures))
    prepared = network.backbone.prepare(torch.full((1, 3, 1, 1), 0.5))
    assert prepared.flatten().tolist() == pytest.approx([1, 0, -1 / 3], abs=1e-6)
    gray = TimmBackbone("net.a1", channels=1, pretrained=True)
    assert timm[-1] == ("net.a1", True, 0, 1) and gray.mean.flatten().tolist() == [0.5]


def test_weights_have_the_names_of_timm(timm):
    network = EmbeddingNet("timm/net.a1", 2)
    start = {key: torch.ones_like(value) for key, value in Model(3).state_dict().items()}
    load_backbone(network, start)
    assert torch.equal(network.backbone.model.conv_stem.bias, torch.ones(5))
    with pytest.raises(ValueError, match="do not fit the backbone: conv_stem.bias"):
        load_backbone(network, {"conv_stem.weight": start["conv_stem.weight"]})


def test_refusals(timm, monkeypatch):
    with pytest.raises(ValueError, match="must be a model of timm after timm/, got 'timm/other'"):
        EmbeddingNet("timm/other", 2)
    with pytest.raises(ValueError, match="backbone must be one of small, .* or timm/NAME, got"):
        EmbeddingNet("other", 2)
    with pytest.raises(ValueError, match="a timm backbone has no stages, as hdc and abe need"):
        TimmBackbone("net.a1").parts()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"timm/net.a1 needs timm: pip install 'flowmatch\[timm"):
        EmbeddingNet("timm/net.a1", 2)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_models_of_timm_itself(name):
    timm = pytest.importorskip("timm")
    network = EmbeddingNet(f"timm/{name}", 2, size=160).eval()
    model = timm.create_model(name).eval()
    load_backbone(network, model.state_dict())
    pictures = torch.rand(1, 3, 160, 160)
    assert network(pictures).shape == (1, 2)
    features = model.forward_head(
        model.forward_features(network.backbone.prepare(pictures)), pre_logits=True
    )
    torch.testing.assert_close(network.backbone(pictures)[..., 0, 0], features)
