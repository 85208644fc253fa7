"""Metrics of rankings and thresholds, against plain loops and values worked out by hand."""

import math

import numpy as np
import pytest
import torch

from flowmatch.metric_learning.verification import roc
from flowmatch.metrics import area_under_roc, average_precision, fpr_at_recall


def test_fpr95():
    """19 of 20 positives must be accepted: the threshold is the second lowest, 1."""
    alike = [0, *range(1, 20)]
    assert fpr_at_recall(alike, [0.5, 1, 1.5, -3]) == 0.5
    assert fpr_at_recall(alike, [0.5], recall=1.0) == 1.0
    assert np.isnan(fpr_at_recall([], [1.0]))
    with pytest.raises(ValueError, match="0 < recall <= 1, got 0"):
        fpr_at_recall([1.0], [1.0], recall=0)


def test_fpr95_by_a_plain_sweep():
    rng = np.random.default_rng(0)
    positives, negatives = rng.normal(2, 0.5, 400), rng.normal(1, 0.5, 300)
    thresholds = sorted(positives, reverse=True)
    threshold = next(t for t in thresholds if (positives >= t).mean() >= 0.95)
    assert fpr_at_recall(positives, negatives) == (negatives >= threshold).mean()
    assert 0.2 < fpr_at_recall(positives, negatives) < 0.5
    assert math.isnan(fpr_at_recall([1.0], []))
    # The same as the point on the ROC curve of metric learning.
    distances = torch.from_numpy(-np.concatenate([positives, negatives]))
    curve = roc(distances, torch.arange(700) < 400)
    assert fpr_at_recall(positives, negatives) == pytest.approx(curve.false_accept_rate_at())


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
    assert average_precision([False, True, False, True], trapezoids=True) == pytest.approx(
        (0 + 1 / 2) / 4 + (1 / 3 + 1 / 2) / 4
    )
    assert average_precision([True, True], trapezoids=True) == 1
    assert average_precision([True, False], 4, trapezoids=True) == 0.25
    assert average_precision([], 4, trapezoids=True) == 0
    assert math.isnan(average_precision([False], trapezoids=True))


def test_trapezoids_by_hand():
    # Correct at ranks 1 and 3 of two: (1 + 1) / 2 * 1/2 + (1/2 + 2/3) / 2 * 1/2.
    assert average_precision([1, 0, 1], 2, trapezoids=True) == pytest.approx(0.5 + 7 / 24)
    assert average_precision([], 3, trapezoids=True) == 0
    assert math.isnan(average_precision([True], 0, trapezoids=True))
    with pytest.raises(ValueError, match="positives must not be negative, got -1"):
        average_precision([True], -1)
