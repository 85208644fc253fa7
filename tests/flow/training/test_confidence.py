"""Training and calibration of the confidence network."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flowmatch.flow.networks.confidence import THRESHOLDS, FlowConfidence
from flowmatch.flow.synthetic import Sources
from flowmatch.flow.training import confidence
from flowmatch.flow.training.confidence import (
    RECIPES,
    calibrate,
    collate,
    confidence_loss,
    train_confidence,
)
from flowmatch.flow.training.judged_flows import JudgedFlow
from flowmatch.training import Schedule


def item(seed, size=(32, 48)):
    """A flow with random errors, whose frames are brighter by the error."""
    rng = np.random.default_rng(seed)
    error = rng.choice([0.1, 6.0], size=(size[0] // 8, size[1] // 8)).repeat(8, 0).repeat(8, 1)
    first = np.full((*size, 3), 100, np.uint8)
    second = (first + 100 * (error > 1)[..., None]).astype(np.uint8)
    still = np.zeros((*size, 2), np.float32)
    return JudgedFlow(first, second, still, still, error.astype(np.float32))


class Items:
    def __len__(self):
        return 10_000

    def __getitem__(self, index):
        return item(index)


def test_learns_where_the_error_is_visible(tmp_path, monkeypatch):
    recipe = replace(RECIPES["confidence"], schedule=Schedule(60, 4, 3e-3, average=0.9))
    monkeypatch.setattr(confidence, "JudgedFlows", lambda pairs, count: Items())
    reports = []
    network = train_confidence(
        replace(recipe, calibration=4), Sources(), tmp_path / "c.pt", workers=0,
        precision="float32", on_step=reports.append,
    )  # fmt: skip
    assert reports[-1].metrics["loss"] < 0.5 * reports[0].metrics["loss"]
    first, second, forward, backward, error = collate([item(123)])
    logits = network(first.float() / 255, second.float() / 255, forward, backward)
    right = (logits[:, THRESHOLDS.index(1.0)] > 0) == (error < 1)
    assert right.float().mean() > 0.85


def test_the_loss_is_the_cross_entropy_of_all_thresholds():
    class Sure(torch.nn.Module):
        def forward(self, first, second, forward, backward):
            error = torch.tensor(0.7)
            signs = [1.0 if error < t else -1.0 for t in THRESHOLDS]
            return torch.tensor(signs).view(1, -1, 1, 1).expand(1, -1, *first.shape[2:]) * 20

    first, second, forward, backward, error = collate([item(0)])
    batch = [first, second, forward, backward, torch.full_like(error, 0.7)]
    loss, metrics = confidence_loss(Sure(), batch)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert metrics["right"] == 1
    loss, _ = confidence_loss(Sure(), [*batch[:4], torch.full_like(error, 3.0)])
    assert loss.item() == pytest.approx(20 * 2 / len(THRESHOLDS), rel=1e-3)  # 1 and 2 px


def test_calibration_makes_overconfident_logits_honest(monkeypatch):
    """Errors are below each threshold with probability 0.7; the network says 0.99."""

    class Random(Items):
        def __getitem__(self, index):
            low = np.random.default_rng(index).random((32, 48)) < 0.7
            return item(0)._replace(error=np.where(low, 0.1, 99.0).astype(np.float32))

    network = FlowConfidence().eval()
    torch.nn.init.constant_(network.out.bias, 4.6)
    calibrate(network, Random(), 3)
    first, second, forward, backward, _ = collate([item(0)])
    logits = network(first.float() / 255, second.float() / 255, forward, backward)
    assert logits[0, 2].sigmoid().mean().item() == pytest.approx(0.7, abs=0.05)
    assert network.calibration.isfinite().all()


def test_calibration_sees_other_scenes_and_textures():
    recipe = RECIPES["confidence"]
    one, other = recipe.samples(Sources()), recipe.calibration_samples(Sources())
    assert one.pairs.seed != other.pairs.seed
    assert not set(one.pairs.sources.textures) & set(other.pairs.sources.textures)
