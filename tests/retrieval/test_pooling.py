"""Poolings against their formulas."""

import pytest
import torch
import torch.nn.functional as F

from flowmatch.retrieval import MAC, RMAC, GeM, SPoC
from flowmatch.retrieval.pooling import Square, generalised_mean, rmac_squares


@pytest.fixture
def features():
    return torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(1))


def test_gem_is_the_formula(features):
    expected = features.double().pow(3).mean((2, 3)).pow(1 / 3).float()
    torch.testing.assert_close(GeM()(features), expected)


def test_gem_of_1_is_the_mean_and_of_infinity_the_maximum(features):
    torch.testing.assert_close(generalised_mean(features, 1.0), SPoC()(features))
    # The maximum times a factor between (1/35)^(1/p) and 1.
    torch.testing.assert_close(
        generalised_mean(features, 1000.0), MAC()(features), rtol=5e-3, atol=0
    )
    assert MAC()(features)[1, 2] == features[1, 2].max()


def test_gem_clamps_and_learns():
    pool = GeM(channels=2)
    features = torch.tensor([[[[-1.0, 2.0]], [[1.0, 3.0]]]])
    torch.testing.assert_close(pool(features)[0, 0].item(), (8 / 2) ** (1 / 3))
    pool(features).sum().backward()
    assert (pool.p.grad > 0).all()  # a larger power is closer to the maximum
    torch.autograd.gradcheck(
        generalised_mean,
        (torch.rand(1, 2, 2, 2, dtype=torch.float64, requires_grad=True) + 0.1, 3.0),
    )


def test_rmac_squares_lie_inside_and_overlap():
    assert rmac_squares(6, 6, 2) == [
        Square(0, 0, 6), Square(0, 0, 4), Square(0, 2, 4), Square(2, 0, 4), Square(2, 2, 4)
    ]  # fmt: skip
    for height, width in ((5, 7), (7, 5), (1, 9), (30, 40)):
        squares = rmac_squares(height, width)
        assert all(t >= 0 and t + s <= height for t, _, s in squares)
        assert all(left >= 0 and left + s <= width for _, left, s in squares)
        assert {0, height} <= {t for t, _, _ in squares} | {t + s for t, _, s in squares}
        assert {0, width} <= {t for _, t, _ in squares} | {t + s for _, t, s in squares}
    first = [s.left for s in rmac_squares(30, 48, 1)]
    assert first == [0, 18]  # overlap 12 of 30, the desired 40 %


def authors_squares(height, width, levels=3):
    """Return side and number of regions by the authors' program: steps 2 to 7, overlap 0.4."""
    short, long = min(height, width), max(height, width)
    gaps = [(long - short) / (step - 1) for step in range(2, 8)]
    overlap = [abs((short**2 - short * gap) / short**2 - 0.4) for gap in gaps]
    extra = overlap.index(min(overlap)) + 1 if long > short else 0
    return [(2 * short // (level + 1), level * (level + extra)) for level in range(1, levels + 1)]


def test_rmac_has_the_published_number_of_regions():
    """Tolias et al.: 1 + 4 + 9 of a square map, 20 of VGG's map of a 1024 x 768 image."""
    assert len(rmac_squares(32, 32)) == 14
    assert len(rmac_squares(48, 64)) == len(rmac_squares(64, 48)) == 20
    for size in ((48, 64), (32, 32), (21, 63), (40, 47)):
        squares = rmac_squares(*size)
        for side, count in authors_squares(*size):
            assert sum(square.side == side for square in squares) == count


def test_gem_between_mean_and_maximum(features):
    """GeM rises with p: 1 is the mean, 2 the root mean square, 3 the authors' initial value."""
    pooled = [generalised_mean(features, p) for p in (0.5, 1.0, 2.0, 3.0, 10.0, 100.0)]
    assert all((after > before).all() for before, after in zip(pooled, pooled[1:], strict=False))
    assert (pooled[-1] < MAC()(features)).all()
    torch.testing.assert_close(pooled[2], features.square().mean((2, 3)).sqrt())
    assert GeM().p.tolist() == [3.0]
    # A constant map gives the constant for any exponent.
    flat = torch.full((1, 1, 4, 4), 0.3)
    assert generalised_mean(flat, 7.0).item() == pytest.approx(0.3)


def test_rmac_by_a_plain_loop(features):
    expected = torch.zeros(2, 3)
    for b in range(2):
        for top, left, side in rmac_squares(5, 7):
            part = features[b, :, top : top + side, left : left + side]
            expected[b] += F.normalize(torch.stack([channel.max() for channel in part]), dim=0)
    torch.testing.assert_close(RMAC()(features), expected)


@pytest.mark.parametrize("pool", [GeM(), MAC(), SPoC(), RMAC()])
def test_errors(pool):
    with pytest.raises(ValueError, match=r"\[B, C, h, w\]"):
        pool(torch.rand(2, 3, 4))
    with pytest.raises(ValueError, match="p must be positive"):
        GeM(0)
