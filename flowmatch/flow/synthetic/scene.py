"""Scenes of flat layers that move: pictures of them at any time, and the exact flow between two.

A layer is a texture, perhaps with alpha, and a pose at every time: a 3x3 matrix from texture pixels
to frame pixels. The flow of a layer between two times is what its poses say, not an estimate.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2

Matrix = NDArray[np.float64]


class FlowSample(NamedTuple):
    """Two frames and the truth about them."""

    first: NDArray[np.uint8]  # [H, W, 3]
    second: NDArray[np.uint8]  # [H, W, 3]
    flow: NDArray[np.float32]  # [H, W, 2], pixels from the first frame to the second
    occluded: NDArray[np.bool_]  # [H, W], True where the second frame does not show the point
    backward: NDArray[np.float32] | None = None  # [H, W, 2], from the second frame to the first
    occluded_backward: NDArray[np.bool_] | None = None  # [H, W], of the second frame's pixels


class Movement(Protocol):
    """How the picture of something flat moves."""

    def at(self, time: float) -> Matrix:
        """Return the matrix that takes a point at time 0 to where it is at `time`."""


@dataclass(frozen=True)
class Motion:
    """A transform about `centre` that grows with time: at time 0 nothing has moved.

    Attributes:
        centre: The point (x, y) that rotation and zoom leave in place, in frame pixels.
        translation: Pixels (x, y) per frame.
        rotation: Radians per frame, clockwise on the screen.
        zoom: Logarithm of the change of size per frame.
        perspective: Change per frame of the bottom row of the matrix, 1 / pixels.
    """

    centre: tuple[float, float] = (0.0, 0.0)
    translation: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    zoom: float = 0.0
    perspective: tuple[float, float] = (0.0, 0.0)

    def at(self, time: float) -> Matrix:
        """Return the matrix that takes a point at time 0 to where it is at `time`."""
        x, y = self.centre
        scale, angle = np.exp(self.zoom * time), self.rotation * time
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        bottom = [self.perspective[0] * time, self.perspective[1] * time, 1.0]
        about = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], bottom])
        x1, y1 = x + self.translation[0] * time, y + self.translation[1] * time
        matrix: Matrix = shift(x1, y1) @ about @ shift(-x, -y)
        return matrix


@dataclass(frozen=True)
class Bend:
    """A smooth displacement that grows with time, on top of a layer's motion: cloth, faces, water.

    A point that the motion takes to p ends at the y with ``y = p + bend(y)``: painting, which asks
    where a pixel comes from, is then exact, and the flow is found by repeating that equation, which
    converges because the displacement changes slowly (`pull` well below `reach`).

    Attributes:
        centres: Where it pulls most, ``[n, 2]``, pixels of the frame.
        pull: Displacement there in a frame, ``[n, 2]``, pixels.
        reach: Standard deviation of the pull around each centre, ``[n]``, pixels.
    """

    centres: NDArray[np.float64]
    pull: NDArray[np.float64]
    reach: NDArray[np.float64]

    def at(self, points: NDArray[np.float64], time: float) -> NDArray[np.float64]:
        """Return the displacement that ended at `points` ``[2, ...]`` at `time`."""
        total = np.zeros_like(points)
        for (x, y), pull, reach in zip(self.centres, self.pull, self.reach, strict=True):
            square = (points[0] - x) ** 2 + (points[1] - y) ** 2
            weight = np.exp(square / (-2 * reach**2))
            total += time * pull.reshape(2, *[1] * (points.ndim - 1)) * weight
        return total

    def follow(self, points: NDArray[np.float64], time: float) -> NDArray[np.float64]:
        """Return where `points` ``[2, N]``, already moved, end at `time`."""
        ends = points
        for _ in range(25):  # each step halves the error, at least
            ends = points + self.at(ends, time)
        return ends


@dataclass(frozen=True)
class Layer:
    """One flat thing.

    Attributes:
        texture: Colours, ``[h, w, 3]``.
        place: Texture pixels to frame pixels at time 0.
        motion: The layer's own motion, after the camera's.
        alpha: Opacity, ``[h, w]``, 255 opaque; None for a texture that fills the frame, mirrored.
        bend: What is not rigid in its motion.
    """

    texture: NDArray[np.uint8]
    place: Matrix
    motion: Movement = field(default_factory=Motion)
    alpha: NDArray[np.uint8] | None = None
    bend: Bend | None = None


class View(NamedTuple):
    """What a scene looks like at one time."""

    image: NDArray[np.float32]  # [H, W, 3], 0..255
    owner: NDArray[np.int16]  # [H, W], index of the layer that is seen


@dataclass(frozen=True)
class Scene:
    """Layers, back to front, under one camera.

    Attributes:
        size: Height and width of the frames.
        layers: The first must fill the frame (no alpha).
        camera: Motion that every layer shares, before its own.
    """

    size: tuple[int, int]
    layers: tuple[Layer, ...]
    camera: Motion = field(default_factory=Motion)

    def pose(self, index: int, time: float) -> Matrix:
        """Return the matrix from texture pixels of layer `index` to frame pixels at `time`."""
        layer = self.layers[index]
        return layer.motion.at(time) @ self.camera.at(time) @ layer.place

    def view(self, time: float) -> View:
        """Paint the layers over each other, with soft edges; the harder half of an edge owns it."""
        H, W = self.size
        image = np.zeros((H, W, 3), np.float32)
        owner = np.zeros((H, W), np.int16)
        for index, layer in enumerate(self.layers):
            pose = self.pose(index, time)
            x0, y0, x1, y1 = bounds(layer, pose, H, W)
            if x1 <= x0 or y1 <= y0:
                continue
            paint = _painter(layer, pose, (x0, y0, x1, y1), time)
            border = cv2.BORDER_REFLECT if layer.alpha is None else cv2.BORDER_REPLICATE
            colours = paint(layer.texture, border).astype(np.float32)
            if layer.alpha is None:
                image[:], owner[:] = colours, index
                continue
            alpha = paint(layer.alpha, cv2.BORDER_CONSTANT).astype(np.float32) / 255
            region = image[y0:y1, x0:x1]
            region += alpha[..., None] * (colours - region)
            owner[y0:y1, x0:x1][alpha > 0.5] = index
        return View(image, owner)

    def flow(
        self, view: View, start: float, stop: float, seen: View | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the flow from `start` to `stop`, and where it leads to something hidden.

        Args:
            view: The scene at `start`.
            start: Time of the first frame.
            stop: Time of the second frame; an earlier one gives the backward flow.
            seen: The scene at `stop`, rendered here if it is not given.

        Returns:
            Flow ``[H, W, 2]`` in pixels, defined everywhere, and a mask ``[H, W]``, True where the
            point is covered by another layer, or has left the frame, at `stop`.
        """
        H, W = self.size
        y, x = np.mgrid[0:H, 0:W]
        flow, behind = np.zeros((H, W, 2), np.float32), np.zeros((H, W), bool)
        for index in np.unique(view.owner):
            mask = view.owner == index
            matrix = self.pose(index, stop) @ np.linalg.inv(self.pose(index, start))
            points = np.stack([x[mask], y[mask]]).astype(np.float64)
            bend = self.layers[index].bend
            unbent = points - bend.at(points, start) if bend else points
            moved = matrix @ np.concatenate([unbent, np.ones((1, unbent.shape[1]))])
            behind[mask] = moved[2] <= 1e-3  # of the camera: nothing is there to be seen
            ends = moved[:2] / np.maximum(moved[2], 1e-3)
            flow[mask] = ((bend.follow(ends, stop) if bend else ends) - points).T
        seen = seen or self.view(stop)
        x2, y2 = x + flow[..., 0], y + flow[..., 1]
        hidden = behind | (x2 < -0.5) | (x2 >= W - 0.5) | (y2 < -0.5) | (y2 >= H - 0.5)
        x2, y2 = (np.where(hidden, 0, c) for c in (x2, y2))
        covered = np.ones((H, W), bool)  # a point is seen if one of the four pixels around shows it
        for xi in (np.floor(x2), np.ceil(x2)):
            for yi in (np.floor(y2), np.ceil(y2)):
                at = yi.clip(0, H - 1).astype(np.intp), xi.clip(0, W - 1).astype(np.intp)
                covered &= seen.owner[at] != view.owner
        return flow, hidden | covered


