"""Descriptor losses against plain loops."""

import pytest
import torch
from torch.nn import functional as F

from flowmatch.registration.training.losses import (
    hardest_triplet_loss,
    softmax_loss,
)


@pytest.mark.parametrize("placed", [False, True])
def test_hardest_triplet_by_a_loop(placed):
    a, b = F.normalize(torch.randn(2, 12, 5), dim=2)
    positions = 0.2 * torch.rand(12, 3)
    total = 0.0
    for i in range(12):
        wrong = [
            d
            for j in range(12)
            if j != i and not (placed and (positions[i] - positions[j]).norm() < 0.1)
            for d in ((a[i] - b[j]).norm(), (a[j] - b[i]).norm())
        ]
        if wrong:
            total += max(torch.tensor(0.0), 1 + (a[i] - b[i]).norm() - min(wrong))
    loss = hardest_triplet_loss(a, b, positions if placed else None)
    torch.testing.assert_close(loss, total / 12, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("placed", [False, True])
def test_softmax_by_a_loop(placed):
    a, b = F.normalize(torch.randn(2, 12, 5), dim=2).double()
    positions = 0.2 * torch.rand(12, 3)
    total = 0.0
    for i in range(12):
        others = [
            j
            for j in range(12)
            if j == i or not (placed and (positions[i] - positions[j]).norm() < 0.1)
        ]
        for x, y in ((a, b), (b, a)):
            similarities = torch.stack([x[i] @ y[j] for j in others]) / 0.2
            total += similarities.exp().sum().log() - x[i] @ y[i] / 0.2
    loss = softmax_loss(a, b, positions if placed else None, temperature=0.2)
    torch.testing.assert_close(loss.double(), total / 24, rtol=1e-5, atol=1e-5)


def test_shapes_are_checked():
    a = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"two \[N, D\], got \(3, 4\) and \(2, 4\)"):
        hardest_triplet_loss(a, a[:2])
    with pytest.raises(ValueError, match=r"positions must be \[3, 3\]"):
        hardest_triplet_loss(a, a, torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"two \[N, D\]"):
        softmax_loss(a, a[:2])
