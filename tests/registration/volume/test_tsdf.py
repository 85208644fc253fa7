"""TSDF volumes of a ball over a plane, whose distance is known."""

import numpy as np
import pytest

from flowmatch.registration.volume.tsdf import TSDFVolume
from tests.registration.ball import BALL, CAMERA, POSES, SIZE, depth_of, surface_error


@pytest.fixture(scope="module")
def fused():
    volume = TSDFVolume(voxel=0.02)
    for pose in POSES:
        volume.add(depth_of(pose), CAMERA, pose)
    return volume


def test_a_ball_and_a_plane(fused):
    points, normals = fused.surface()
    error, truth = surface_error(points)
    assert np.sqrt((error**2).mean()) < 0.15 * 0.02
    assert np.quantile(np.abs(error), 0.99) < 0.5 * 0.02
    seam = np.abs(np.linalg.norm(points[:, :2] - BALL[:2], axis=1) - 0.25) < 0.15
    cosines = np.einsum("ni,ni->n", normals, truth)[~seam]
    assert np.median(cosines) > 0.995 and np.quantile(cosines, 0.05) > 0.9
    # The upper half of the ball is covered from all sides.
    upper = points[(np.linalg.norm(points - BALL, axis=1) < 0.27) & (points[:, 2] > 0.32)]
    histogram = np.histogram(
        np.arctan2(*(upper - BALL)[:, 1::-1].T), bins=16, range=(-np.pi, np.pi)
    )
    assert histogram[0].min() > 30


def test_noise_averages_out():
    rng = np.random.default_rng(0)
    errors = []
    for count in (1, 12):
        volume = TSDFVolume(voxel=0.02)
        depth = depth_of(POSES[0])
        for _ in range(count):
            volume.add(depth + rng.normal(0, 0.008, SIZE), CAMERA, POSES[0])
        errors.append(np.sqrt((surface_error(volume.surface().points)[0] ** 2).mean()))
    assert errors[1] < 0.65 * errors[0]


def test_the_order_of_images_does_not_matter(fused):
    volume = TSDFVolume(voxel=0.02)
    for pose in POSES[::-1]:
        volume.add(depth_of(pose), CAMERA, pose)
    assert len(volume) == len(fused)
    a, b = (np.sort(v.surface().points[:, 0]) for v in (volume, fused))
    assert len(a) == pytest.approx(len(b), rel=1e-3)
    assert volume.surface(min_weight=1e9).points.shape == (0, 3)


def test_images_without_depth_add_nothing():
    volume = TSDFVolume()
    volume.add(np.full(SIZE, np.nan), CAMERA, np.eye(4))
    assert len(volume) == 0 and volume.surface().normals.shape == (0, 3)


def test_errors():
    with pytest.raises(ValueError, match="truncation of 2 voxels or more.*0.01, 1"):
        TSDFVolume(truncation=1)
    with pytest.raises(ValueError, match="more than 3 blocks of 0.08 m"):
        TSDFVolume(max_blocks=3).add(depth_of(POSES[0]), CAMERA, POSES[0])
    with pytest.raises(ValueError, match="too small"):
        TSDFVolume(voxel=1e-9).add(np.ones((2, 2)), CAMERA, np.eye(4))
    with pytest.raises(ValueError, match="rigid"):
        TSDFVolume().add(np.ones((2, 2)), CAMERA, 2 * np.eye(4))
