import pytest
import torch

from flowmatch.selfsupervised.losses import HARDEST, ranking_loss


def plain(first, second, different, margin, negatives):
    """All negatives of each anchor, one by one."""
    ends = [x / x.norm() for x in torch.cat([first, second])]
    N, total, wrong, count = len(first), 0.0, 0, 0
    for a in range(2 * N):
        p = (a + N) % (2 * N)
        found = [n for n in range(2 * N) if different[a % N, n % N]]
        assert len(found) <= negatives
        for n in found:
            apart = (1 - ends[a] @ ends[p]) - (1 - ends[a] @ ends[n])
            total += max(0.0, float(apart) + margin)
            wrong += float(apart) >= 0
            count += 1
    return total / count, wrong / count


def test_equals_a_loop_over_triplets():
    torch.manual_seed(3)
    first, second = torch.randn(2, 4, 6, dtype=torch.float64)
    different = ~torch.eye(4, dtype=torch.bool)
    different[0, 1] = different[1, 0] = False
    expected = plain(first, second, different, 0.5, 6)
    # With as many negatives as there are, none is left to chance.
    for hard in (False, True):
        loss, wrong = ranking_loss(first, second, different, hard, negatives=8)
        if not hard:
            assert loss.item() == pytest.approx(expected[0], rel=1e-5)
            assert wrong.item() == pytest.approx(expected[1])


def test_half_of_the_negatives_are_among_the_hardest():
    # An anchor at 0 degrees, its positive with it; others from 20 degrees on, ten apart.
    N = 8
    angles = torch.deg2rad(torch.tensor([0.0, *range(20, 20 + 10 * (N - 1), 10)]))
    x = torch.stack([angles.cos(), angles.sin()], 1)
    different = torch.zeros(N, N, dtype=torch.bool)
    different[0, 1:] = different[1:, 0] = True
    cosines = [float(x[0] @ x[n]) for n in range(1, N) for _ in range(2)]
    hardest, rest = sorted(cosines)[::-1][:HARDEST], sorted(cosines)[::-1][HARDEST:]
    for seed in range(5):
        torch.manual_seed(seed)
        loss, _ = ranking_loss(x[:1].repeat(N, 1), x, different, True, margin=9, negatives=2)
        assert loss.isfinite()
    # One anchor only: mean over 2 negatives of 9 + cos, one of the hardest, one of the others.
    only = torch.zeros(N, N, dtype=torch.bool)
    only[0, 1:] = True
    possible = {round(9 - 1 + (h + r) / 2, 4) for h in hardest for r in rest}
    for seed in range(5):
        torch.manual_seed(seed)
        loss, _ = ranking_loss(x, x, only, True, margin=9, negatives=2)
        # Both ends of pair 0 are the same anchor; two draws: the mean of two possible values.
        assert any(abs(loss.item() - (a + b) / 2) < 1e-3 for a in possible for b in possible)


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


def test_nothing_to_compare_is_zero():
    x = torch.randn(3, 4, requires_grad=True)
    loss, wrong = ranking_loss(x, x, torch.zeros(3, 3, dtype=torch.bool), True)
    loss.backward()
    assert loss.item() == 0 and wrong.item() == 0 and not x.grad.any()
    with pytest.raises(ValueError, match="different \\[N, N\\] and negatives positive"):
        ranking_loss(x, x, torch.zeros(2, 2, dtype=torch.bool), False)
