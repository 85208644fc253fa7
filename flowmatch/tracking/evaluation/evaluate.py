"""Evaluation of trackers on clips with known truth."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch.imaging import Image
from flowmatch.progress import ProgressCallback
from flowmatch.tracking.baselines import BoxMethod
from flowmatch.tracking.box_tracks import BoxTracks
from flowmatch.tracking.boxes import Boxes
from flowmatch.tracking.evaluation.metrics import (
    SEEN,
    BoxScores,
    LostScores,
    PointScores,
    mean_scores,
    score_boxes,
    score_lost,
    score_points,
)
from flowmatch.tracking.point_tracks import PointTracks
from flowmatch.tracking.synthetic.clips import SIZE, RenderedClip

PointMethod = Callable[[Sequence[Image], NDArray[np.float64]], PointTracks]
"""A tracker: frames and the points ``[N, 2]`` in the first one to their tracks."""


class ClipScores(NamedTuple):
    """Scores of the methods on rendered clips.

    Attributes:
        boxes: Scores by name of the tracker of boxes, over all boxes of all clips.
        points: Scores by name of the tracker of points, means over clips.
        lost: Scores of the marks of lost objects by name of the trackers of boxes that have them.
    """

    boxes: dict[str, BoxScores]
    points: dict[str, PointScores]
    lost: dict[str, LostScores]


def evaluate_clips(
    clips: Iterable[RenderedClip],
    box_methods: Mapping[str, BoxMethod],
    point_methods: Mapping[str, PointMethod],
    progress: ProgressCallback | None = None,
) -> ClipScores:
    """Evaluate trackers on rendered clips.

    Boxes are compared from the second frame on, where at least half of the object is visible.

    Args:
        clips: The clips.
        box_methods: Trackers of boxes by name.
        point_methods: Trackers of points by name.
        progress: Called after each clip, with the stage ``"clips"``.

    Raises:
        ValueError: There is no clip.
    """
    truths: list[Boxes] = []
    shares: list[NDArray[np.float64]] = []
    boxes: dict[str, list[Boxes]] = {name: [] for name in box_methods}
    lost: dict[str, list[NDArray[np.bool_]]] = {}
    points: dict[str, list[PointScores]] = {name: [] for name in point_methods}
    for done, clip in enumerate(clips, 1):
        truth = np.where(clip.shares[..., None] >= SEEN, clip.boxes, np.nan)
        truths.append(truth[1:].reshape(-1, 4))
        shares.append(clip.shares[1:].ravel())
        for name, track in box_methods.items():
            tracked = track(clip.frames, clip.boxes[0])
            boxes[name].append(_boxes_of(tracked)[1:].reshape(-1, 4))
            if isinstance(tracked, BoxTracks):
                lost.setdefault(name, []).append(tracked.lost[1:].ravel())
        for name, follow in point_methods.items():
            tracks = follow(clip.frames, clip.points[0])
            found = tracks.points, tracks.visible
            points[name].append(score_points(*found, clip.points, clip.visible, SIZE))
        if progress is not None:
            progress("clips", done, None)
    if not truths:
        raise ValueError("at least one clip is expected, got none")
    return ClipScores(
        {name: score_boxes(np.concatenate(r), np.concatenate(truths)) for name, r in boxes.items()},
        {name: mean_scores(rows) for name, rows in points.items()},
        {name: score_lost(np.concatenate(r), np.concatenate(shares)) for name, r in lost.items()},
    )


def evaluate_video(
    frames: Sequence[Image], truth: Boxes, methods: Mapping[str, BoxMethod]
) -> dict[str, BoxScores]:
    """Evaluate trackers of boxes on a video of which some boxes are known.

    Args:
        frames: The frames.
        truth: Known boxes, ``[T, N, 4]``, NaN where none is known. An object is tracked from the
            first frame in which its box is known.
        methods: Trackers of boxes by name.

    Raises:
        ValueError: No object has boxes in two frames.
    """
    known: NDArray[np.bool_] = np.asarray(np.isfinite(truth).all(-1))
    starts = {k: int(known[:, k].argmax()) for k in range(truth.shape[1]) if known[:, k].sum() > 1}
    if not starts:
        raise ValueError("an object with known boxes in two frames is expected, got none")
    results: dict[str, list[Boxes]] = {name: [] for name in methods}
    truths: list[Boxes] = []
    for start in sorted(set(starts.values())):
        objects = [k for k, first in starts.items() if first == start]
        truths.append(truth[start + 1 :, objects].reshape(-1, 4))
        for name, track in methods.items():
            tracked = _boxes_of(track(frames[start:], truth[start, objects]))
            results[name].append(tracked[1:].reshape(-1, 4))
    return {
        name: score_boxes(np.concatenate(rows), np.concatenate(truths))
        for name, rows in results.items()
    }


def _boxes_of(tracked: Boxes | BoxTracks) -> Boxes:
    return tracked.boxes if isinstance(tracked, BoxTracks) else tracked
