"""Losses against plain loops."""

import pytest
import torch
from torch.nn import functional as F

from flowmatch.registration.training.losses import (
    contrastive_loss,
    hardest_triplet_loss,
    softmax_loss,
)


def test_contrastive_by_a_loop():
    a, b = torch.randn(2, 20, 4) / 3
    same = torch.arange(20) % 2 == 0
    total = 0.0
    for x, y, s in zip(a, b, same, strict=True):
        d = (x - y).norm()
        total += 0.5 * (d**2 if s else max(torch.tensor(0.0), 1 - d) ** 2)
    torch.testing.assert_close(contrastive_loss(a, b, same), total / 20)


def test_contrastive_has_gradients_where_descriptors_are_equal():
    a = torch.zeros(2, 3, requires_grad=True)
    contrastive_loss(a, torch.zeros(2, 3), torch.tensor([True, False])).backward()
    assert a.grad.isfinite().all()


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
    found = hardest_triplet_loss(a, b, positions if placed else None)
    torch.testing.assert_close(found, total / 12, rtol=1e-4, atol=1e-4)


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
            alike = torch.stack([x[i] @ y[j] for j in others]) / 0.2
            total += alike.exp().sum().log() - x[i] @ y[i] / 0.2
    found = softmax_loss(a, b, positions if placed else None, temperature=0.2)
    torch.testing.assert_close(found.double(), total / 24, rtol=1e-5, atol=1e-5)


def test_shapes_are_checked():
    a = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"two \[B, D\], got \(3, 4\) and \(2, 4\)"):
        hardest_triplet_loss(a, a[:2])
    with pytest.raises(ValueError, match=r"positions must be \[3, 3\]"):
        hardest_triplet_loss(a, a, torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"two \[B, D\]"):
        softmax_loss(a, a[:2])
    with pytest.raises(ValueError, match=r"same must be \[3\]"):
        contrastive_loss(a, a, torch.ones(2, dtype=torch.bool))
