import pytest
import torch

from flowmatch.selfsupervised.losses import HARDEST, ranking_loss, sample_negatives


def plain(first, second, different, margin, negatives):
    """Return the loss with all negatives of each anchor, by loops."""
    ends = [x / x.norm() for x in torch.cat([first, second])]
    N, total, wrong, count = len(first), 0.0, 0, 0
    for a in range(2 * N):
        p = (a + N) % (2 * N)
        others = [n for n in range(2 * N) if different[a % N, n % N]]
        assert len(others) <= negatives
        for n in others:
            violation = (1 - ends[a] @ ends[p]) - (1 - ends[a] @ ends[n])
            total += max(0.0, float(violation) + margin)
            wrong += float(violation) >= 0
            count += 1
    return total / count, wrong / count


def test_equals_a_loop_over_triplets():
    torch.manual_seed(3)
    first, second = torch.randn(2, 4, 6, dtype=torch.float64)
    different = ~torch.eye(4, dtype=torch.bool)
    different[0, 1] = different[1, 0] = False
    expected = plain(first, second, different, 0.5, 6)
    # All negatives are used, so that sampling has no effect.
    loss, wrong = ranking_loss(first, second, different, False, negatives=8)
    assert loss.item() == pytest.approx(expected[0], rel=1e-5)
    assert wrong.item() == pytest.approx(expected[1])


def test_half_of_the_negatives_are_among_the_hardest():
    torch.manual_seed(1)
    x = torch.nn.functional.normalize(torch.randn(12, 3), dim=1)
    cosine = x @ x.T
    different = torch.rand(6, 6) < 0.8
    different = (different & different.T & ~torch.eye(6, dtype=torch.bool)).repeat(2, 2)
    seen = set()
    for _ in range(20):
        for a, row in enumerate(sample_negatives(cosine, different, 4, hard=True).tolist()):
            allowed = [n for n in range(12) if different[a, n]]
            hardest = sorted(allowed, key=lambda n: -cosine[a, n])[:HARDEST]
            assert len(set(row)) == 4 and all(n in hardest for n in row[:2])
            others = [n for n in row[2:] if n in allowed]
            assert not set(others) & set(hardest)
            assert len(others) == min(2, len(allowed) - len(hardest))
            seen |= {(a, hardest.index(n)) for n in row[:2]}
        for a, row in enumerate(sample_negatives(cosine, different, 4, hard=False).tolist()):
            sampled = [n for n in row if different[a, n]]
            assert len(set(row)) == 4 and len(sampled) == min(4, int(different[a].sum()))
    # Every one of the four nearest is sampled.
    assert len(seen) == int(different.sum(1).clamp(max=HARDEST).sum())


def test_gradient_pulls_pairs_together():
    torch.manual_seed(0)
    first, second = torch.randn(2, 6, 4, dtype=torch.float32).requires_grad_().unbind()
    different = ~torch.eye(6, dtype=torch.bool)
    loss, wrong = ranking_loss(first, second, different, True)
    grad = torch.autograd.grad(loss, (first, second))
    after, _ = ranking_loss(
        first - 0.05 * grad[0], second - 0.05 * grad[1], different, False, negatives=12
    )
    before, _ = ranking_loss(first, second, different, False, negatives=12)
    assert after < before and not wrong.requires_grad


def test_a_blank_patch_has_no_gradient():
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    x[0] = 0
    x.requires_grad_()
    torch.manual_seed(0)
    ranking_loss(x[:3], x[3:], ~torch.eye(3, dtype=torch.bool), False)[0].backward()
    assert not x.grad[0].any() and 0 < x.grad.abs().max() < 10
    with pytest.raises(ValueError, match="different must be a tensor, got list"):
        ranking_loss(x[:3], x[3:], [[False] * 3] * 3, False)


def test_the_loss_of_a_batch_without_negatives_is_0():
    x = torch.randn(3, 4, requires_grad=True)
    loss, wrong = ranking_loss(x, x, torch.zeros(3, 3, dtype=torch.bool), True)
    loss.backward()
    assert loss.item() == 0 and wrong.item() == 0 and not x.grad.any()
    with pytest.raises(ValueError, match="different \\[N, N\\] and negatives positive"):
        ranking_loss(x, x, torch.zeros(2, 2, dtype=torch.bool), False)
