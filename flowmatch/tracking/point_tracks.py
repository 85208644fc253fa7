"""Points, tracked through a clip by chained flow."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from flowmatch._opencv import cv2
from flowmatch.flow import FlowOptions, estimate_both_ways
from flowmatch.flow import load as load_flow
from flowmatch.imaging import Image
from flowmatch.progress import ProgressCallback
from flowmatch.tracking.anchors import Anchors
from flowmatch.tracking.clip import clip_length, numbered_frames

Points = NDArray[np.float64]
"""Points (x, y), ``[..., 2]``, pixels; (0, 0) is the centre of the upper left pixel."""
# Tolerance of the round trip by both flows, relative to the squared motion, and absolute in square
# pixels, as in `flowmatch.flow.occlusion`.
_RELATIVE, _ABSOLUTE = 0.01, 0.5
POINT_FLOW = FlowOptions("fast", refine=True)
"""Options of the flow: errors add up from frame to frame, so it is refined below a pixel."""
_SLOWED = 0.8  # factor per frame on the speed of a hidden point


@dataclass(frozen=True)
class PointTracks:
    """N points in T frames.

    Attributes:
        frames: Numbers of the frames, from 0, ``[T]`` int64; a frame that could not be read leaves
            a gap.
        points: Positions (x, y), ``[T, N, 2]`` float64, pixels; a guess while a point is hidden.
        visible: Whether each point is visible, ``[T, N]`` bool.
    """

    frames: NDArray[np.int64]
    points: Points
    visible: NDArray[np.bool_]


def track_points(
    frames: Iterable[Image],
    points: ArrayLike,
    *,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
    options: FlowOptions = POINT_FLOW,
    anchors: bool = True,
    progress: ProgressCallback | None = None,
) -> PointTracks:
    """Track points of the first frame through a clip.

    Each point follows the flow from frame to frame. It is hidden where the flow there and back does
    not return to it, or outside the picture. A hidden point moves on at its last speed, slowing
    down, and is visible again where its descriptor in the first frame is found near that place and
    both frames agree on the exact position (`flowmatch.tracking.anchors`).

    Args:
        frames: The clip: what `flowmatch.io.read_frames` gives, or pictures ``[H, W, 3]``, uint8.
        points: Points (x, y) in the first frame, ``[N, 2]``, pixels.
        model: Flow network: a name of shipped weights, a file of weights, or a network.
        device: Device of the network; None takes a GPU where torch can use one, and leaves a given
            network where it is.
        options: Options of the flow.
        anchors: Whether hidden points are searched by their descriptors; otherwise a point stays
            hidden.
        progress: Called after each frame, with the stage ``"tracking"``.

    Returns:
        The points in all frames, the first one included.

    Raises:
        ValueError: Points are not finite or not in the frame; no frame can be read; frames differ
            in size; or the model is unknown.
        FileNotFoundError: The file of weights does not exist.

    Example:
        >>> clip = [np.zeros((48, 64, 3), np.uint8)] * 2
        >>> track_points(clip, [(20, 20), (30.5, 10)]).points.shape
        (2, 2, 2)

    Reference:
        Chained flow with a forward-backward test: Kalal, Mikolajczyk, Matas, Forward-Backward
        Error, ICPR 2010; Sundaram, Brox, Keutzer, Dense Point Trajectories, ECCV 2010.
    """
    network = load_flow(model, device=device) if not isinstance(model, nn.Module) else model
    tracker: _Tracker | None = None
    numbers, rows = [], []
    for number, image in numbered_frames(frames):
        if tracker is None:
            start = check_points(points, image.shape[:2])
            tracker = _Tracker(network, device, options, image, start, anchors)
        else:
            tracker.step(image)
        numbers.append(number)
        rows.append((tracker.points.copy(), tracker.visible.copy()))
        if progress is not None:
            progress("tracking", len(numbers), clip_length(frames))
    positions, visible = (np.stack(column) for column in zip(*rows, strict=True))
    return PointTracks(np.array(numbers, np.int64), positions, visible)


def check_points(points: ArrayLike, size: tuple[int, int]) -> Points:
    """Return points ``[N, 2]`` as float64.

    Args:
        points: Points (x, y).
        size: Height and width of the picture.

    Raises:
        ValueError: Another shape, or a point that is not finite or not in the picture.

    Example:
        >>> check_points([(1, 2)], (10, 10)).tolist()
        [[1.0, 2.0]]
    """
    try:
        array = np.array(points, np.float64)
    except (TypeError, ValueError):
        raise ValueError("points must be numbers [N, 2]: x, y") from None
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise ValueError(f"points must be [N, 2]: x, y; got {list(array.shape)}")
    outside = ~inside_picture(array, size)  # also where a number is NaN
    if outside.any():
        x, y = array[outside][0].tolist()
        raise ValueError(
            f"points must lie in the frame of {size[1]} x {size[0]} pixels, got {x:g},{y:g}"
        )
    return array


def grid_points(size: tuple[int, int], step: int = 16) -> Points:
    """Return a regular grid of points, half a step from the border.

    Args:
        size: Height and width of the picture.
        step: Distance of neighbouring points, pixels.

    Returns:
        ``[N, 2]``.

    Raises:
        ValueError: `step` is not positive.

    Example:
        >>> grid_points((32, 48)).tolist()[:2]
        [[8.0, 8.0], [24.0, 8.0]]
    """
    if step < 1:
        raise ValueError(f"step must be at least 1, got {step}")
    height, width = size
    y, x = (np.arange(min(step // 2, side - 1), side, step) for side in (height, width))
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).astype(np.float64)


def inside_picture(points: Points, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which points ``[N, 2]`` lie on the pixels of a picture of height and width `size`."""
    limit = np.array(size[::-1]) - 0.5
    return np.asarray(((points >= -0.5) & (points <= limit)).all(-1))


