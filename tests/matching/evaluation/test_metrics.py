"""Figures of matching, against what can be worked out by hand."""

import math

import numpy as np
import pytest

from flowmatch.matching.evaluation.metrics import (
    area_under_precision,
    area_under_recall,
    area_under_roc,
    average_precision,
    corner_error,
    project,
)


def test_projection():
    H = np.array([[2, 0, 1], [0, 1, 0], [0.1, 0, 1]])
    np.testing.assert_allclose(project([(0, 0), (10, 4)], H), [(1, 0), (10.5, 2)])
    np.testing.assert_allclose(project([(10, 4)], -3 * H), [(10.5, 2)])  # of any scale
    assert np.isinf(project([(-20, 4)], H)).all()  # behind the camera
    assert project([], H).shape == (0, 2)


def test_corner_error():
    moved = [[1, 0, 6], [0, 1, -8], [0, 0, 1]]
    assert corner_error(moved, np.eye(3), (40, 60)) == pytest.approx(10)
    # Twice as large: corners move by (0, 0), (59, 0), (0, 39) and both.
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


def test_area_without_pairs():
    assert math.isnan(area_under_recall([], 3))


def test_average_precision_is_a_mean_of_precisions():
    marks = np.random.default_rng(0).random(50) < 0.4
    found, total = 0, 0.0
    for rank, mark in enumerate(marks, start=1):
        if mark:
            found += 1
            total += found / rank
    assert average_precision(marks, found) == pytest.approx(total / found)
    # What was not found counts as missed.
    assert average_precision(marks, 2 * found) == pytest.approx(total / found / 2)
    assert math.isnan(average_precision([], 0))
    assert average_precision([], 3) == 0


def test_areas_of_ranked_marks():
    marks = np.random.default_rng(1).random(60) < 0.3
    wins = [i < j for i in np.flatnonzero(marks) for j in np.flatnonzero(~marks)]
    assert area_under_roc(marks) == pytest.approx(np.mean(wins))
    assert area_under_roc([True, False]) == 1
    assert math.isnan(area_under_roc([True]))
    # Straight lines between (0, 1), (1/2, 1/2), (1/2, 1/3), (1, 1/2).
    assert area_under_precision([False, True, False, True]) == pytest.approx(
        (0 + 1 / 2) / 4 + (1 / 3 + 1 / 2) / 4
    )
    assert area_under_precision([True, True]) == 1
    assert area_under_precision([True, False], 4) == 0.25
    assert area_under_precision([], 4) == 0
    assert math.isnan(area_under_precision([False]))
