"""Losses of pairs of descriptors, against plain loops."""

import math

import pytest
import torch

from flowmatch.descriptor_losses import (
    contrastive_loss,
    distances,
    hinge_loss,
    second_order_similarity,
    triplet_loss,
)

N = 9


@pytest.fixture
def pairs():
    """Unit vectors of nine points in two views, and two points that are one."""
    first = torch.randn(N, 4, dtype=torch.float64)
    second = first + 0.6 * torch.randn(N, 4, dtype=torch.float64)
    same = torch.eye(N, dtype=torch.bool)
    same[2, 5] = same[5, 2] = True
    unit = (torch.nn.functional.normalize(x, dim=1) for x in (first, second))
    return *unit, same


def far(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)))


def negatives(first, second, same, mining):
    """Return the distance to each pair's negative."""
    found = []
    for i in range(N):
        row = [far(first[i], second[j]) for j in range(N) if not same[i, j]]
        column = [far(first[j], second[i]) for j in range(N) if not same[j, i]]
        own = far(first[i], second[i])
        if mining == "hardest":
            found.append(min(row + column))
        else:
            found.append(min((d for d in row if d > own), default=max(row)))
    return found


@pytest.mark.parametrize("mining", ["hardest", "semihard"])
@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_triplets(pairs, mining, margin):
    loss, far_off = triplet_loss(*pairs, mining=mining, margin=margin)
    first, second, same = pairs
    own = [far(a, b) for a, b in zip(first, second, strict=True)]
    other = negatives(first, second, same, mining)
    expected = [max(0, margin + a - b) for a, b in zip(own, other, strict=True)]
    assert loss.item() == pytest.approx(sum(expected) / N, abs=1e-6)
    torch.testing.assert_close(
        far_off, torch.tensor([own, other], dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_distance_weighted_draws_negatives_at_every_distance():
    """Many at 1.4, where most random vectors are, and one at 0.7, which is as rare as welcome."""
    first = torch.eye(65)[:1].repeat(65, 1)
    close = 1 - 0.7**2 / 2
    second = torch.eye(65)
    second[0] = second[2]
    second[1] = torch.zeros(65)
    second[1, 0], second[1, 1] = close, math.sqrt(1 - close**2)
    same = torch.eye(65, dtype=torch.bool)
    drawn = [triplet_loss(first, second, same, mining="distance-weighted")[1][1] for _ in range(5)]
    others = torch.cat([d[2:] for d in drawn])  # rows 0 and 1 have their own positives
    assert (others < 0.8).float().mean() > 0.9  # the inverse of a density that is tiny there
    assert not (others < 0.65).any()
    with pytest.raises(ValueError, match="mining must be one of hardest, .*, got 'all'"):
        triplet_loss(first, second, same, mining="all")


@pytest.mark.parametrize("neighbours", [2, 8])
def test_second_order(pairs, neighbours):
    first, second, same = pairs
    total = 0.0
    for i in range(N):
        near = set()
        for view in (first, second):
            order = sorted((far(view[i], view[j]), j) for j in range(N) if not same[i, j])
            near |= {j for _, j in order[:neighbours]}
        square = sum((far(first[i], first[j]) - far(second[i], second[j])) ** 2 for j in near)
        total += math.sqrt(square)
    found = second_order_similarity(first, second, same, neighbours=neighbours)
    assert found.item() == pytest.approx(total / N, abs=1e-3)
    together = triplet_loss(*pairs, second_order=2.0)[0] - triplet_loss(*pairs)[0]
    assert together.item() == pytest.approx(
        2 * second_order_similarity(first, second, same).item(), abs=1e-9
    )


def test_contrastive(pairs):
    first, second, same = pairs
    total = 0.0
    for i in range(N):
        closest = min(far(first[i], second[j]) for j in range(N) if not same[i, j])
        total += far(first[i], second[i]) ** 2 + max(0, 0.9 - closest) ** 2
    found, _ = contrastive_loss(first, second, same, margin=0.9)
    assert found.item() == pytest.approx(total / N / 2, abs=1e-5)


def test_hinge():
    """1 - 0.25 and 1 + 0.5 are asked for; 2 is right by more than 1."""
    similarity = torch.tensor([0.25, 2.0, 0.5])
    assert hinge_loss(similarity, torch.tensor([True, True, False])).item() == pytest.approx(0.75)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_are_finite_where_patches_coincide(dtype):
    x = torch.nn.functional.normalize(torch.randn(6, 4), dim=1).to(dtype).requires_grad_()
    loss, _ = triplet_loss(x, x, torch.eye(6, dtype=torch.bool), second_order=1.0)
    loss.backward()
    assert x.grad.isfinite().all()
    assert distances(x, x).diagonal().max() < 1e-3


def test_distances_under_autocast_are_those_without(pairs):
    first, second = (x.float() for x in pairs[:2])
    with torch.autocast("cpu", torch.bfloat16):
        found = distances(first, second)
    torch.testing.assert_close(found, distances(first, second))
