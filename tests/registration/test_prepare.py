"""Preparation of scans for registration."""

import numpy as np
import pytest

from flowmatch.registration import MODELS, RegisterOptions
from flowmatch.registration.prepare import (
    choose_voxel,
    describe_scan,
    prepare_scan,
    with_fewer_keypoints,
)


def test_the_number_of_keypoints_is_limited():
    cloud = np.random.default_rng(0).uniform(size=(300, 3))
    network = MODELS["slim"](1, 3)
    few = prepare_scan(cloud, 0.1, RegisterOptions(keypoints=5))
    assert describe_scan(few, network, 0.1).shape == (5, 3)
    assert describe_scan(few, "fpfh", 0.1).shape[0] == 5
    assert describe_scan(prepare_scan(cloud, 0.1), "fpfh", 0.1).shape[0] > 200


def test_a_second_descriptor_describes_fewer_keypoints():
    scan = prepare_scan(np.random.default_rng(0).uniform(size=(3000, 3)), 0.01)
    fewer = with_fewer_keypoints(scan)
    assert len(scan.keypoints) > 2500 and len(fewer.keypoints) == 2000
    assert np.isin(fewer.keypoints, scan.keypoints).all() and (np.diff(fewer.keypoints) > 0).all()
    few = prepare_scan(scan.dense, 0.01, RegisterOptions(keypoints=5))
    np.testing.assert_array_equal(with_fewer_keypoints(few).keypoints, few.keypoints)


def test_an_unknown_descriptor_raises():
    scan = prepare_scan(np.random.default_rng(0).normal(size=(50, 3)), 0.1)
    with pytest.raises(ValueError, match="module or 'fpfh', got 'sift'"):
        describe_scan(scan, "sift", 0.1)


@pytest.mark.parametrize("share", [0.3, 0.5005, 0.9])
@pytest.mark.parametrize("place", [[0, 0, 0], [7, -3, 1e4]])
def test_points_without_a_return_do_not_choose_the_voxel(share, place):
    """A LiDAR gives the origin, or its own position, for each ray without a return."""
    cloud = np.random.default_rng(0).normal(size=(3000, 3)) * [4, 3, 1] + [1, 2, 0]
    missing = np.tile(np.float64(place), (int(3000 * share / (1 - share)), 1))
    scan = np.random.default_rng(1).permutation(np.concatenate([cloud, missing]))
    assert choose_voxel(scan) == pytest.approx(choose_voxel(cloud), rel=0.01)


def test_few_repeats_leave_the_voxel_as_it_was():
    cloud = np.random.default_rng(0).normal(size=(3000, 3))
    spread = np.linalg.norm(cloud - np.median(cloud, axis=0), axis=1)
    assert choose_voxel(cloud) == np.median(spread) / 20
    with pytest.raises(ValueError, match="all in one place"):
        choose_voxel(np.zeros((5000, 3)))
