"""Scores of flows, against numbers computed by hand."""

import math

import numpy as np
import pytest

from flowmatch.flow.evaluation.metrics import (
    FlowScores,
    bootstrap_interval,
    epe_map,
    mean_scores,
    score,
)

NAN = np.nan


def lengths(*rows):
    """Return a flow to the right of these lengths, in pixels."""
    u = np.array(rows, float)
    return np.stack([u, np.zeros_like(u)], axis=2)


def test_epe_map_by_hand():
    flow = [[[3, 4], [1, 1]], [[0, -2], [7, 7]]]
    truth = [[[0, 0], [1, 1]], [[0, 0], [NAN, 0]]]
    errors = epe_map(flow, truth)
    np.testing.assert_array_equal(errors, [[5, 0], [2, NAN]])
    assert errors.dtype == np.float64


@pytest.mark.parametrize("unknown", [(NAN, NAN), (0, NAN), (np.inf, 0), (-np.inf, np.inf)])
def test_an_unknown_truth_never_counts(unknown):
    truth = np.zeros((1, 2, 2))
    truth[0, 1] = unknown
    result = score(lengths([2, 1e6]), truth)
    assert (result.epe, result.pixels) == (2.0, 1)


def test_float32_in_large_pictures_does_not_drift():
    flow = np.full((256, 256, 2), (1000.1, 0), np.float32)
    result = score(flow, np.full_like(flow, (1000.0, 0)))
    assert result.epe == pytest.approx(0.1, abs=1e-4)


def test_score_by_hand():
    truth = lengths([0, 8], [20, 100])
    estimate = lengths([2, 8], [24, 104])  # errors 2, 0, 4, 4; the last is 4 % of its length
    occluded = np.array([[False, True], [False, False]])
    expected = FlowScores(
        epe=2.5,
        fl_all=25.0,
        px1=75.0,
        px3=50.0,
        px5=0.0,
        s0_10=1.0,
        s10_40=4.0,
        s40_plus=4.0,
        matched=10 / 3,
        unmatched=0.0,
        pixels=4,
    )
    np.testing.assert_allclose(score(estimate, truth, occluded=occluded), expected)


def test_limits_are_strictly_above():
    # errors of exactly 1, 3 and 5 px, and one above 3 px that is exactly 5 % of 80 px
    result = score(lengths([1, 3, 5, 84]), lengths([0, 0, 0, 80]))
    assert (result.px1, result.px3, result.px5) == (75.0, 50.0, 0.0)
    assert result.fl_all == 25.0


def test_speeds_of_exactly_10_and_40():
    result = score(lengths([11, 42]), lengths([10, 40]))
    assert math.isnan(result.s0_10)
    assert (result.s10_40, result.s40_plus) == (1.0, 2.0)


def test_valid_and_unknown_scores():
    result = score(lengths([1, 5]), lengths([0, 0]), valid=np.array([[True, False]]))
    assert (result.epe, result.pixels) == (1.0, 1)
    for unknown in (result.s10_40, result.s40_plus, result.matched, result.unmatched):
        assert math.isnan(unknown)


def test_nothing_occluded_has_no_unmatched():
    result = score(lengths([1, 2]), lengths([0, 0]), occluded=np.zeros((1, 2), bool))
    assert result.matched == 1.5
    assert math.isnan(result.unmatched)


def test_mean_weighs_pairs_and_leaves_out_nan():
    large = score(lengths(*[[1] * 10] * 10), lengths(*[[0] * 10] * 10))
    fast = score(lengths([53]), lengths([50]))
    mean = mean_scores([large, fast])
    assert (mean.epe, mean.px1, mean.pixels) == (2.0, 50.0, 101)
    assert (mean.s0_10, mean.s40_plus) == (1.0, 3.0)
    assert math.isnan(mean.s10_40)
    assert isinstance(mean.pixels, int)


def test_mean_of_nothing():
    with pytest.raises(ValueError, match="at least one score"):
        mean_scores([])


@pytest.mark.parametrize(
    ("flow", "truth", "message"),
    [
        (np.zeros((2, 3, 2)), np.zeros((3, 2, 2)), r"same shape .*\[2, 3, 2\] and \[3, 2, 2\]"),
        (np.zeros((2, 2, 3)), np.zeros((2, 2, 3)), "same shape"),
        (np.zeros((2, 2)), np.zeros((2, 2)), "same shape"),
        (lengths([NAN, 0]), lengths([0, 0]), "finite everywhere, got 1 pixels"),
        (lengths([np.inf, NAN]), lengths([0, 0]), "finite everywhere, got 2 pixels"),
        (lengths([NAN, 0]), lengths([NAN, 0]), "finite everywhere, got 1 pixels"),
        (lengths([0, 0]), lengths([NAN, NAN]), "no pixel of .* known flow"),
        (np.zeros((0, 4, 2)), np.zeros((0, 4, 2)), "no pixel"),
    ],
)
def test_refuses_flows(flow, truth, message):
    with pytest.raises(ValueError, match=message):
        score(flow, truth)


@pytest.mark.parametrize("name", ["valid", "occluded"])
@pytest.mark.parametrize("mask", [np.ones((2, 1), bool), np.ones((1, 2), np.uint8)])
def test_refuses_masks(name, mask):
    with pytest.raises(ValueError, match=rf"{name} must be bool \[1, 2\], got"):
        score(lengths([0, 0]), lengths([0, 0]), **{name: mask})


def test_valid_that_leaves_nothing():
    with pytest.raises(ValueError, match="none to compare"):
        score(lengths([0]), lengths([0]), valid=np.zeros((1, 1), bool))


def test_the_bootstrap_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        low, high = bootstrap_interval(rng.exponential(1.0, 60).tolist(), rounds=400, seed=seed)
        hits += low <= 1.0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_bootstrap_interval_of_one_value_is_unknown():
    assert np.isnan(bootstrap_interval([1.0])).all()
    assert np.isnan(bootstrap_interval([1.0, np.nan])).all()
    assert bootstrap_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
