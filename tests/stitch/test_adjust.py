"""Bundle adjustment of points whose cameras are known."""

import numpy as np
import pytest

from flowmatch.stitch.adjust import MatchedPoints, RotatingCameras, adjust_rotations, adjust_scans

from .conftest import turn

TRUTH = RotatingCameras(
    np.array([480.0, 500, 650, 490]),
    np.stack([turn(0, 1, 0), turn(20, 2, 3), turn(38, -3, -2), turn(20, 15, 0)]),
)
PAIRS = [(0, 1), (1, 2), (0, 3), (1, 3), (2, 3)]


def seen_by_turning_cameras(rng, noise):
    """Return points in both photos of each pair, whatever the size of the photos."""
    parts = []
    for i, j in PAIRS:
        a = rng.uniform(-250, 250, (80, 2))
        rays = np.c_[a, np.full(80, TRUTH.focal[i])] @ TRUTH.rotation[i].T @ TRUTH.rotation[j]
        b = TRUTH.focal[j] * rays[:, :2] / rays[:, 2:]
        parts.append((np.full(80, i), np.full(80, j), a, b + rng.normal(0, noise, b.shape)))
    return MatchedPoints(*(np.concatenate(some) for some in zip(*parts, strict=True)))


def rough_start():
    offs = [turn(3, -4, 2), turn(-5, 2, 1), turn(2, 6, -3), turn(-1, 3, 8)]
    start = [R @ off for R, off in zip(TRUTH.rotation, offs, strict=True)]
    return RotatingCameras(np.full(4, 700.0), np.stack(start))


def turned_apart(found):
    """Return the angles in degrees between found and true rotations, seen from the first."""
    pairs = zip(found.rotation, TRUTH.rotation, strict=True)
    off = [(found.rotation[0].T @ f).T @ TRUTH.rotation[0].T @ t for f, t in pairs]
    return np.degrees([np.linalg.norm(d - d.T) / np.sqrt(8) for d in off])


def test_rotations_without_noise(monkeypatch):
    monkeypatch.setattr("flowmatch.stitch.adjust._SAME_LENS", 0.0)
    matched = seen_by_turning_cameras(np.random.default_rng(0), 0)
    start = rough_start()
    found = adjust_rotations(matched, start)
    np.testing.assert_allclose(found.focal, TRUTH.focal, rtol=1e-6)
    assert turned_apart(found).max() < 1e-5
    np.testing.assert_allclose(found.rotation[0], start.rotation[0], atol=1e-12)


def test_rotations_with_noise_and_wrong_matches():
    rng = np.random.default_rng(1)
    matched = seen_by_turning_cameras(rng, 0.5)
    matched.b[::20] += rng.uniform(-40, 40, (20, 2))
    found = adjust_rotations(matched, rough_start())
    np.testing.assert_allclose(found.focal, TRUTH.focal, rtol=0.01)
    assert turned_apart(found).max() < 0.1
    again = adjust_rotations(matched, rough_start())
    np.testing.assert_array_equal(again.rotation, found.rotation)


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
    matched = MatchedPoints(*(np.concatenate(some) for some in zip(*parts, strict=True)))
    found = adjust_scans(matched, 3, 0)
    np.testing.assert_allclose(found, truth, atol=0.5)
    np.testing.assert_array_equal(found[0], np.eye(3))
    with pytest.raises(ValueError, match="do not determine the places of all scans"):
        adjust_scans(matched, 4, 0)
