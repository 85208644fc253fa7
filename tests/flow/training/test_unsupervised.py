"""Unsupervised losses: against plain loops, and lowest at the true flow."""

import math

import pytest
import torch

from flowmatch.flow.training.unsupervised import (
    photometric_loss,
    smoothness_loss,
    unsupervised_loss,
)
from flowmatch.ops import warp


def test_photometric_loss_is_lowest_at_the_true_flow(photo):
    image = torch.from_numpy(photo[:64, :80].copy()).permute(2, 0, 1)[None] / 255
    flow = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 64, 80)
    second = warp(image, -flow)
    visible = torch.zeros(1, 64, 80)
    visible[:, 10:-10, 10:-10] = 1
    losses = [photometric_loss(image, second, flow + d, visible) for d in (0.0, 0.5, 2.0)]
    assert losses[0] == pytest.approx(0.01**0.4, abs=0.01)
    assert losses[0] < losses[1] < losses[2]


def test_smoothness_by_a_plain_loop():
    torch.manual_seed(0)
    image, flow = torch.rand(1, 3, 4, 5) / 50, torch.randn(1, 2, 4, 5)
    terms = {0: [], 1: []}
    for y in range(4):
        for x in range(5):
            for axis, (dy, dx) in enumerate(((1, 0), (0, 1))):
                if y + dy < 4 and x + dx < 5:
                    edge = (image[0, :, y + dy, x + dx] - image[0, :, y, x]).abs().mean()
                    for c in (0, 1):
                        d = flow[0, c, y + dy, x + dx] - flow[0, c, y, x]
                        terms[axis].append(math.exp(-150 * edge) * math.sqrt(d * d + 1e-6))
    expected = sum(sum(t) / len(t) for t in terms.values()) / 2
    assert smoothness_loss(image, flow).item() == pytest.approx(expected, rel=1e-4)


class Constant(torch.nn.Module):
    """Returns a learnt constant flow, and its negative as the backward flow."""

    def __init__(self, motion):
        super().__init__()
        self.motion = torch.nn.Parameter(torch.tensor(motion))
        self.sign = -1

    def forward(self, first, second):
        self.sign = -self.sign  # forward, then backward
        flow = self.sign * self.motion.view(1, 2, 1, 1)
        return [flow.expand(len(first), 2, *first.shape[-2:])]


def test_unsupervised_loss_finds_the_motion(photo):
    image = torch.from_numpy(photo[:64, :80].copy()).permute(2, 0, 1)[None]
    second = torch.roll(image, shifts=(0, 2), dims=(2, 3))
    values = {
        motion: unsupervised_loss(Constant([motion, 0.0]), [image, second], weights=[1.0])[0]
        for motion in (0.0, 1.0, 2.0, 3.0)
    }
    assert min(values, key=values.get) == 2.0
    model = Constant([1.7, 0.0])
    loss, metrics = unsupervised_loss(model, [image, second], weights=[1.0])
    loss.backward()
    assert model.motion.grad[0] < 0  # further to the right
    assert set(metrics) == {"smoothness", "occluded"}


def test_as_many_weights_as_flows():
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(ValueError, match="as many weights as flows are needed, got 2 and 1"):
        unsupervised_loss(Constant([0.0, 0.0]), [image, image], weights=[1.0, 1.0])
