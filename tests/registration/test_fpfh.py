"""FPFH on shapes with known angles, and against plain loops."""

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flowmatch.registration import estimate_normals, fpfh


def grid(side=9):
    x, y = (a.ravel() for a in np.meshgrid(*2 * [np.arange(side, dtype=float)]))
    return np.stack([x, y, np.zeros_like(x)], 1)


def by_loops(points, normals, radius):
    def simplified(i):
        bins = np.zeros((3, 11))
        for j in neighbours(i):
            ends = [(i, j), (j, i)]
            along = [abs(normals[a] @ (points[b] - points[a])) for a, b in ends]
            s, t = ends[0] if along[0] > along[1] or (along[0] == along[1] and i < j) else ends[1]
            d = (points[t] - points[s]) / np.linalg.norm(points[t] - points[s])
            u = normals[s]
            v = np.cross(d, u)
            v = v / max(np.linalg.norm(v), 1e-300)
            w = np.cross(u, v)
            shares = (
                (v @ normals[t] + 1) / 2,
                (u @ d + 1) / 2,
                math.atan2(w @ normals[t], u @ normals[t]) / (2 * math.pi) + 0.5,
            )
            for k, share in enumerate(shares):
                bins[k, min(10, int(11 * share))] += 1
        return bins

    def neighbours(i):
        far = np.linalg.norm(points - points[i], axis=1)
        return [j for j in range(len(points)) if j != i and far[j] <= radius]

    def percent(bins):
        return 100 * bins / np.maximum(bins.sum(1, keepdims=True), 1e-300)

    own = [simplified(i) for i in range(len(points))]
    out = []
    for i in range(len(points)):
        near = [own[j] / np.linalg.norm(points[j] - points[i]) for j in neighbours(i)]
        out.append(percent(percent(own[i]) + percent(sum(near, np.zeros((3, 11))))).ravel())
    return np.array(out)


def test_equals_plain_loops():
    rng = np.random.default_rng(0)
    points, normals = rng.uniform(0, 1, (60, 3)), rng.normal(size=(60, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    np.testing.assert_allclose(
        fpfh(points, normals, 0.4), by_loops(points, normals, 0.4), atol=1e-4
    )


def test_a_plane_has_three_peaks_in_the_central_bins():
    result = fpfh(grid(), np.tile([0.0, 0, 1], (81, 1)), 2.5)
    expected = np.zeros(33)
    expected[[5, 16, 27]] = 100  # all three angles are 0: the central bin of each
    np.testing.assert_allclose(result, np.tile(expected, (81, 1)))


def test_a_sphere_is_the_same_everywhere():
    k = np.arange(1500)
    height = 1 - (2 * k + 1) / 1500
    turn = np.pi * (1 + 5**0.5) * k
    across = np.sqrt(1 - height**2)
    points = np.stack([across * np.cos(turn), across * np.sin(turn), height], 1)
    radius = 0.3
    result = fpfh(points, points, radius)  # the normals of a sphere are its radii
    # On a sphere v is orthogonal to both normals.
    assert (result[:, 5] > 99.9).all()
    # The cosine of normal and chord c is c/2, at most 0.15: bins of cosine -0.15 to 0.
    assert (result[:, 11 + 4] + result[:, 11 + 5] > 99.9).all()
    assert np.abs(result - result.mean(0)).max() < 12


def test_an_edge_differs_from_its_faces():
    a = grid()
    b = a[:, [0, 2, 1]] + [0, 0, 1]
    points = np.concatenate([a, b])
    normals = np.concatenate([np.tile([0.0, 0, 1], (81, 1)), np.tile([0.0, 1, 0], (81, 1))])
    result = fpfh(points, normals, 2.5)
    edge = np.flatnonzero((points[:, 1] < 0.5) & (points[:, 2] < 0.5))
    face = np.flatnonzero((points[:, 1] > 5.5) & (points[:, 0] > 2) & (points[:, 0] < 6))
    assert (result[face][:, [5, 16, 27]] > 99.9).all()
    # A right angle about v: 0.75 or 0.25 of the circle, bins 8 or 2.
    assert (result[edge][:, 22 + 8] + result[edge][:, 22 + 2] > 10).all()


def test_rotation_invariance():
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (800, 3))
    points[:, 2] = 0.3 * np.sin(3 * points[:, 0]) * points[:, 1]
    normals = estimate_normals(points, 0.2, viewpoint=[0, 0, 9])
    rotation = Rotation.random(random_state=0).as_matrix()
    rotated = fpfh(points @ rotation.T + 5, normals @ rotation.T, 0.3)
    assert np.abs(rotated - fpfh(points, normals, 0.3)).max(1).mean() < 0.5


def test_isolated_points_and_errors():
    assert fpfh([[0.0, 0, 0], [9, 9, 9]], np.eye(3)[:2], 1).tolist() == [[0.0] * 33] * 2
    assert fpfh(np.zeros((0, 3)), np.zeros((0, 3)), 1).shape == (0, 33)
    with pytest.raises(ValueError, match=r"normals must be \[2, 3\], got \[3, 3\]"):
        fpfh(np.zeros((2, 3)), np.zeros((3, 3)), 1)
