"""Rendered pairs of which it is known whether a registration may be trusted."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from flowmatch.geometry import transform_points
from flowmatch.registration.keypoints import voxel_down
from flowmatch.registration.normals import estimate_normals
from flowmatch.registration.synthetic.cases import (
    CASES,
    symmetric_room,
    thing_on_table,
    turned,
)


def test_a_case_is_repeatable_and_its_truth_lays_the_scans_together():
    case, again = thing_on_table(3, 1), thing_on_table(3, 1)
    np.testing.assert_array_equal(case.source, again.source)
    assert not np.array_equal(case.source[:99], thing_on_table(3, 2).source[:99])
    moved = transform_points(case.truth, voxel_down(case.source, 0.01))
    near = cKDTree(case.target).query(moved)[0]
    assert np.median(near) < 0.005  # of a table of 60 cm and more
    assert np.linalg.norm(case.source.mean(0) - case.target.mean(0)) > 0.1  # no frame is shared


def test_a_symmetric_room_fits_itself_after_half_a_turn():
    case = symmetric_room(3, 0)
    assert case.truth is None
    # The walls are the sides of a box; its centre is in the middle of their distances.
    cloud = voxel_down(case.target, 0.1)
    normals = estimate_normals(cloud, 0.3)
    shares = []
    for axis in _axes_of_walls(normals):
        across = [_middle(cloud @ other) * other for other in _axes_of_walls(normals)]
        centre = np.sum(across, axis=0)
        turn = 2 * np.outer(axis, axis) - np.eye(3)
        turned_cloud = (cloud - centre) @ turn.T + centre
        shares.append(np.mean(cKDTree(cloud).query(turned_cloud)[0] < 0.15))
    assert max(shares) > 0.9


def _axes_of_walls(normals):
    """Return the three directions that most normals have, orthonormal."""
    axes, rest = [], normals
    for _ in range(3):
        counts = (np.abs(rest @ rest[:500].T) > 0.98).sum(0)
        best = rest[counts.argmax()]
        axes.append(best)
        rest = rest[np.abs(rest @ best) < 0.2]
    left, _, right = np.linalg.svd(np.array(axes))
    return left @ right


def _middle(values):
    return (np.quantile(values, 0.002) + np.quantile(values, 0.998)) / 2


def test_both_scans_are_moved_and_the_truth_with_them():
    case = thing_on_table(3, 1)
    again = turned(case, np.random.default_rng(0))
    placed = transform_points(case.truth, case.source)
    replaced = transform_points(again.truth, again.source)
    # Distances between the scans are the same in both frames.
    np.testing.assert_allclose(
        np.linalg.norm(placed[:50] - case.target[:50], axis=1),
        np.linalg.norm(replaced[:50] - again.target[:50], axis=1),
        atol=1e-9,
    )


@pytest.mark.parametrize("kind", ["views of two rooms", "another thing on the table"])
def test_pairs_of_which_no_motion_is_right(kind):
    case = CASES[kind](3, 0)
    assert case.truth is None
    assert min(len(case.source), len(case.target)) > 1000