class _Tracker:
    """The state of all points after a frame."""

    def __init__(
        self,
        network: nn.Module,
        device: str | torch.device | None,
        options: FlowOptions,
        image: Image,
        points: Points,
        anchors: bool,
    ) -> None:
        self.network, self.device, self.options = network, device, options
        self.image = image
        self.points = points
        self.visible = np.ones(len(points), np.bool_)
        self.speed = np.zeros_like(points)
        self.hidden_for = np.zeros(len(points), np.int64)  # frames
        self.anchors = Anchors(image, points) if anchors else None

    def step(self, image: Image) -> None:
        """Track all points to the next frame."""
        size = image.shape[0], image.shape[1]
        flows = estimate_both_ways(
            self.image, image, model=self.network, device=self.device, options=self.options
        )
        forward = sample_field(flows.forward, self.points)
        moved = self.points + forward
        back = sample_field(flows.backward, moved)
        error = np.square(forward + back).sum(1)
        motion = np.square(forward).sum(1) + np.square(back).sum(1)
        returns = error <= _RELATIVE * motion + _ABSOLUTE
        tracked = self.visible & returns & inside_picture(moved, size)
        # A point that becomes hidden has moved with the flow, which mostly continues its surface.
        self.speed = np.where(self.visible[:, None], forward, self.speed * _SLOWED)
        self.points = self.points + self.speed
        self.visible = tracked
        self.hidden_for = np.where(tracked, 0, self.hidden_for + 1)
        if self.anchors is not None:
            self._reappear(image, size)
        self.image = image

    def _reappear(self, image: Image, size: tuple[int, int]) -> None:
        assert self.anchors is not None
        hidden = np.flatnonzero(~self.visible)
        places, found = self.anchors.search(
            image, hidden, self.points[hidden], self.hidden_for[hidden]
        )
        found &= inside_picture(places, size)
        again = hidden[found]
        self.points[again] = places[found]
        self.visible[again] = True
        self.speed[again] = 0
        self.hidden_for[again] = 0


def sample_field(field: NDArray[np.float32], points: Points) -> Points:
    """Interpolate a field ``[H, W, 2]`` at points ``[N, 2]``; the border is repeated outside."""
    x, y = (column[:, None] for column in points.astype(np.float32).T)
    values = cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(values, np.float64).reshape(len(points), 2)
