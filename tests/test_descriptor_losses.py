"""Losses of pairs of descriptors, against plain loops."""

import math

import pytest
import torch

from flowmatch.descriptor_losses import (
    contrastive_loss,
    contrastive_terms,
    distances,
    hardest_contrastive_loss,
    hinge_loss,
    info_nce_loss,
    row_distances,
    second_order_similarity,
    triplet_loss,
)

N = 9


@pytest.fixture
def pairs():
    """Unit vectors of nine points in two views; two of the points are the same."""
    first = torch.randn(N, 4, dtype=torch.float64)
    second = first + 0.6 * torch.randn(N, 4, dtype=torch.float64)
    same = torch.eye(N, dtype=torch.bool)
    same[2, 5] = same[5, 2] = True
    unit = (torch.nn.functional.normalize(x, dim=1) for x in (first, second))
    return *unit, same


def far(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)))


def negatives(first, second, same, mining):
    """Return the distance to the negative of each pair."""
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


def test_distance_weighted_samples_negatives_at_every_distance():
    """Of many negatives at 1.4, the typical distance, and one at 0.7, the latter is sampled."""
    first = torch.eye(65)[:1].repeat(65, 1)
    close = 1 - 0.7**2 / 2
    second = torch.eye(65)
    second[0] = second[2]
    second[1] = torch.zeros(65)
    second[1, 0], second[1, 1] = close, math.sqrt(1 - close**2)
    same = torch.eye(65, dtype=torch.bool)
    drawn = [triplet_loss(first, second, same, mining="distance-weighted")[1][1] for _ in range(5)]
    others = torch.cat([d[2:] for d in drawn])  # rows 0 and 1 have other positives
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


def test_hardest_contrastive(pairs):
    first, second, same = pairs
    total = 0.0
    for i in range(N):
        closest = min(far(first[i], second[j]) for j in range(N) if not same[i, j])
        total += far(first[i], second[i]) ** 2 + max(0, 0.9 - closest) ** 2
    found, _ = hardest_contrastive_loss(first, second, same, margin=0.9)
    assert found.item() == pytest.approx(total / N / 2, abs=1e-5)


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


def test_shapes_of_labelled_pairs_are_checked():
    a = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"same must be \[3\]"):
        contrastive_loss(a, a, torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"two \[N, D\], got \(3, 4\) and \(2, 4\)"):
        contrastive_loss(a, a[:2], torch.ones(3, dtype=torch.bool))


def test_contrastive_terms_of_tuples():
    """One positive and two negatives per query, as in retrieval."""
    described = torch.tensor([[[0.0, 0.0], [0.6, 0.8], [0.5, 0.0], [3.0, 4.0]]])
    distance = row_distances(described[:, 1:], described[:, :1])
    assert distance.tolist() == [pytest.approx([1.0, 0.5, 5.0])]
    terms = contrastive_terms(distance, torch.arange(3) == 0, margin=0.7)
    assert terms.tolist() == [pytest.approx([0.5, 0.2**2 / 2, 0.0])]


def test_hinge():
    """Hinges of 1 - 0.25 and 1 + 0.5; a score of 2 costs nothing."""
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


def test_distances_have_the_gradients_of_the_expanded_form(pairs):
    """The exact distances replace |x|^2 + |y|^2 - 2xy, with the same gradients away from 0."""
    first, second = (x.clone().requires_grad_() for x in pairs[:2])
    weight = torch.randn(N, N, dtype=torch.float64)
    expanded = first.square().sum(1)[:, None] + second.square().sum(1) - 2 * first @ second.T
    expected = torch.autograd.grad((expanded.sqrt() * weight).sum(), (first, second))
    found = torch.autograd.grad((distances(first, second) * weight).sum(), (first, second))
    torch.testing.assert_close(distances(first, second), expanded.sqrt())
    torch.testing.assert_close(found, expected)


def test_info_nce_ignores_pairs_of_the_same_point(pairs):
    first, second, same = pairs
    total = 0.0
    for a, b in ((first, second), (second, first)):
        for i in range(N):
            others = [j for j in range(N) if j == i or not same[i, j]]
            logits = torch.stack([a[i] @ b[j] for j in others]) / 0.2
            total += (logits.logsumexp(0) - a[i] @ b[i] / 0.2).item()
    found = info_nce_loss(first, second, same, temperature=0.2)
    assert found.item() == pytest.approx(total / N / 2)
