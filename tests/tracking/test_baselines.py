"""Trackers for comparison."""

import numpy as np

from flowmatch.flow import FlowOptions, load
from flowmatch.tracking.baselines import (
    flow_propagation,
    lucas_kanade,
    opencv_mil,
    propagate_box,
    still,
)
from flowmatch.tracking.boxes import box_iou


def test_a_box_moves_and_grows_with_the_flow():
    y, x = np.mgrid[:60, :80].astype(np.float32)
    flow = np.stack([0.1 * (x - 29.5) + 2, 0.1 * (y - 29.5)], -1)
    flow[30:32] += 50  # outliers
    box = propagate_box(np.array([20.0, 20, 20, 20]), flow)
    np.testing.assert_allclose(box, [21, 19, 22, 22], atol=0.3)
    outside = np.array([200.0, 20, 20, 20])
    np.testing.assert_array_equal(propagate_box(outside, flow), outside)


def test_trackers_of_boxes(squares):
    frames, truth = squares
    last = truth[-1]
    assert box_iou(still(frames, truth[0])[-1], last).max() < 0.3
    # MIL's result depends on the processor.
    methods = ((opencv_mil, 0.5), (flow_propagation(load(), FlowOptions("fast")), 0.7))
    for track, least in methods:
        tracks = track(frames, truth[0])
        assert tracks.shape == truth.shape
        assert box_iou(tracks[-1], last).min() > 0.3
        assert box_iou(tracks[-1], last).max() > least


def test_lucas_kanade(squares):
    frames, truth = squares
    start = truth[0, :, :2] + 11.5
    tracks = lucas_kanade(frames, start)
    np.testing.assert_allclose(tracks.points, truth[:, :, :2] + 11.5, atol=0.3)
    assert tracks.visible.all()
    gone = lucas_kanade([frames[0], np.zeros_like(frames[0])], start)
    assert gone.visible.tolist() == [[True, True], [False, False]]
