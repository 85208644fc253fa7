"""What moves in a video, followed from frame to frame by optical flow."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.flow.occlusion import find_occlusion

Image = NDArray[np.uint8]
FlowFunction = Callable[[Image, Image], NDArray[np.float32]]
Box = tuple[float, float, float, float]  # x, y, width, height

FLOW_SIDE = 384  # the longer side of what the flow is estimated on
SLOWEST = 0.5  # pixels a frame, at that size: slower than this nothing moves
SMALLEST, LARGEST = 80, 0.1  # area of what is followed: pixels, and share of the picture
FOUND_AGAIN = 0.5  # overlap of a carried box and that of a shape, to be the same
RELIABLE = 0.6  # of a box's pixels at least, whose flow there and back agrees
MARGIN = 0.1  # of a box's sides, added on each: flow ends a little inside of what moves
NARROWEST = 0.5  # a box's shorter side, in longer ones


@dataclass
class Track:
    """One thing that moves, in the frames in which it was followed.

    Attributes:
        frames: Their numbers, one after another.
        boxes: ``(x, y, width, height)`` in pixels, one for each frame.
        patches: ``[S, S, 3]`` uint8 by frame, for those frames that were to be kept.
    """

    frames: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    patches: dict[int, Image] = field(default_factory=dict)

    def cut(self, last: int) -> "Track":
        """Return the track up to a frame."""
        count = sum(frame <= last for frame in self.frames)
        kept = {frame: patch for frame, patch in self.patches.items() if frame <= last}
        return Track(self.frames[:count], self.boxes[:count], kept)


@dataclass
class _Live:
    """A track that goes on: its box where flow is estimated, and when a shape was last there."""

    track: Track
    box: Box
    seen: int


def find_tracks(
    frames: Iterable[tuple[int, Image]],
    flow: FlowFunction,
    *,
    shortest: int = 12,
    every: int = 5,
    size: int = 72,
    patience: int = 3,
    report: Callable[[int], None] = lambda number: None,
) -> list[Track]:
    """Find what moves against its background and follow it.

    The camera's motion, a homography, is taken off the flow; what remains are shapes that move. A
    box around each is carried on by the median flow of what moves in it, and set right by the shape
    it then lies on. A track ends where most of its flow there and back disagrees, where it leaves
    the picture, or when it has not lain on a shape of its size for a while: what was followed
    since is left out.

    Args:
        frames: Numbers and pictures ``[H, W, 3]``, RGB; a number left out ends all tracks.
        flow: Gives the flow ``[H, W, 2]`` from one picture to another.
        shortest: Tracks of fewer frames are left out.
        every: A patch is kept of frames whose number is a multiple of it.
        size: Of patches, square, pixels; boxes are stretched to it.
        patience: Frames for which a box is carried without a shape.
        report: Called after each frame with its number.

    Returns:
        Tracks in the order of their ends.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> still = [(number, np.zeros((48, 64, 3), np.uint8)) for number in range(3)]
        >>> find_tracks(still, lambda a, b: np.zeros((*a.shape[:2], 2), np.float32))
        []

    Reference:
        After Wang & Gupta, Unsupervised Learning of Visual Representations using Videos, ICCV 2015,
        section 3, with flow in place of their interest points and correlation filter; carrying a
        box by a median is Kalal et al.'s, Forward-Backward Error, ICPR 2010.
    """
    if shortest < 2 or every < 1 or size < 8 or patience < 0:
        raise ValueError(
            "expected shortest >= 2, every >= 1, size >= 8 and patience >= 0, "
            f"got {shortest}, {every}, {size} and {patience}"
        )
    done: list[Track] = []
    alive: list[_Live] = []
    last, before = -1, None
    for number, picture in frames:
        small = _shrunk(picture)
        if before is None or number != last + 1:
            done += [live.track.cut(live.seen) for live in alive]
            alive = []
        else:
            there, back = flow(before, small), flow(small, before)
            shapes = shape_boxes(moving_shapes(own_speed(back)))
            reliable, speed = ~find_occlusion(there, back), own_speed(there)
            carried = [(live, carry(live.box, there, reliable, speed)) for live in alive]
            done += [live.track.cut(live.seen) for live, box in carried if box is None]
            kept = [(live, box) for live, box in carried if box is not None]
            alive = _set_right(kept, shapes, number)
            done += [live.track.cut(live.seen) for live in alive if number - live.seen > patience]
            alive = [live for live in alive if number - live.seen <= patience]
            alive += [
                _Live(Track(), box, number)
                for box in shapes
                if all(overlap(box, live.box) == 0 for live in alive)
            ]
            for live in alive:
                _record(live, number, picture, small.shape, size if number % every == 0 else 0)
            report(number)
        last, before = number, small
    done += [live.track.cut(live.seen) for live in alive]
    return [track for track in done if len(track.frames) >= shortest]


def moving_shapes(speed: NDArray[np.float32]) -> NDArray[np.int32]:
    """Mark what moves.

    Args:
        speed: ``[H, W]`` in pixels a frame, against the background.

    Returns:
        ``[H, W]``: 0 for the background, else a number for each shape.

    Example:
        >>> speed = np.zeros((60, 80), np.float32)
        >>> speed[20:40, 30:45] = 3
        >>> shapes = moving_shapes(speed)
        >>> int(shapes.max()), int((shapes > 0).sum())
        (1, 300)
    """
    moves = (speed > SLOWEST).astype(np.uint8)
    moves = np.asarray(cv2.morphologyEx(moves, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.uint8)
    count, shapes, stats, _ = cv2.connectedComponentsWithStats(moves, connectivity=4)
    area = stats[:, cv2.CC_STAT_AREA]
    wanted = (area >= SMALLEST) & (area <= LARGEST * moves.size)
    wanted[0] = False
    renumbered = np.where(wanted, np.cumsum(wanted), 0).astype(np.int32)
    return np.asarray(renumbered[shapes], np.int32)


def shape_boxes(shapes: NDArray[np.int32]) -> list[Box]:
    """Give the box of each shape that the picture shows whole.

    Args:
        shapes: Numbers from 1, ``[H, W]``.

    Example:
        >>> shape_boxes(np.pad(np.ones((2, 4), np.int32), 3))
        [(3.0, 3.0, 4.0, 2.0)]
    """
    height, width = shapes.shape
    found = []
    for i in range(1, int(shapes.max()) + 1):
        y, x = np.nonzero(shapes == i)
        left, top, right, bottom = x.min(), y.min(), x.max() + 1, y.max() + 1
        if left > 0 and top > 0 and right < width and bottom < height:  # else it comes or leaves
            found.append((float(left), float(top), float(right - left), float(bottom - top)))
    return found


def carry(
    box: Box,
    flow: NDArray[np.float32],
    reliable: NDArray[np.bool_],
    speed: NDArray[np.float32],
) -> Box | None:
    """Move a box as what is in it moves: by the median flow of the faster half of its pixels.

    Args:
        box: In the first frame.
        flow: ``[H, W, 2]`` from the first frame to the second.
        reliable: Where the flow there and back agrees, ``[H, W]``.
        speed: Against the background, ``[H, W]``.

    Returns:
        The box in the second frame, or None where it leaves the picture or its flow there and back
        disagrees in most places.

    Example:
        >>> flow = np.full((40, 40, 2), 3, np.float32)
        >>> carry((10, 10, 8, 8), flow, np.ones((40, 40), bool), flow[..., 0])
        (13.0, 13.0, 8, 8)
    """
    x, y, width, height = box
    # A quarter of each side is left out: the corners of a box show what is behind.
    columns = slice(round(x + width / 8), max(round(x + 7 * width / 8), round(x + width / 8) + 1))
    rows = slice(round(y + height / 8), max(round(y + 7 * height / 8), round(y + height / 8) + 1))
    good = reliable[rows, columns]
    if good.mean() < RELIABLE:
        return None
    moves, fast = flow[rows, columns][good], speed[rows, columns][good]
    step = np.median(moves[fast >= np.median(fast)], axis=0)
    x, y = x + float(step[0]), y + float(step[1])
    H, W = flow.shape[:2]
    return (x, y, width, height) if 0 <= x <= W - width and 0 <= y <= H - height else None


def overlap(a: Box, b: Box) -> float:
    """Return how much two boxes share: intersection over union.

    Example:
        >>> overlap((0, 0, 2, 1), (1, 0, 2, 1))
        0.3333333333333333
    """
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(w, 0.0) * max(h, 0.0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def _set_right(carried: list[tuple[_Live, Box]], shapes: list[Box], number: int) -> list[_Live]:
    """Give each carried box the shape that it shares most with, if that is enough; one to one."""
    pairs = sorted(
        ((overlap(box, shape), i, j) for i, (_, box) in enumerate(carried)
         for j, shape in enumerate(shapes)),
        reverse=True,
    )  # fmt: skip
    mine: dict[int, int] = {}
    for share, i, j in pairs:
        if share >= FOUND_AGAIN and i not in mine and j not in mine.values():
            mine[i] = j
    found = []
    for i, (live, box) in enumerate(carried):
        if i in mine:  # halfway: shapes flicker
            shape = shapes[mine[i]]
            middle = tuple((a + b) / 2 for a, b in zip(box, shape, strict=True))
            found.append(_Live(live.track, (middle[0], middle[1], middle[2], middle[3]), number))
        else:
            found.append(_Live(live.track, box, live.seen))
    return found


def own_speed(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how fast things move against the background, whose flow is a homography's.

    Args:
        flow: ``[H, W, 2]`` in pixels.

    Returns:
        ``[H, W]`` in pixels.

    Example:
        >>> flow = np.full((40, 50, 2), 2, np.float32)  # the camera's
        >>> flow[10:20, 10:20] += (3, 4)
        >>> round(float(own_speed(flow)[15, 15]), 2)
        5.0
    """
    height, width = flow.shape[:2]
    step = max(4, min(height, width) // 24)
    grid = np.stack(np.meshgrid(np.arange(0, width, step), np.arange(0, height, step)), -1)
    points = grid.reshape(-1, 2).astype(np.float32)
    moved = points + flow[::step, ::step].reshape(-1, 2)
    cv2.setRNGSeed(0)  # so that the same call finds the same
    matrix = cv2.findHomography(points, moved, cv2.RANSAC, 0.5)[0] if len(points) >= 4 else None
    if matrix is None:
        return np.asarray(np.linalg.norm(flow, axis=2), np.float32)
    every = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    of_camera = cv2.perspectiveTransform(every, matrix) - every
    return np.asarray(np.linalg.norm(flow - of_camera, axis=2), np.float32)


def _shrunk(picture: Image) -> Image:
    scale = FLOW_SIDE / max(picture.shape[:2])
    if scale >= 1:
        return picture
    shape = [max(16, round(side * scale)) for side in picture.shape[1::-1]]
    return np.asarray(cv2.resize(picture, shape, interpolation=cv2.INTER_AREA), np.uint8)


def _record(live: _Live, number: int, picture: Image, shape: tuple[int, ...], size: int) -> None:
    """Add a frame to a track, and its patch if it is to have a size."""
    scale = np.array(picture.shape[1::-1]) / shape[1::-1]
    corner, extent = np.array(live.box[:2]), np.array(live.box[2:])
    middle = (corner + extent / 2) * scale
    extent = extent * (1 + 2 * MARGIN)
    extent = np.maximum(extent, NARROWEST * extent.max()) * scale
    x, y = (middle - extent / 2).tolist()
    box = (x, y, float(extent[0]), float(extent[1]))
    live.track.frames.append(number)
    live.track.boxes.append(box)
    if size:
        live.track.patches[number] = cut_out(picture, box, size)


def cut_out(picture: Image, box: tuple[float, float, float, float], size: int) -> Image:
    """Cut a box out and stretch it to a square; beyond the picture its border is repeated.

    Args:
        picture: ``[H, W, 3]``.
        box: ``(x, y, width, height)`` in pixels.
        size: Of the square.

    Returns:
        ``[size, size, 3]``.

    Example:
        >>> cut_out(np.zeros((20, 30, 3), np.uint8), (2.5, 3.0, 10.0, 20.0), 8).shape
        (8, 8, 3)
    """
    x, y, width, height = box
    # First the whole pixels around, shrunk with all of them counting.
    left, top, right, bottom = (round(v) for v in (x, y, x + width, y + height))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    columns = np.clip(np.arange(left, right), 0, picture.shape[1] - 1)
    rows = np.clip(np.arange(top, bottom), 0, picture.shape[0] - 1)
    part = np.ascontiguousarray(picture[rows[:, None], columns])
    how = cv2.INTER_AREA if min(part.shape[:2]) >= size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(part, (size, size), interpolation=how), np.uint8)
