"""Normals and local reference frames of known surfaces."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flowmatch.registration import estimate_normals, local_frames


def sphere(count=2000):
    points = np.random.default_rng(0).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_normals_of_a_sphere_are_its_radii():
    points = sphere()
    normals = estimate_normals(points, 0.2)
    # Without a viewpoint they point to the centre.
    assert (np.einsum("ni,ni->n", normals, -points) > 0.98).all()
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)


def test_viewpoint_determines_the_sign():
    points = sphere() + [0, 0, 5]
    normals = estimate_normals(points, 0.2, viewpoint=[0, 0, 0])
    assert (np.einsum("ni,ni->n", normals, -points) > 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_normals_rotate_with_the_cloud(seed):
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.uniform(size=(600, 3)) * size for size in ((1, 1, 0), (0, 1, 1))])
    rotation = Rotation.random(random_state=seed).as_matrix()
    rotated = estimate_normals(points @ rotation.T + 3, 0.15)
    same = np.einsum("ni,ni->n", rotated, estimate_normals(points, 0.15) @ rotation.T)
    assert (same > 0.999).mean() > 0.99


def test_frames_are_rotations_that_rotate_with_the_cloud():
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (3000, 3))
    points[:, 2] = 0.3 * points[:, 0] ** 3 + 0.2 * points[:, 1] ** 2 + 0.1 * points[:, 0]
    keys = points[rng.permutation(3000)[:40]]
    frames = local_frames(points, keys, 0.4)
    np.testing.assert_allclose(
        frames @ frames.transpose(0, 2, 1), np.tile(np.eye(3), (40, 1, 1)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(frames), 1)
    rotation = Rotation.random(random_state=1).as_matrix()
    rotated = local_frames(points @ rotation.T, keys @ rotation.T, 0.4)
    np.testing.assert_allclose(rotated, frames @ rotation.T, atol=1e-9)


def test_z_is_the_normal():
    rng = np.random.default_rng(0)
    plane = rng.uniform(-1, 1, (2000, 3)) * [1, 1, 0.001]
    for side in (1, -1):
        frame = local_frames(plane, [[0.0, 0, 0]], 0.3, sides=[[0.5, 0, side]])[0]
        assert side * frame[2, 2] > 0.999


def test_x_points_to_where_the_surface_leaves_its_plane():
    """A plane with a step in one place: x points there, for either sign of z."""
    rng = np.random.default_rng(0)
    plane = rng.uniform(-1, 1, (4000, 3)) * [1, 1, 0]
    step = rng.uniform(-0.04, 0.04, (200, 3)) + [0.12, 0.09, 0.1]
    for side in (1, -1):
        cloud = np.concatenate([plane, step])
        frame = local_frames(cloud, [[0.0, 0, 0]], 0.3, sides=[[0, 0, side]], neighbours=600)[0]
        np.testing.assert_allclose(frame[0, :2] / np.hypot(*frame[0, :2]), [0.8, 0.6], atol=0.1)


def test_a_plane_has_valid_frames():
    grid = np.stack(np.meshgrid(range(9), range(9), [0.0]), -1).reshape(-1, 3)
    frame = local_frames(grid, grid[40:41], 3)[0]
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-12)


def test_errors():
    with pytest.raises(ValueError, match=r"viewpoint must be \[3\], got \[2\]"):
        estimate_normals(np.zeros((5, 3)), 1, viewpoint=[0, 0])
    with pytest.raises(ValueError, match="radius must be positive"):
        local_frames(np.zeros((5, 3)), np.zeros((1, 3)), 0)
    with pytest.raises(ValueError, match=r"sides must be \[1, 3\], got \[2, 3\]"):
        local_frames(np.zeros((5, 3)), np.zeros((1, 3)), 1, sides=np.ones((2, 3)))
