"""Metrics of matching, against values worked out by hand."""

import math

import numpy as np
import pytest

from flowmatch.matching.evaluation.metrics import (
    area_under_recall,
    corner_error,
    project,
)


def test_projection():
    H = np.array([[2, 0, 1], [0, 1, 0], [0.1, 0, 1]])
    np.testing.assert_allclose(project([(0, 0), (10, 4)], H), [(1, 0), (10.5, 2)])
    np.testing.assert_allclose(project([(10, 4)], -3 * H), [(10.5, 2)])  # any scale
    assert np.isinf(project([(-20, 4)], H)).all()  # behind the camera
    assert project([], H).shape == (0, 2)


def test_corner_error():
    moved = [[1, 0, 6], [0, 1, -8], [0, 0, 1]]
    assert corner_error(moved, np.eye(3), (40, 60)) == pytest.approx(10)
    # Scaled by 2: corners move by (0, 0), (59, 0), (0, 39) and both.
    expected = (59 + 39 + math.hypot(59, 39)) / 4
    assert corner_error(np.diag([2, 2, 1]), np.eye(3), (40, 60)) == pytest.approx(expected)
    assert corner_error(None, np.eye(3), (40, 60)) == math.inf
    assert corner_error([[1, 0, 0], [0, 1, 0], [-0.1, 0, 1]], np.eye(3), (40, 60)) == math.inf


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.0], 1.0),
        ([math.inf], 0.0),
        ([6.0], 0.0),
        ([5.0], 0.5),  # a ramp from 0 to 1
        ([0.0, 0.0, math.inf, math.inf], 0.5),
        # To 1/2 at 1, to 1 at 3, then level: (1/4 + 3/2 + 2) / 5.
        ([3.0, 1.0], 0.75),
    ],
)
def test_area_under_recall(errors, expected):
    assert area_under_recall(errors, 5) == pytest.approx(expected)


def test_area_under_recall_without_pairs():
    assert math.isnan(area_under_recall([], 3))
