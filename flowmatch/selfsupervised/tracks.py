"""Tracks of moving objects in a video, by optical flow."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.flow.occlusion import find_occlusion
from flowmatch.imaging import Image, resize
from flowmatch.progress import ProgressCallback
from flowmatch.selfsupervised.boxes import Box, box_iou, crop_box, propagate_box, shape_boxes

FlowFunction = Callable[[Image, Image], NDArray[np.float32]]

FLOW_SIDE = 384  # longer side of the pictures that flow is estimated on, pixels
SLOWEST = 0.5  # least speed of a moving object at that size, pixels per frame
SMALLEST, LARGEST = 80, 0.1  # area of a tracked object: pixels, and share of the picture
MIN_IOU = 0.5  # least overlap of a propagated box with the shape that it is assigned to
MARGIN = 0.1  # margin on each side of a box, relative: flow ends inside the object's outline
NARROWEST = 0.5  # least aspect ratio of a box


@dataclass
class Track:
    """The track of one moving object.

    Attributes:
        frames: Consecutive numbers of the frames.
        boxes: Box ``(x, y, width, height)`` in each frame, pixels.
        patches: Patches ``[S, S, 3]`` uint8 by the number of their frame, for some frames.
    """

    frames: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    patches: dict[int, Image] = field(default_factory=dict)

    def until(self, last: int) -> "Track":
        """Return the track up to and including a frame."""
        count = sum(frame <= last for frame in self.frames)
        kept = {frame: patch for frame, patch in self.patches.items() if frame <= last}
        return Track(self.frames[:count], self.boxes[:count], kept)


@dataclass
class _ActiveTrack:
    """A track that has not ended.

    Attributes:
        track: The track so far.
        box: Current box in the picture that flow is estimated on.
        seen: Number of the last frame in which a shape matched the box.
    """

    track: Track
    box: Box
    seen: int


def find_tracks(
    frames: Iterable[tuple[int, Image]],
    flow: FlowFunction,
    *,
    min_length: int = 12,
    stride: int = 5,
    size: int = 72,
    patience: int = 3,
    progress: ProgressCallback | None = None,
) -> list[Track]:
    """Find objects that move against their background and track them.

    The camera's motion, a homography, is subtracted from the flow; what remains are moving shapes.
    A box around each is propagated by the median flow of its moving pixels, and corrected by the
    shape that it overlaps. A track ends if most of its forward and backward flow is inconsistent,
    if it leaves the picture, or if it has not matched a shape for some frames, which are removed.

    Args:
        frames: Numbers and pictures ``[H, W, 3]``, RGB; a gap in the numbers ends all tracks.
        flow: Function from two pictures to the flow ``[H, W, 2]`` between them.
        min_length: Least number of frames of a track.
        stride: Interval of frames whose patches are kept, those with a multiple as their number.
        size: Side of the square patches in pixels, to which boxes are stretched.
        patience: Number of frames for which a box is propagated without a matching shape.
        progress: Function called after each frame with the number of frames so far.

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
        section 3, with flow instead of their interest points and correlation filter; propagation of
        a box by a median is from Kalal et al., Forward-Backward Error, ICPR 2010.
    """
    if min_length < 2 or stride < 1 or size < 8 or patience < 0:
        raise ValueError(
            "expected min_length >= 2, stride >= 1, size >= 8 and patience >= 0, "
            f"got {min_length}, {stride}, {size} and {patience}"
        )
    done: list[Track] = []
    active: list[_ActiveTrack] = []
    last, before = -1, None
    for count, (number, picture) in enumerate(frames, 1):
        small = resize_for_flow(picture)
        if before is None or number != last + 1:
            done += [item.track.until(item.seen) for item in active]
            active = []
        else:
            forward, backward = flow(before, small), flow(small, before)
            active, ended = _advance(active, forward, backward, number, patience)
            done += ended
            for item in active:
                patch_size = size if number % stride == 0 else 0
                _append_frame(item, number, picture, small.shape, patch_size)
        if progress is not None:
            progress("tracking", count, None)
        last, before = number, small
    done += [item.track.until(item.seen) for item in active]
    return [track for track in done if len(track.frames) >= min_length]


def _advance(
    active: list[_ActiveTrack],
    forward: NDArray[np.float32],
    backward: NDArray[np.float32],
    number: int,
    patience: int,
) -> tuple[list[_ActiveTrack], list[Track]]:
    """Propagate tracks to the next frame, start new ones, and return the active and ended ones."""
    shapes = shape_boxes(moving_shapes(residual_speed(backward)))
    reliable, speed = ~find_occlusion(forward, backward), residual_speed(forward)
    propagated = [(item, propagate_box(item.box, forward, reliable, speed)) for item in active]
    ended = [item.track.until(item.seen) for item, box in propagated if box is None]
    kept = [(item, box) for item, box in propagated if box is not None]
    active = _assign_shapes(kept, shapes, number)
    ended += [item.track.until(item.seen) for item in active if number - item.seen > patience]
    active = [item for item in active if number - item.seen <= patience]
    active += [
        _ActiveTrack(Track(), box, number)
        for box in shapes
        if all(box_iou(box, item.box) == 0 for item in active)
    ]
    return active, ended


def moving_shapes(speed: NDArray[np.float32]) -> NDArray[np.int32]:
    """Segment moving shapes.

    Args:
        speed: Speed relative to the background, ``[H, W]``, pixels per frame.

    Returns:
        ``[H, W]``: 0 for the background, else the number of the shape.

    Example:
        >>> speed = np.zeros((60, 80), np.float32)
        >>> speed[20:40, 30:45] = 3
        >>> shapes = moving_shapes(speed)
        >>> int(shapes.max()), int((shapes > 0).sum())
        (1, 300)
    """
    mask = (speed > SLOWEST).astype(np.uint8)
    mask = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.uint8)
    _, shapes, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    area = stats[:, cv2.CC_STAT_AREA]
    valid = (area >= SMALLEST) & (area <= LARGEST * mask.size)
    valid[0] = False
    renumbered = np.where(valid, np.cumsum(valid), 0).astype(np.int32)
    return np.asarray(renumbered[shapes], np.int32)


def _assign_shapes(
    propagated: list[tuple[_ActiveTrack, Box]], shapes: list[Box], number: int
) -> list[_ActiveTrack]:
    """Correct each propagated box by the shape that it overlaps most; a shape has one box."""
    pairs = sorted(
        ((box_iou(box, shape), i, j) for i, (_, box) in enumerate(propagated)
         for j, shape in enumerate(shapes)),
        reverse=True,
    )  # fmt: skip
    shape_of: dict[int, int] = {}
    for iou, i, j in pairs:
        if iou >= MIN_IOU and i not in shape_of and j not in shape_of.values():
            shape_of[i] = j
    result = []
    for i, (item, box) in enumerate(propagated):
        if i in shape_of:  # the mean of box and shape, because shapes flicker
            shape = shapes[shape_of[i]]
            mean = tuple((a + b) / 2 for a, b in zip(box, shape, strict=True))
            result.append(_ActiveTrack(item.track, (mean[0], mean[1], mean[2], mean[3]), number))
        else:
            result.append(_ActiveTrack(item.track, box, item.seen))
    return result


def residual_speed(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the speed relative to the background, whose flow is fitted by a homography.

    Args:
        flow: Flow ``[H, W, 2]`` in pixels.

    Returns:
        Speed ``[H, W]`` in pixels.

    Example:
        >>> flow = np.full((40, 50, 2), 2, np.float32)  # motion of the camera
        >>> flow[10:20, 10:20] += (3, 4)
        >>> round(float(residual_speed(flow)[15, 15]), 2)
        5.0
    """
    height, width = flow.shape[:2]
    step = max(4, min(height, width) // 24)
    grid = np.stack(np.meshgrid(np.arange(0, width, step), np.arange(0, height, step)), -1)
    points = grid.reshape(-1, 2).astype(np.float32)
    moved = points + flow[::step, ::step].reshape(-1, 2)
    cv2.setRNGSeed(0)  # RANSAC repeats
    matrix = cv2.findHomography(points, moved, cv2.RANSAC, 0.5)[0] if len(points) >= 4 else None
    if matrix is None:
        return np.asarray(np.linalg.norm(flow, axis=2), np.float32)
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    camera_flow = cv2.perspectiveTransform(pixels, matrix) - pixels
    return np.asarray(np.linalg.norm(flow - camera_flow, axis=2), np.float32)


def resize_for_flow(picture: Image) -> Image:
    """Return a picture reduced to `FLOW_SIDE`; never enlarged."""
    scale = FLOW_SIDE / max(picture.shape[:2])
    if scale >= 1:
        return picture
    width, height = (max(16, round(side * scale)) for side in picture.shape[1::-1])
    return resize(picture, (width, height))


def _append_frame(
    active: _ActiveTrack, number: int, picture: Image, shape: tuple[int, ...], size: int
) -> None:
    """Append a frame to a track, and its patch unless `size` is 0."""
    scale = np.array(picture.shape[1::-1]) / shape[1::-1]
    corner, extent = np.array(active.box[:2]), np.array(active.box[2:])
    centre = (corner + extent / 2) * scale
    extent = extent * (1 + 2 * MARGIN)
    extent = np.maximum(extent, NARROWEST * extent.max()) * scale
    x, y = (centre - extent / 2).tolist()
    box = (x, y, float(extent[0]), float(extent[1]))
    active.track.frames.append(number)
    active.track.boxes.append(box)
    if size:
        active.track.patches[number] = crop_box(picture, box, size)
