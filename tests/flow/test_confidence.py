"""Confidence of flows."""

import numpy as np
import pytest
import torch

from flowmatch.flow import FlowOptions, estimate_both_ways, estimate_flow, judge_flow, load
from flowmatch.flow.confidence import judge_rows, shipped_judge
from flowmatch.flow.networks import PyramidNet


@pytest.fixture(scope="module")
def moved(photo):
    """A picture that moves 6 px right and 2 down, and its flow."""
    first, second = photo[60:188, 60:220], np.roll(photo, (2, 6), axis=(0, 1))[60:188, 60:220]
    flow = np.zeros((*first.shape[:2], 2), np.float32) + np.float32([6, 2])
    return first, second, flow


def test_a_right_flow_is_sure_and_a_wrong_one_is_not(moved):
    first, second, flow = moved
    right = judge_flow(first, second, flow, -flow)
    assert right.confidence.shape == right.expected_error.shape == first.shape[:2]
    assert right.confidence.dtype == np.float32
    half = flow.copy()
    half[:, :80] += (7, -4)
    wrong = judge_flow(first, second, half, -flow)
    inside = (slice(8, -8), slice(8, 64))
    assert right.confidence[inside].mean() > 0.8
    assert wrong.confidence[inside].mean() < 0.5
    assert right.expected_error[inside].mean() < 1 < wrong.expected_error[inside].mean()
    other = (slice(8, -8), slice(96, -16))  # where both are right
    assert wrong.confidence[other].mean() > 0.8


def test_unknown_flow_has_no_confidence(moved):
    first, second, flow = moved
    unknown = flow.copy()
    unknown[20:30, 40:50] = np.nan
    judged = judge_flow(first, second, unknown, -flow)
    assert (judged.confidence[20:30, 40:50] == 0).all()
    assert np.isnan(judged.expected_error).sum() == 100
    assert np.isfinite(judged.confidence).all()


def test_tensors_give_tensors(moved):
    first, second, flow = moved
    alone = judge_flow(first, second, flow, -flow).confidence
    parts = [torch.from_numpy(part[None].repeat(2, 0)).movedim(-1, 1) for part in moved]
    batch = judge_flow(*parts, -parts[2]).confidence
    assert batch.shape == (2, *alone.shape)
    np.testing.assert_allclose(batch[1].numpy(), alone, atol=1e-4)


def test_rows_at_a_time_are_nearly_the_whole(moved):
    first, second, flow = (torch.from_numpy(x).movedim(-1, 0)[None].float() for x in moved)
    flow[:, 1] += torch.linspace(-20, 20, 128)[:, None]  # leaves the strips and the frame
    network = shipped_judge("cpu")
    parts = (first / 255, second / 255, flow, -flow)
    whole, strips = (judge_rows(network, *parts, rows).sigmoid() for rows in (None, 48))
    assert (whole - strips).abs().max() < 0.05


def test_estimates_with_confidence(moved):
    network, options = load("pyramid"), FlowOptions("fast")
    settings = {"model": network, "options": options, "confidence": True}
    estimate = estimate_flow(*moved[:2], **settings)
    both = estimate_both_ways(*moved[:2], **settings)
    plain = estimate_both_ways(*moved[:2], model=network, options=options)
    np.testing.assert_array_equal(estimate.flow, both.forward)
    np.testing.assert_array_equal(estimate.confidence, both.confidence)
    expected = judge_flow(*moved[:2], both.forward, both.backward).confidence
    np.testing.assert_array_equal(both.confidence, expected)
    expected = judge_flow(*moved[1::-1], both.backward, both.forward).confidence
    np.testing.assert_array_equal(both.confidence_backward, expected)
    assert plain.confidence is None


def test_other_input_is_refused(moved):
    first, second, flow = moved
    with pytest.raises(ValueError, match=r"flows must have the size of the images"):
        judge_flow(first, second, flow[:-1], -flow)
    with pytest.raises(ValueError, match="must be a FlowConfidence, got PyramidNet"):
        judge_flow(first, second, flow, -flow, model=PyramidNet())
    for model in ("confidence", shipped_judge("cpu")):
        with pytest.raises(ValueError, match="judges flows and gives none"):
            estimate_flow(first, second, model=model)