def shift(x: float, y: float) -> Matrix:
    """Return the matrix that moves a point by (x, y)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def _painter(
    layer: Layer, pose: Matrix, region: tuple[int, int, int, int], time: float
) -> Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]:
    """Return what draws a layer's pictures, colours or opacity, into a part of the frame."""
    x0, y0, x1, y1 = region
    if layer.bend is None:
        local, size = shift(-x0, -y0) @ pose, (x1 - x0, y1 - y0)
        return lambda picture, border: np.asarray(
            cv2.warpPerspective(picture, local, size, borderMode=border), np.uint8
        )
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float64)
    points = np.stack([x, y])
    points -= layer.bend.at(points, time)
    source = np.tensordot(np.linalg.inv(pose), np.concatenate([points, np.ones((1, *x.shape))]), 1)
    # Behind the camera there is nothing: look far outside the texture.
    places = np.where(source[2] > 1e-9, source[:2] / np.maximum(source[2], 1e-9), -1e6)
    u, v = places.clip(-1e6, 1e6).astype(np.float32)
    return lambda picture, border: np.asarray(
        cv2.remap(picture, u, v, cv2.INTER_LINEAR, borderMode=border), np.uint8
    )


def bounds(layer: Layer, pose: Matrix, H: int, W: int) -> tuple[int, int, int, int]:
    """Return the part of the frame a layer can touch: x0, y0, x1, y1."""
    if layer.alpha is None:
        return 0, 0, W, H
    h, w = layer.texture.shape[:2]
    corners = pose @ np.array([[-1, w, w, -1], [-1, -1, h, h], [1, 1, 1, 1]], np.float64)
    if (corners[2] <= 1e-3).any():  # reaches behind the camera: be safe, paint everywhere
        return 0, 0, W, H
    x, y = corners[:2] / corners[2]
    most = 0.0 if layer.bend is None else float(np.abs(layer.bend.pull).sum())
    low, high = np.floor([x.min(), y.min()]) - most, np.ceil([x.max(), y.max()]) + 1 + most
    (x0, y0), (x1, y1) = np.clip(low, 0, [W, H]), np.clip(high, 0, [W, H])
    return int(x0), int(y0), int(x1), int(y1)
