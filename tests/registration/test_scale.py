"""Estimation of the scale between two scans."""

import numpy as np
import pytest
import torch

from flowmatch.geometry import transform_points
from flowmatch.registration import RegisterOptions, ransac, register_many, register_scans
from flowmatch.registration.ransac import fit_similarity
from flowmatch.registration.scale import refine_scale, scale_of
from tests.registration.scenes import motion, part, room


def similarity(scale, seed):
    matrix = motion(seed)
    matrix[:3, :3] *= scale
    return matrix


@pytest.mark.parametrize("scale", [0.02, 1.0, 1000.0])
def test_a_similarity_is_fitted_exactly(scale):
    points = np.random.default_rng(0).normal(size=(5, 9, 3))
    truth = similarity(scale, 1)
    target = points @ truth[:3, :3].T + truth[:3, 3]
    fitted = fit_similarity(torch.from_numpy(points), torch.from_numpy(target)).numpy()
    np.testing.assert_allclose(fitted, np.stack([truth] * 5), atol=1e-9 * max(scale, 1))


def test_ransac_finds_a_scale_among_wrong_correspondences():
    rng = np.random.default_rng(0)
    source = rng.uniform(0, 4, (300, 3))
    truth = similarity(1.3, 2)
    target = transform_points(truth, source)
    target[60:] = rng.uniform(target.min(0), target.max(0), (240, 3))
    (result,) = ransac(source, target, 0.05, max_scale=1.5)
    np.testing.assert_allclose(result.motion, truth, atol=1e-9)
    assert result.inliers[:60].all() and result.inliers.sum() < 65
    assert ransac(source, target, 0.05)[0].inliers.sum() < 30  # no rigid motion
    with pytest.raises(ValueError, match="max_scale must be 1 or more, got 0.5"):
        ransac(source, target, 0.05, max_scale=0.5)


def test_icp_refines_the_scale_of_a_room_but_not_of_a_corner():
    cloud = room()
    first, second = part(cloud, 0, 3, 0), part(cloud, 0.5, 4, 1)
    wrong = np.diag([1.02, 1.02, 1.02, 1.0])
    fit = refine_scale(first, second, wrong, 0.06)
    assert fit.scale == pytest.approx(1, abs=1e-3)
    assert scale_of(fit.motion) == fit.scale
    assert fit.freedom > 0.002
    assert abs(fit.scale - 1) < fit.error < 0.01  # residuals of 5 mm, a room of 3 m
    noise = np.random.default_rng(1).normal(size=first.shape)
    assert refine_scale(first + 0.02 * noise, second, wrong, 0.06).error > 1.5 * fit.error
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 1, (3, 2000, 3))
    for axis in range(3):
        corner[axis, :, axis] = 0
    corner = corner.reshape(-1, 3) + 0.002 * rng.normal(size=(6000, 3))
    assert refine_scale(corner[::2], corner[1::2], np.eye(4), 0.1).freedom < 0.001


def test_scans_in_metres_and_of_unknown_scale():
    cloud = room()
    first, second = part(cloud, 0, 2.8, 0), part(cloud, 0.8, 4, 1)
    truth = motion(3)
    options = RegisterOptions(scale=True)
    result = register_scans(
        first / 0.37, transform_points(truth, second), model="fpfh", options=options
    )
    assert result.trusted, result.reason
    assert result.scale == pytest.approx(0.37, rel=2e-3)
    np.testing.assert_allclose(scale_of(result.motion), result.scale)
    assert abs(result.scale / 0.37 - 1) < result.scale_error < 0.02
    assert f"scale {result.scale:.6g} within {result.scale_error:.1%}" in result.reason
    moved = transform_points(result.motion, first / 0.37)
    off = np.linalg.norm(moved - transform_points(truth, first), axis=1)
    assert np.median(off) < 0.005
    inliers = result.correspondences[result.inliers]
    off = transform_points(result.motion, inliers[:, 0]) - inliers[:, 1]
    assert np.linalg.norm(off, axis=1).max() < 3 * result.voxel


def test_what_fixes_the_scale_excludes_it():
    cloud, options = room(), RegisterOptions(scale=True)
    with pytest.raises(ValueError, match="an initial motion fixes the scale"):
        register_scans(cloud, cloud, model="fpfh", options=options, initial=np.eye(4))
    with pytest.raises(ValueError, match="for two scans, not for several"):
        register_many([cloud] * 3, model="fpfh", options=options)
