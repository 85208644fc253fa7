"""Losses against plain loops, and gradients of stages."""

import pytest
import torch

from flowmatch.align.losses import grid_loss, matching_loss, stages_loss
from flowmatch.align.transforms import AFFINE, THIN_PLATE, identity, transform_points


def test_grid_loss_by_a_loop():
    estimate = identity(AFFINE, 2) + 0.2 * torch.randn(2, 6)
    truth = identity(THIN_PLATE, 2) + 0.2 * torch.randn(2, 18)
    total = 0.0
    for b in range(2):
        for row in range(20):
            for column in range(20):
                point = torch.tensor([[[-1 + 2 * column / 19, -1 + 2 * row / 19]]])
                first, second = (
                    transform_points(theta[b : b + 1], point) for theta in (estimate, truth)
                )
                total += ((first - second) ** 2).sum().item()
    assert grid_loss(estimate, truth).item() == pytest.approx(total / (2 * 400), rel=1e-4)


def test_the_true_transform_has_zero_loss():
    theta = identity(AFFINE) + 0.1
    assert grid_loss(theta, theta).item() == 0


def test_stages():
    """0.5 for the affine stage alone and 1 for both; the second gives the first no gradient."""
    affine = (identity(AFFINE) + 0.1).requires_grad_()
    plate = (identity(THIN_PLATE) + 0.05 * torch.randn(1, 18)).requires_grad_()
    truth = [identity(AFFINE), identity(THIN_PLATE)]
    loss = stages_loss([affine, plate], truth)
    alone, both = grid_loss(affine, truth), grid_loss([affine, plate], truth)
    assert loss.item() == pytest.approx(0.5 * alone.item() + both.item(), rel=1e-5)
    loss.backward()
    (expected,) = torch.autograd.grad(0.5 * alone, affine)
    torch.testing.assert_close(affine.grad, expected)
    assert plate.grad.abs().sum() > 0


def test_a_single_stage_has_weight_one():
    affine = identity(AFFINE) + 0.1
    assert stages_loss([affine], [identity(AFFINE)]) == grid_loss(affine, identity(AFFINE))


def test_matching_loss_by_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 9, 9, generator=generator)
    right = identity(AFFINE, 2)
    right[1, 2] = 2 / 3 + 1 / 3  # a cell and a half
    total, count = 0.0, 0.0
    over_second, over_first = scores.log_softmax(1), scores.log_softmax(2)
    for b, step in enumerate((0.0, 1.5)):
        for y in range(3):
            for x in range(3):
                place = x + step
                if 2 * (place + 0.5) / 3 - 1 > 1:
                    continue
                place = min(place, 2.0)
                for cell in range(3):
                    share = max(0.0, 1 - abs(place - cell))
                    index = b, 3 * y + cell, 3 * y + x
                    total -= share * (over_second[index] + over_first[index]).item() / 2
                    count += share
    assert matching_loss(scores, right, 3).item() == pytest.approx(total / count, rel=1e-5)


def test_matching_loss_of_the_truth_is_zero():
    perfect = 50 * torch.eye(16)[None]
    assert matching_loss(perfect, identity(AFFINE), 4) < 1e-6
    outside = identity(AFFINE)
    outside[:, 2] = 5.0  # no match lies inside
    assert matching_loss(perfect, outside, 4) == 0
