"""Boxes tracked by the shipped network, lost objects, and bad input."""

import numpy as np
import pytest
import torch
from torch import nn

import flowmatch as fm
from flowmatch.tracking import track_boxes
from flowmatch.tracking.boxes import box_iou


def test_two_squares_are_tracked(squares):
    frames, truth = squares
    calls = []
    tracks = track_boxes(frames, truth[0], progress=lambda *call: calls.append(call))
    assert tracks.boxes.shape == (8, 2, 4) and tracks.frames.tolist() == list(range(8))
    np.testing.assert_array_equal(tracks.boxes[0], truth[0])
    assert box_iou(tracks.boxes, truth).min() > 0.6
    assert not tracks.lost.any() and tracks.scores.min() > 0.5
    assert calls[-1] == ("tracking", 8, 8)


def test_a_hidden_object_is_lost_and_found_again(squares):
    frames, truth = squares
    still = [frames[0]] * 3
    hidden = frames[0].copy()
    hidden[:60, :60] = frames[0][30:90, 60:120]
    tracks = track_boxes([*still, hidden, hidden, *still], truth[0])
    assert tracks.lost[:, 0].tolist() == [False] * 3 + [True] * 2 + [False] * 3
    assert not tracks.lost[:, 1].any()
    assert box_iou(tracks.boxes[-1], truth[0]).min() > 0.6


def test_an_object_that_leaves_is_lost(squares):
    frames, truth = squares
    moved = [np.roll(frames[0], shift, axis=1) for shift in range(0, -60, -6)]
    for frame in moved[2:]:
        frame[:, 100:] = 80
    tracks = track_boxes(moved, truth[0][0])
    assert not tracks.lost[:2, 0].any() and tracks.lost[-1, 0]


def test_the_same_network_gives_the_same_boxes(squares, tiny):
    frames, truth = squares
    one = track_boxes(frames[:3], truth[0], model=tiny)
    alone = track_boxes(frames[:3], truth[0][1], model=tiny)
    np.testing.assert_allclose(one.boxes[:, 1], alone.boxes[:, 0], atol=1e-3)
    assert np.isfinite(one.boxes).all()


def test_bad_input(squares, tiny):
    frames, truth = squares
    with pytest.raises(ValueError, match="a box must lie in the frame of 160 x 96 pixels"):
        track_boxes(frames, (150, 0, 20, 20), model=tiny)
    with pytest.raises(ValueError, match="frame 1 must be 160 x 96 pixels like the first"):
        track_boxes([frames[0], frames[1][:50]], truth[0], model=tiny)
    with pytest.raises(ValueError, match="a clip of at least one frame is expected"):
        track_boxes([], truth[0], model=tiny)
    with pytest.raises(ValueError, match="must be a network that tracks boxes, got Identity"):
        track_boxes(frames, truth[0], model=nn.Identity())
    with pytest.raises(ValueError, match="no weights named 'x' ship"):
        track_boxes(frames, truth[0], model="x")


def test_shipped_weights_have_a_network(tmp_path):
    network = fm.load("tracking/default")
    assert sum(p.numel() for p in network.parameters()) < 1_000_000
    crops = torch.rand(2, 3, 80, 80)
    code, logits = network(crops, crops)
    assert code.abs().max() < 0.2 and logits.min() > 0
    fm.tracking.save_weights(tmp_path / "w.safetensors", network, "box-regression")
    assert fm.load(tmp_path / "w.safetensors")(crops, crops)[0].allclose(code, atol=1e-3)
