"""Gradients at embeddings of length 0, such as those of blank pictures by a layer without bias."""

import math

import pytest
import torch

from flowmatch.metric_learning import ensembles
from flowmatch.metric_learning.hierarchy import ClassTree, HierarchicalTripletLoss
from flowmatch.metric_learning.losses import LOSSES, HordeLoss, MarginLoss, make_loss
from flowmatch.units import unit_vectors

N, D, CLASSES = 12, 4, 4
LABELS = torch.arange(CLASSES).repeat_interleave(3)
LARGEST = 100  # of the gradients of this batch, without zeros at most 20


def embeddings(kind):
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    blank = {
        "zero": torch.zeros(D),
        "tiny": 1e-20 * x[0],
        "smallest": 1e-14 * x[0],
        "constant": torch.full((D,), 0.1),
        "large constant": torch.full((D,), 1000.1),
    }
    x[[0, 4]] = blank[kind]
    return x.requires_grad_()


def assert_small(*tensors):
    for tensor in tensors:
        assert tensor.isfinite().all() and tensor.abs().max() < LARGEST


@pytest.mark.parametrize("kind", ["zero", "tiny", "smallest", "constant"])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_blank_items_are_like_others(name, kind):
    torch.manual_seed(1)
    x, loss = embeddings(kind), make_loss(name, classes=CLASSES, dimension=D)
    value = loss(x, LABELS)
    value.backward()
    assert value.isfinite()
    if name != "circle":  # whose scale of 80 multiplies the squares of similarities
        assert_small(value)
    assert_small(x.grad, *(p.grad for p in loss.parameters()))
    assert x.grad[[1, 2, 3, 5]].any()


@pytest.mark.parametrize("name", LOSSES)
def test_values_at_zero_are_those_of_the_limit(name):
    torch.manual_seed(1)
    loss = make_loss(name, classes=CLASSES, dimension=D)
    values = []
    for kind in ("zero", "tiny"):
        torch.manual_seed(2)  # the group loss samples its anchors
        values.append(loss(embeddings(kind), LABELS).item())
    if name not in ("deep-spectral", "group"):  # they depend on directions of any length
        assert values[0] == pytest.approx(values[1], rel=1e-3)


def test_a_blank_item_does_not_stop_a_bias():
    """Adam divides by the largest recent gradient, so that one item would stop all others."""
    ends = {}
    for blank in (False, True):
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(N, 6, generator=generator) + 1
        features[0] *= not blank
        layer = torch.nn.Linear(6, D)
        torch.nn.init.zeros_(layer.bias)
        layer.weight.data = torch.randn(D, 6, generator=generator)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
        loss = make_loss("angular", classes=CLASSES, dimension=D)
        for _ in range(30):
            optimizer.zero_grad()
            loss(layer(features), LABELS).backward()
            optimizer.step()
        ends[blank] = float(layer.bias.detach().abs().max())
    assert ends[True] > 0.2 * ends[False] > 0.01


def test_unit_vectors():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0]], requires_grad=True)
    units = unit_vectors(x)
    assert torch.equal(units, torch.nn.functional.normalize(x, dim=1))
    units.sum().backward()
    assert x.grad[0].tolist() == pytest.approx([(4 - 3) * 4 / 125, (3 - 4) * 3 / 125])
    assert not x.grad[1:].any()
    missing = torch.tensor([[math.nan, 1.0]], requires_grad=True)
    unit_vectors(missing).sum().backward()
    assert missing.grad.isnan().all()


def test_the_class_tree_loss():
    x = embeddings("zero")
    HierarchicalTripletLoss(ClassTree(x, LABELS))(x, LABELS).backward()
    assert_small(x.grad)


def test_signals_of_rounding_are_no_anchors():
    """The variance of equal entries may be rounding instead of 0."""
    x = embeddings("large constant")
    value = make_loss("snr", classes=CLASSES, dimension=D, zero_mean=0.0)(x, LABELS)
    value.backward()
    assert value.isfinite() and x.grad.isfinite().all()
    assert value < 1e8  # a quotient of the rounding error would be larger


def blank_features():
    features = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
    features[0] = 0
    return features.requires_grad_()


def without_bias(module):
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    return module


def test_heads_of_ensembles():
    features = blank_features()
    heads = without_bias(ensembles.BoostedHeads(6, sizes=(2, 3)))
    value = ensembles.BierLoss()(heads(features), LABELS)
    divided = without_bias(ensembles.DividedEmbedding(6, 8, learners=2))
    loss = ensembles.DivideAndConquerLoss(2, lambda: MarginLoss(CLASSES))
    value = value + loss(divided, features, LABELS) + loss(divided, features, LABELS, cluster=1)
    value = value + ensembles.CascadeLoss.combine([features, 2 * features]).square().sum()
    value.backward()
    assert_small(features.grad, *(p.grad for p in heads.parameters()))
    assert_small(*(p.grad for p in divided.parameters()))


def test_attention_and_moments():
    maps = torch.randn(N, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    maps[0] = 0
    maps.requires_grad_()
    backbone = torch.nn.Conv2d(3, 5, 3, bias=False)
    attention = ensembles.AttentionEnsemble(torch.nn.Identity(), 3, 3, backbone, 5, 2, 8)
    parts = without_bias(attention)(maps)
    value = ensembles.AttentionEnsembleLoss()(parts, LABELS)
    horde = HordeLoss(3, lambda: make_loss("triplet", classes=4, dimension=4), 3, 16, 4)
    value = value + without_bias(horde)(maps, LABELS)
    value.backward()
    assert_small(maps.grad, *(p.grad for p in attention.parameters()))
    assert_small(*(p.grad for p in horde.parameters()))
