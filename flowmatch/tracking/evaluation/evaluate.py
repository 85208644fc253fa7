"""Evaluation of trackers on clips with known truth."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch.imaging import Image
from flowmatch.progress import ProgressCallback
from flowmatch.tracking.baselines import BoxMethod
from flowmatch.tracking.boxes import Boxes
from flowmatch.tracking.evaluation.metrics import (
    BoxScores,
    PointScores,
    mean_scores,
    score_boxes,
    score_points,
)
from flowmatch.tracking.point_tracks import PointTracks
from flowmatch.tracking.synthetic.clips import SIZE, RenderedClip

PointMethod = Callable[[Sequence[Image], NDArray[np.float64]], PointTracks]
"""A tracker: frames and the points ``[N, 2]`` in the first one to their tracks."""
SEEN = 0.5
"""Visible share of an object from which on its box is compared."""


class ClipScores(NamedTuple):
    """Scores of the methods on rendered clips.

    Attributes:
        boxes: Scores by name of the tracker of boxes, over all boxes of all clips.
        points: Scores by name of the tracker of points, means over clips.
    """

    boxes: dict[str, BoxScores]
    points: dict[str, PointScores]


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
    boxes: dict[str, list[Boxes]] = {name: [] for name in box_methods}
    points: dict[str, list[PointScores]] = {name: [] for name in point_methods}
    for done, clip in enumerate(clips, 1):
        truth = np.where(clip.shares[..., None] >= SEEN, clip.boxes, np.nan)
        truths.append(truth[1:].reshape(-1, 4))
        for name, track in box_methods.items():
            boxes[name].append(track(clip.frames, clip.boxes[0])[1:].reshape(-1, 4))
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
            tracked = track(frames[start:], truth[start, objects])
            results[name].append(tracked[1:].reshape(-1, 4))
    return {
        name: score_boxes(np.concatenate(rows), np.concatenate(truths))
        for name, rows in results.items()
    }
