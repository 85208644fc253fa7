"""Robust fits: exact matches give their transform, outliers are rejected."""

import numpy as np
import pytest
import torch

from flowmatch.align.fit import best_matches, fit_transform, match_scores
from flowmatch.align.synthetic import Ranges, random_affine, random_thin_plate
from flowmatch.align.transforms import AFFINE, THIN_PLATE, identity, pixel_grid, transform_points

GRID = pixel_grid(16, 16)


def random_theta(kind, seed):
    sample = random_affine if kind == AFFINE else random_thin_plate
    return torch.from_numpy(sample(np.random.default_rng(seed), Ranges(displacement=0.2)))[None]


@pytest.mark.parametrize("kind", [AFFINE, THIN_PLATE])
@pytest.mark.parametrize("seed", range(3))
def test_exact_matches_give_their_transform(kind, seed):
    theta = random_theta(kind, seed)
    fitted = fit_transform(kind, GRID, transform_points(theta, GRID[None]), torch.ones(1, 256))
    # The rest is due to the small weight of the identity prior.
    error = (transform_points(fitted, GRID[None]) - transform_points(theta, GRID[None])).norm(
        dim=-1
    )
    assert error.mean() < (0.001 if kind == AFFINE else 0.03)
    initial = (
        transform_points(identity(kind), GRID[None]) - transform_points(theta, GRID[None])
    ).norm(dim=-1)
    assert error.mean() < initial.mean() / 5


def test_a_third_of_wrong_matches_is_rejected():
    noise = torch.Generator().manual_seed(0)
    theta = random_theta(AFFINE, 5)
    end = transform_points(theta, GRID[None])
    wrong = torch.rand(1, 256, generator=noise) < 0.35
    end[wrong] = torch.rand(int(wrong.sum()), 2, generator=noise) * 2 - 1
    fitted = fit_transform(AFFINE, GRID, end, torch.ones(1, 256))
    error = (transform_points(fitted, GRID[None]) - transform_points(theta, GRID[None])).norm(
        dim=-1
    )
    assert error.mean() < 0.03
    # Plain least squares is far off.
    design = torch.cat([GRID, torch.ones(256, 1)], 1)
    plain = (design @ torch.linalg.lstsq(design, end[0]).solution).sub(
        transform_points(theta, GRID[None])[0]
    )
    assert plain.norm(dim=-1).mean() > 0.1


def test_weights_are_respected():
    end = GRID + torch.tensor([0.25, 0.0])
    end[:200] = 0.0
    weight = torch.ones(1, 256)
    weight[:, :200] = 0.0
    theta = fit_transform(AFFINE, GRID, end[None], weight)
    torch.testing.assert_close(theta[0, [2, 5]], torch.tensor([0.25, 0.0]), atol=0.02, rtol=0)
    neutral = fit_transform(AFFINE, GRID, end[None], torch.zeros(1, 256))
    torch.testing.assert_close(neutral, identity(AFFINE))


def test_best_matches_have_the_same_features():
    features = torch.nn.functional.normalize(
        torch.randn(1, 32, 6, 6, generator=torch.Generator().manual_seed(0)), dim=1
    )
    moved = features.roll(1, dims=3)  # one cell to the right: a third of half an image
    points, weight = best_matches(match_scores(features, moved, 60.0), (6, 6))
    start = pixel_grid(6, 6)
    inside = start[:, 0] < 0.6
    expected = start[inside] + torch.tensor([1 / 3, 0.0])
    torch.testing.assert_close(points[0, inside], expected, atol=1e-3, rtol=0)
    assert weight[0, inside].min() > 0.99


def test_a_match_between_cells_is_interpolated():
    scores = torch.full((1, 4, 1), -20.0)
    scores[0, 1:3] = 3.0
    points, _ = best_matches(scores, (1, 4))
    torch.testing.assert_close(points[0, 0], torch.zeros(2), atol=1e-4, rtol=0)


def test_errors():
    with pytest.raises(ValueError, match="2 x 2 positions"):
        best_matches(torch.zeros(1, 5, 4), (2, 2))
    with pytest.raises(ValueError, match="kind must be"):
        fit_transform(7, GRID, GRID[None], torch.ones(1, 256))
