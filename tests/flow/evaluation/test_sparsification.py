"""Measures of a confidence."""

import numpy as np
import pytest

from flowmatch.flow.evaluation.sparsification import (
    EDGES,
    count_reliability,
    reliability,
    sparsification_error,
)


def test_the_area_by_hand():
    """Errors 0 and 1: the best curve falls from 1/2 to 0 at a half; the worst rises to 1 there."""
    errors = np.array([0.0] * 50 + [1.0] * 50)
    shares = np.arange(1, 101) / 100
    best = np.maximum(shares - 0.5, 0) / shares
    worst = np.minimum(1, 0.5 / shares)
    assert sparsification_error(errors, errors) == 0
    assert sparsification_error(errors, -errors) == pytest.approx((worst - best).mean() / 0.5)


def test_only_the_order_of_the_doubt_matters():
    rng = np.random.default_rng(0)
    errors, doubt = rng.exponential(size=(2, 40, 50))
    area = sparsification_error(errors, doubt)
    assert area > 0
    assert sparsification_error(errors, np.log(doubt)) == pytest.approx(area)
    assert sparsification_error(errors, errors + 0.1 * doubt) < area / 2
    infinite = np.where(doubt > np.median(doubt), np.inf, doubt)
    assert np.isfinite(sparsification_error(errors, infinite))


def test_unknown_errors_do_not_count():
    errors = np.array([3.0, np.nan, 1.0, 2.0])
    assert sparsification_error(errors, [3, 0, 1, 2]) == 0
    assert np.isnan(sparsification_error([np.nan], [1.0]))
    assert sparsification_error(np.zeros(4), np.arange(4)) == 0
    with pytest.raises(ValueError, match="one shape"):
        sparsification_error(np.zeros(4), np.zeros(5))


def test_reliability_pools_the_pixels_of_all_pairs():
    one = count_reliability([[0.5, 2.0], [0.5, np.nan]], [[0.9, 0.92], [1.0, 0.9]])
    other = count_reliability([0.2, 0.2], [0.88, 0.0])
    rows = {(row.low, row.high): row for row in reliability([one, other])}
    assert len(rows) == len(EDGES) - 1
    assert rows[0.85, 0.95][2:] == (3, pytest.approx(2 / 3))
    assert rows[0.95, 1.0][2:] == (1, 1.0)
    assert rows[0.0, 0.15][2:] == (1, 1.0)
    assert np.isnan(rows[0.45, 0.55].within)
