"""Metrics of boxes and points, and the evaluation on clips and videos."""

from pathlib import Path

import numpy as np
import pytest

from flowmatch.io import read_frames
from flowmatch.tracking import BoxTracks, PointTracks, track_boxes
from flowmatch.tracking.baselines import still
from flowmatch.tracking.evaluation.evaluate import evaluate_clips, evaluate_video
from flowmatch.tracking.evaluation.metrics import mean_scores, score_boxes, score_lost, score_points
from flowmatch.tracking.files import read_mot
from flowmatch.tracking.synthetic import RenderedClip


def test_success_and_precision():
    truth = [(0, 0, 100, 40), (0, 0, 100, 40), (np.nan,) * 4]
    scores = score_boxes([(0, 0, 100, 20), (100, 0, 100, 40), (0, 0, 1, 1)], truth)
    # An IoU of 0.5 exceeds 0, 0.05, ..., 0.45: 10 of 21 thresholds; the other one none.
    assert scores.success == pytest.approx(10 / 42)
    assert (scores.precision, scores.iou, scores.boxes) == (0.5, 0.25, 2)
    with pytest.raises(ValueError, match=r"must be \[..., 4\] alike"):
        score_boxes(np.zeros((2, 4)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="at least one true box"):
        score_boxes(np.zeros((1, 4)), np.full((1, 4), np.nan))


def test_marks_of_lost_objects_by_hand():
    shares = [0.0, 0.29, 0.3, 0.49, 0.5, 1.0]
    assert score_lost([True, False, True, True, True, False], shares) == (2, 1, 2, 1)
    with pytest.raises(ValueError, match="must be alike"):
        score_lost([True], [0.1, 0.2])


def test_tap_vid_by_hand():
    """Four points in one frame: right, 3 px off, wrongly visible, missed."""
    truth = np.zeros((2, 4, 2))
    points, should = truth.copy(), np.array([[True] * 4, [True, True, False, True]])
    points[1, 1] = (3, 0)
    seen = np.array([[True] * 4, [True, True, True, False]])
    scores = score_points(points, seen, truth, should, (256, 256))
    # Within 1 and 2 px: one right, two false, three true; from 4 px on: two right, one false.
    assert scores.jaccard == pytest.approx((2 * 1 / 5 + 3 * 2 / 4) / 5)
    assert scores.delta == pytest.approx((2 * 2 / 3 + 3 * 1) / 5)
    assert scores.occlusion == 0.5
    half = score_points(points, seen, truth, should, (512, 512))  # 1.5 px of 256
    assert half.delta == pytest.approx((2 / 3 + 4) / 5)
    assert mean_scores([scores, scores]) == pytest.approx(scores)
    with pytest.raises(ValueError, match="points and truth must be"):
        score_points(points[:1], seen[:1], truth[:1], should[:1], (9, 9))


def test_clips(squares):
    frames, truth = squares
    shares = np.ones((8, 2))
    shares[4:, 1] = 0  # hidden: not compared
    points = truth[:, :, :2]
    clip = RenderedClip(tuple(frames), truth, shares, points, np.ones((8, 2), bool))
    lost = shares < 0.3
    lost[1, 0] = True
    tracks = BoxTracks(np.arange(8), truth, np.ones((8, 2), np.float32), lost)
    perfect = {"truth": lambda frames, boxes: tracks, "still": still}
    follow = {"truth": lambda frames, start: PointTracks(np.arange(8), points, clip.visible)}
    calls = []
    scores = evaluate_clips([clip], perfect, follow, lambda *call: calls.append(call))
    assert scores.boxes["truth"].iou == 1 and scores.boxes["truth"].boxes == 7 + 3
    assert scores.boxes["still"].iou < 0.6
    assert scores.points["truth"] == (1, 1, 1)
    assert scores.lost == {"truth": (4, 4, 10, 1)}
    assert calls == [("clips", 1, None)]
    with pytest.raises(ValueError, match="at least one clip"):
        evaluate_clips([], perfect, follow)


def test_a_video_with_boxes_here_and_there(squares):
    frames, truth = squares
    known = np.full_like(truth, np.nan)
    known[[0, 5], 0] = truth[[0, 5], 0]
    known[[2, 4, 7], 1] = truth[[2, 4, 7], 1]
    started = []

    def track(frames, boxes):
        started.append((len(frames), len(boxes)))
        return still(frames, boxes)

    scores = evaluate_video(frames, known, {"still": track})
    assert started == [(8, 1), (6, 1)]
    assert scores["still"].boxes == 1 + 2
    with pytest.raises(ValueError, match="known boxes in two frames"):
        evaluate_video(frames, known[:1], {"still": track})


def test_pedestrians(shared_data):
    """Smoke numbers: six pedestrians, 16 boxes."""
    truth = read_mot(Path(__file__).with_name("vtest_boxes.txt"))
    frames = list(read_frames(shared_data / "video" / "vtest.avi", stop=len(truth)))
    methods = {"network": lambda f, boxes: track_boxes(f, boxes).boxes, "still": still}
    scores = evaluate_video(frames, truth, methods)
    assert scores["network"].boxes == 16
    assert scores["network"].success > 0.6 > 0.1 > scores["still"].success
