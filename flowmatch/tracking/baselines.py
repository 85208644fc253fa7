"""Trackers for comparison: OpenCV's, plain flow, and boxes that stand still."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from flowmatch._opencv import cv2
from flowmatch.flow import FlowOptions, estimate_flow
from flowmatch.imaging import Image, as_gray
from flowmatch.tracking.box_tracks import BoxTracks
from flowmatch.tracking.boxes import SMALLEST, Boxes
from flowmatch.tracking.point_tracks import PointTracks, inside_picture, sample_field

BoxMethod = Callable[[Sequence[Image], Boxes], Boxes | BoxTracks]
"""A tracker: frames and the boxes ``[N, 4]`` in the first one to the boxes ``[T, N, 4]``, or to
tracks, which also say which objects are lost."""

_LK_SIDE, _LK_LEVELS, _LK_RETURN = 21, 3, 1.0  # OpenCV's defaults; error of the round trip, pixels


def still(frames: Sequence[Image], boxes: Boxes) -> Boxes:
    """Return the boxes of the first frame for all frames.

    Example:
        >>> still([np.zeros((9, 9, 3), np.uint8)] * 2, np.ones((1, 4))).shape
        (2, 1, 4)
    """
    return np.repeat(boxes[None], len(frames), 0)


def opencv_mil(frames: Sequence[Image], boxes: Boxes) -> Boxes:
    """Track boxes by OpenCV's TrackerMIL; where it reports a failure, the box stays.

    It is the only tracker of the headless wheel of OpenCV 5 that needs no weights: KCF and CSRT
    are in its contributed modules.

    Reference:
        Babenko, Yang, Belongie, Visual Tracking with Online Multiple Instance Learning, CVPR 2009.
    """
    result = still(frames, boxes).copy()
    for k, box in enumerate(boxes):
        cv2.setRNGSeed(0)
        tracker = cv2.TrackerMIL.create()
        tracker.init(frames[0], tuple(round(value) for value in box.tolist()))
        for t, frame in enumerate(frames[1:], 1):
            found, moved = tracker.update(frame)
            result[t, k] = moved if found else result[t - 1, k]
    return result


def flow_propagation(model: nn.Module, options: FlowOptions) -> BoxMethod:
    """Return a tracker that moves boxes by the flow inside of them (`propagate_box`).

    Args:
        model: Flow network.
        options: Options of the flow.
    """

    def track(frames: Sequence[Image], boxes: Boxes) -> Boxes:
        result = still(frames, boxes).copy()
        for t in range(1, len(frames)):
            flow = estimate_flow(frames[t - 1], frames[t], model=model, options=options)
            for k in range(len(boxes)):
                result[t, k] = propagate_box(result[t - 1, k], flow)
        return result

    return track


def propagate_box(box: Boxes, flow: NDArray[np.float32]) -> Boxes:
    """Move and scale a box ``[4]`` by medians of the flow inside of it.

    Args:
        box: Box in the first frame.
        flow: Flow to the second frame, ``[H, W, 2]``, pixels.

    Returns:
        The box in the second frame; the same box if it has left the picture.

    Example:
        >>> propagate_box(np.array([10.0, 10, 8, 8]), np.full((40, 40, 2), 3, np.float32)).tolist()
        [13.0, 13.0, 8.0, 8.0]

    Reference:
        Kalal, Mikolajczyk, Matas, Forward-Backward Error, ICPR 2010, section 3 (Median Flow).
    """
    share = np.linspace(0.15, 0.85, 10)
    grid = np.stack(np.meshgrid(share, share), -1).reshape(-1, 2)
    points = box[:2] + grid * box[2:] - 0.5
    points = points[inside_picture(points, (flow.shape[0], flow.shape[1]))]
    if len(points) < 2:
        return box
    motion = sample_field(flow, points)
    before, after = _distances(points), _distances(points + motion)
    sides = box[2:] * np.median(after / before)
    sides = sides.clip(SMALLEST, flow.shape[1::-1])
    centre = box[:2] + box[2:] / 2 + np.median(motion, axis=0)
    return np.concatenate([centre - sides / 2, sides])


def _distances(points: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b = np.triu_indices(len(points), 1)
    return np.asarray(np.linalg.norm(points[a] - points[b], axis=1))


def lucas_kanade(frames: Sequence[Image], points: NDArray[np.float64]) -> PointTracks:
    """Track points by OpenCV's pyramidal Lucas-Kanade, from frame to frame, there and back.

    A point is hidden from the frame on in which the way back does not return to within a pixel.

    Args:
        frames: The frames, ``[H, W, 3]``.
        points: Points (x, y) in the first one, ``[N, 2]``.

    Reference:
        Bouguet, Pyramidal Implementation of the Lucas Kanade Feature Tracker, 2000.
    """
    places, visible = [points], [np.ones(len(points), np.bool_)]
    grays = [as_gray(frame) for frame in frames]
    for first, second in zip(grays[:-1], grays[1:], strict=True):
        start = places[-1].astype(np.float32)[:, None]
        ends, there = _lucas_kanade_step(first, second, start)
        back, again = _lucas_kanade_step(second, first, ends)
        returns = np.linalg.norm(back - start, axis=2)[:, 0] <= _LK_RETURN
        found = there & again & returns
        moved = ends[:, 0].astype(np.float64)
        found &= inside_picture(moved, (first.shape[0], first.shape[1]))
        places.append(moved)
        visible.append(visible[-1] & found)
    return PointTracks(np.arange(len(frames)), np.stack(places), np.stack(visible))


def _lucas_kanade_step(
    first: Image, second: Image, points: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return where points ``[N, 1, 2]`` are in the second image, and which were found."""
    ends, status, _ = cv2.calcOpticalFlowPyrLK(
        first,
        second,
        points,
        points.copy(),
        winSize=(_LK_SIDE, _LK_SIDE),
        maxLevel=_LK_LEVELS,
    )
    return np.asarray(ends, np.float32), np.asarray(status)[:, 0] > 0
