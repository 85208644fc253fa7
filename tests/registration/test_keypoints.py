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


def test_far_from_the_origin_nothing_changes():
    points = np.random.default_rng(0).uniform(0, 2, (200, 3))
    there = voxel_down(points + 2.0**20, 0.25)
    np.testing.assert_allclose(there - 2.0**20, voxel_down(points, 0.25), atol=1e-8)


def test_uniform_keypoints_are_a_seeded_choice():
    chosen = uniform_keypoints(np.zeros((100, 3)), 20, seed=3)
    assert len(set(chosen.tolist())) == 20
    assert (np.diff(chosen) > 0).all()
    assert chosen.tolist() == uniform_keypoints(np.zeros((100, 3)), 20, seed=3).tolist()
    assert chosen.tolist() != uniform_keypoints(np.zeros((100, 3)), 20, seed=4).tolist()
    assert uniform_keypoints(np.zeros((5, 3)), 20).tolist() == [0, 1, 2, 3, 4]


def corner():
    """Three faces of a cube that meet at the origin, a point each 5 cm."""
    a, b = (x.ravel() for x in np.meshgrid(*2 * [np.arange(0, 1, 0.05)]))
    o = np.zeros_like(a)
    return np.unique(
        np.concatenate([np.stack(p, 1) for p in ((a, b, o), (o, a, b), (b, o, a))]), axis=0
    )


def test_iss_finds_the_corner_and_no_plane():
    cloud = corner()
    found = cloud[iss_keypoints(cloud, radius=0.3)]
    assert len(found)
    assert np.linalg.norm(found, axis=1).min() < 0.15
    inside = cloud.copy()
    inside[:, 2] = 0  # all of it in a plane
    assert len(iss_keypoints(np.unique(inside, axis=0), radius=0.3)) == 0
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
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_cloud_too_large_names_its_outliers():
    cloud = np.random.default_rng(0).uniform(-1, 1, (999, 3))
    outliers = [[1e6, 0, 0], [0, -1e5, 0]]
    with pytest.raises(ValueError, match=r"e\+06 m: 2 of its 1001 points lie farther than 9\d\.\d"):
        voxel_down(np.concatenate([cloud, outliers]), 0.1)
    with pytest.raises(ValueError, match=r"cloud of 2e\+06 m$"):
        voxel_down([[-1e6, 0, 0], [0, 0, 0], [1e6, 0, 0]], 0.1)


def test_points_beyond_all_measure_are_refused():
    with pytest.raises(ValueError, match="points must be within 1e"):
        voxel_down([[0.0, 0, 0], [1e150, 0, 0]], 1e149)
