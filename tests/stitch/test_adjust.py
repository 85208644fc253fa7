"""Bundle adjustment of points seen by known cameras."""

import numpy as np
import pytest

from flowmatch.stitch.adjust import MatchedPoints, RotatingCameras, adjust_rotations, adjust_scans

from .conftest import turn

TRUTH = RotatingCameras(
    np.array([480.0, 500, 650, 490]),
    np.stack([turn(0, 1, 0), turn(20, 2, 3), turn(38, -3, -2), turn(20, 15, 0)]),
)
PAIRS = [(0, 1), (1, 2), (0, 3), (1, 3), (2, 3)]


def points_of_rotating_cameras(rng, noise):
    """Return points in both photos of each pair; photos have no borders."""
    parts = []
    for i, j in PAIRS:
        a = rng.uniform(-250, 250, (80, 2))
        rays = np.c_[a, np.full(80, TRUTH.focal[i])] @ TRUTH.rotation[i].T @ TRUTH.rotation[j]
        b = TRUTH.focal[j] * rays[:, :2] / rays[:, 2:]
        parts.append((np.full(80, i), np.full(80, j), a, b + rng.normal(0, noise, b.shape)))
    return MatchedPoints(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def rough_start():
    errors = [turn(3, -4, 2), turn(-5, 2, 1), turn(2, 6, -3), turn(-1, 3, 8)]
    start = [R @ error for R, error in zip(TRUTH.rotation, errors, strict=True)]
    return RotatingCameras(np.full(4, 700.0), np.stack(start))


def angular_errors(cameras):
    """Return angles in degrees between estimated and true rotations, relative to the first."""
    pairs = zip(cameras.rotation, TRUTH.rotation, strict=True)
    errors = [(cameras.rotation[0].T @ R).T @ TRUTH.rotation[0].T @ true for R, true in pairs]
    return np.degrees([np.linalg.norm(E - E.T) / np.sqrt(8) for E in errors])


def test_rotations_without_noise(monkeypatch):
    monkeypatch.setattr("flowmatch.stitch.adjust._SAME_LENS", 0.0)
    matched = points_of_rotating_cameras(np.random.default_rng(0), 0)
    start = rough_start()
    cameras = adjust_rotations(matched, start)
    np.testing.assert_allclose(cameras.focal, TRUTH.focal, rtol=1e-6)
    assert angular_errors(cameras).max() < 1e-5
    np.testing.assert_allclose(cameras.rotation[0], start.rotation[0], atol=1e-12)


def test_rotations_with_noise_and_wrong_matches():
    rng = np.random.default_rng(1)
    matched = points_of_rotating_cameras(rng, 0.5)
    matched.b[::20] += rng.uniform(-40, 40, (20, 2))
    cameras = adjust_rotations(matched, rough_start())
    np.testing.assert_allclose(cameras.focal, TRUTH.focal, rtol=0.01)
    assert angular_errors(cameras).max() < 0.1
    again = adjust_rotations(matched, rough_start())
    np.testing.assert_array_equal(again.rotation, cameras.rotation)


def test_focal_lengths_in_exif_decide_where_matches_do_not():
    """Photos turned about the viewing direction leave the focal length open."""
    rng = np.random.default_rng(0)
    a = rng.uniform(-200, 200, (300, 2))
    c, s = np.cos(0.2), np.sin(0.2)
    b = a @ np.array([[c, s], [-s, c]]) + rng.normal(0, 0.3, a.shape)
    matched = MatchedPoints(np.zeros(300, np.int64), np.ones(300, np.int64), a, b)
    start = RotatingCameras(np.array([900.0, 900]), np.stack([np.eye(3), turn(0, 0, 10)]))
    stated = adjust_rotations(matched, start, np.array([500.0, np.nan]))
    np.testing.assert_allclose(stated.focal, 500, rtol=0.05)
    # A wrong one, of photos that were cropped, does no harm where matches determine it.
    matched = points_of_rotating_cameras(rng, 0.5)
    cameras = adjust_rotations(matched, rough_start(), 2 * TRUTH.focal)
    np.testing.assert_allclose(cameras.focal, TRUTH.focal, rtol=0.01)


def test_scans():
    rng = np.random.default_rng(2)
    truth = []
    for angle, scale, x, y in ((0.0, 1.0, 0, 0), (0.1, 1.1, 300, -20), (-0.05, 0.95, 500, 400)):
        c, s = scale * np.cos(angle), scale * np.sin(angle)
        truth.append(np.array([[c, -s, x], [s, c, y], [0, 0, 1]]))
    parts = []
    for i, j in ((0, 1), (1, 2)):
        a = rng.uniform(0, 800, (60, 2))
        b = np.c_[a, np.ones(60)] @ (np.linalg.inv(truth[j]) @ truth[i]).T
        b[::15, 0] += 25  # wrong matches
        parts.append((np.full(60, i), np.full(60, j), a, b[:, :2]))
    matched = MatchedPoints(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    maps = adjust_scans(matched, 3, 0)
    np.testing.assert_allclose(maps, truth, atol=0.5)
    np.testing.assert_array_equal(maps[0], np.eye(3))
    with pytest.raises(ValueError, match="do not determine the places of all scans"):
        adjust_scans(matched, 4, 0)
