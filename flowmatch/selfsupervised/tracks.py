"""What moves in a video, followed from frame to frame by optical flow."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.flow.estimate import find_occlusion

Image = NDArray[np.uint8]
FlowFunction = Callable[[Image, Image], NDArray[np.float32]]

FLOW_SIDE = 384  # the longer side of what the flow is estimated on
SLOWEST = 0.5  # pixels a frame, at that size: slower than this nothing moves
SMALLEST, LARGEST = 80, 0.2  # area of what is followed: pixels, and share of the picture
LINKED = 0.6  # of the pixels must come to lie in the next shape, and of those of that one, back
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
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    patches: dict[int, Image] = field(default_factory=dict)

    def continued(self, later: "Track") -> "Track":
        """Return the track that this one and a later one make together."""
        return Track(
            self.frames + later.frames, self.boxes + later.boxes, self.patches | later.patches
        )


def find_tracks(
    frames: Iterable[tuple[int, Image]],
    flow: FlowFunction,
    *,
    shortest: int = 15,
    every: int = 5,
    size: int = 72,
    report: Callable[[int], None] = lambda number: None,
) -> list[Track]:
    """Find what moves against its background and follow it.

    The camera's motion, a homography, is taken off the flow; what remains are shapes that move. A
    shape is linked to one of the next frame if the flow carries most of its pixels there, and the
    flow back carries most of that one's pixels here, pixels not counted whose flow there and back
    disagree. So a track ends where things meet, part, stop or hide: it is cut off early, rather
    than continued on something else.

    Args:
        frames: Numbers and pictures ``[H, W, 3]``, RGB; a number left out ends all tracks.
        flow: Gives the flow ``[H, W, 2]`` from one picture to another.
        shortest: Tracks of fewer frames are left out.
        every: A patch is kept of frames whose number is a multiple of it.
        size: Of patches, square, pixels; boxes are stretched to it.
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
        section 3, with flow in place of their interest points and correlation filter.
    """
    if shortest < 2 or every < 1 or size < 8:
        raise ValueError(
            f"expected shortest >= 2, every >= 1 and size >= 8, got {shortest}, {every} and {size}"
        )
    done: list[Track] = []
    alive: dict[int, Track] = {}
    number, before, shapes = -1, None, None
    for following, picture in frames:
        small = _shrunk(picture)
        if before is None or following != number + 1:
            done += alive.values()
            alive, shapes = {}, None
            number, before, last = following, small, picture
            continue
        there, back = flow(before, small), flow(small, before)
        # The shapes of the last frame by its flow to this one; those of this one by its flow back.
        if shapes is None:
            shapes = moving_shapes(there)
            alive = _seen(shapes, number, last, every, size)
        next_shapes = moving_shapes(back)
        links = link_shapes(shapes, next_shapes, there, back)
        seen = _seen(next_shapes, following, picture, every, size)
        for i, track in alive.items():
            if links.get(i) in seen:
                seen[links[i]] = track.continued(seen[links[i]])
            else:
                done.append(track)
        alive, shapes = seen, next_shapes
        number, before, last = following, small, picture
        report(number)
    done += alive.values()
    return [track for track in done if len(track.frames) >= shortest]


def moving_shapes(flow: NDArray[np.float32]) -> NDArray[np.int32]:
    """Mark what moves against the background.

    Args:
        flow: ``[H, W, 2]`` in pixels.

    Returns:
        ``[H, W]``: 0 for the background, else a number for each shape.

    Example:
        >>> flow = np.zeros((60, 80, 2), np.float32)
        >>> flow[20:40, 30:45] = 3
        >>> shapes = moving_shapes(flow)
        >>> int(shapes.max()), int((shapes > 0).sum())
        (1, 300)
    """
    speed = np.linalg.norm(flow - _of_camera(flow), axis=2)
    moves = (speed > SLOWEST).astype(np.uint8)
    moves = np.asarray(cv2.morphologyEx(moves, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.uint8)
    count, shapes, stats, _ = cv2.connectedComponentsWithStats(moves, connectivity=4)
    area = stats[:, cv2.CC_STAT_AREA]
    wanted = (area >= SMALLEST) & (area <= LARGEST * moves.size)
    wanted[0] = False
    renumbered = np.where(wanted, np.cumsum(wanted), 0).astype(np.int32)
    return np.asarray(renumbered[shapes], np.int32)


def link_shapes(
    first: NDArray[np.int32],
    second: NDArray[np.int32],
    there: NDArray[np.float32],
    back: NDArray[np.float32],
) -> dict[int, int]:
    """Find which shape of one frame is which of the next, by the flow both ways.

    Args:
        first: Numbers of shapes, ``[H, W]``.
        second: Those of the next frame.
        there: Flow ``[H, W, 2]`` from the first frame to the second.
        back: Flow from the second to the first.

    Returns:
        Numbers in `second` by numbers in `first`; one to one.

    Example:
        >>> shapes = np.zeros((40, 40), np.int32)
        >>> shapes[10:20, 10:20] = 1
        >>> flow = np.zeros((40, 40, 2), np.float32)
        >>> link_shapes(shapes, shapes * 2, flow, flow)
        {1: 2}
    """
    forward = _carried(first, second, there, back)
    backward = _carried(second, first, back, there)
    return {i: j for i, j in forward.items() if backward.get(j) == i}


def _carried(
    first: NDArray[np.int32],
    second: NDArray[np.int32],
    there: NDArray[np.float32],
    back: NDArray[np.float32],
) -> dict[int, int]:
    """For each shape the one in which most of its pixels end, if they are enough."""
    occluded = find_occlusion(there, back)
    y, x = np.nonzero(first)
    ends = np.rint(there[y, x] + np.stack([x, y], 1)).astype(int)
    height, width = first.shape
    inside = (ends >= 0).all(1) & (ends[:, 0] < width) & (ends[:, 1] < height) & ~occluded[y, x]
    landed = np.zeros(len(y), np.int64)
    landed[inside] = second[ends[inside, 1], ends[inside, 0]]
    votes = np.zeros((int(first.max()) + 1, int(second.max()) + 1))
    np.add.at(votes, (first[y, x], landed), 1)
    found = {}
    for i in range(1, len(votes)):
        j = int(votes[i, 1:].argmax()) + 1 if votes.shape[1] > 1 else 0
        if j and votes[i, j] >= LINKED * votes[i].sum():
            found[i] = j
    return found


def _of_camera(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """The flow of what does not move itself, by a homography that fits most of the picture."""
    height, width = flow.shape[:2]
    step = max(4, min(height, width) // 24)
    grid = np.stack(np.meshgrid(np.arange(0, width, step), np.arange(0, height, step)), -1)
    points = grid.reshape(-1, 2).astype(np.float32)
    moved = points + flow[::step, ::step].reshape(-1, 2)
    cv2.setRNGSeed(0)  # so that the same call finds the same
    matrix = cv2.findHomography(points, moved, cv2.RANSAC, 0.5)[0] if len(points) >= 4 else None
    if matrix is None:
        return np.zeros_like(flow)
    every = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    found = cv2.perspectiveTransform(every, matrix) - every
    return np.asarray(found, np.float32)


def _shrunk(picture: Image) -> Image:
    scale = FLOW_SIDE / max(picture.shape[:2])
    if scale >= 1:
        return picture
    shape = [max(16, round(side * scale)) for side in picture.shape[1::-1]]
    return np.asarray(cv2.resize(picture, shape, interpolation=cv2.INTER_AREA), np.uint8)


def _seen(
    shapes: NDArray[np.int32], number: int, picture: Image, every: int, size: int
) -> dict[int, Track]:
    """A track of one frame for each shape that the picture shows whole."""
    scale = np.array(picture.shape[1::-1]) / shapes.shape[1::-1]
    found = {}
    for i in range(1, int(shapes.max()) + 1):
        y, x = np.nonzero(shapes == i)
        low, high = np.array([x.min(), y.min()]), np.array([x.max(), y.max()]) + 1
        if low.min() < 1 or (high > np.array(shapes.shape[1::-1]) - 1).any():
            continue  # it is coming in or leaving
        extent = (high - low) * (1 + 2 * MARGIN)
        extent = np.maximum(extent, NARROWEST * extent.max()) * scale
        corner = (low + high) / 2 * scale - extent / 2
        box = (*corner.tolist(), *extent.tolist())
        patches = {number: cut_out(picture, box, size)} if number % every == 0 else {}
        found[i] = Track([number], [box], patches)
    return found


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
