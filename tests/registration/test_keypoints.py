"""Down-sampling and keypoints."""

import numpy as np
import pytest

from flowmatch.registration import iss_keypoints, uniform_keypoints, voxel_down


def test_voxels_are_means_of_their_points():
    rng = np.random.default_rng(0)
    points = rng.uniform(-3, 5, (500, 3))
    cells = np.floor((points - points.min(0)) / 0.7).astype(int)
    expected = [points[(cells == cell).all(1)].mean(0) for cell in np.unique(cells, axis=0)]
    np.testing.assert_allclose(voxel_down(points, 0.7), expected)


def test_precision_far_from_the_origin():
    points = np.random.default_rng(0).uniform(0, 2, (200, 3))
    moved = voxel_down(points + 2.0**20, 0.25)
    np.testing.assert_allclose(moved - 2.0**20, voxel_down(points, 0.25), atol=1e-8)


def test_uniform_keypoints_depend_on_the_seed_only():
    chosen = uniform_keypoints(np.zeros((100, 3)), 20, seed=3)
    assert len(set(chosen.tolist())) == 20
    assert (np.diff(chosen) > 0).all()
    assert chosen.tolist() == uniform_keypoints(np.zeros((100, 3)), 20, seed=3).tolist()
    assert chosen.tolist() != uniform_keypoints(np.zeros((100, 3)), 20, seed=4).tolist()
    assert uniform_keypoints(np.zeros((5, 3)), 20).tolist() == [0, 1, 2, 3, 4]


def corner():
    """Return three faces of a cube that meet at the origin, one point per 5 cm."""
    a, b = (x.ravel() for x in np.meshgrid(*2 * [np.arange(0, 1, 0.05)]))
    o = np.zeros_like(a)
    return np.unique(
        np.concatenate([np.stack(p, 1) for p in ((a, b, o), (o, a, b), (b, o, a))]), axis=0
    )


def test_iss_finds_the_corner_and_not_the_faces():
    cloud = corner()
    keypoints = cloud[iss_keypoints(cloud, radius=0.3)]
    assert len(keypoints)
    assert np.linalg.norm(keypoints, axis=1).min() < 0.15
    plane = cloud.copy()
    plane[:, 2] = 0
    assert len(iss_keypoints(np.unique(plane, axis=0), radius=0.3)) == 0
    assert len(iss_keypoints(cloud, radius=0.3, count=1)) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: voxel_down(np.zeros((3, 2)), 1), r"points must be \[N, 3\], got .*\[3, 2\]"),
        (lambda: voxel_down(np.zeros((3, 3)), 0), "voxel must be positive, got 0"),
        (lambda: voxel_down([[0, 0, 0], [1e9, 0, 0]], 1e-3), "too small for a cloud"),
        (lambda: voxel_down([[np.nan, 0, 0]], 1), "finite"),
        (lambda: iss_keypoints(np.zeros((3, 3)), -1), "radius must be positive"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_error_of_a_large_cloud_counts_its_outliers():
    cloud = np.random.default_rng(0).uniform(-1, 1, (999, 3))
    outliers = [[1e6, 0, 0], [0, -1e5, 0]]
    with pytest.raises(ValueError, match=r"e\+06 m: 2 of its 1001 points lie farther than 9\d\.\d"):
        voxel_down(np.concatenate([cloud, outliers]), 0.1)
    with pytest.raises(ValueError, match=r"cloud of 2e\+06 m$"):
        voxel_down([[-1e6, 0, 0], [0, 0, 0], [1e6, 0, 0]], 0.1)


def test_too_large_coordinates_raise():
    with pytest.raises(ValueError, match="points must be within 1e"):
        voxel_down([[0.0, 0, 0], [1e150, 0, 0]], 1e149)
