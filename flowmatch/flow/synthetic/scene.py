"""Scenes of moving flat layers: their rendering at any time, and the exact flow between two times.

A layer is a texture, perhaps with alpha, and a pose at every time: a 3x3 matrix from texture pixels
to frame pixels. The flow of a layer between two times follows from its poses and is no estimate.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import Image

Matrix = NDArray[np.float64]


class FlowSample(NamedTuple):
    """Two frames and their true flow.

    Attributes:
        first: First frame, ``[H, W, 3]``.
        second: Second frame, ``[H, W, 3]``.
        flow: Flow from the first frame to the second, ``[H, W, 2]``, pixels.
        occluded: Pixels of the first frame that are hidden in the second, ``[H, W]``.
        backward: Flow from the second frame to the first, ``[H, W, 2]``.
        occluded_backward: Pixels of the second frame that are hidden in the first, ``[H, W]``.
    """

    first: Image
    second: Image
    flow: NDArray[np.float32]
    occluded: NDArray[np.bool_]
    backward: NDArray[np.float32] | None = None
    occluded_backward: NDArray[np.bool_] | None = None


class Movement(Protocol):
    """Motion of a plane's projection."""

    def at(self, time: float) -> Matrix:
        """Return the matrix from a point at time 0 to the same point at `time`."""


@dataclass(frozen=True)
class Motion:
    """A transform about `centre` that grows with time, from the identity at time 0.

    Attributes:
        centre: Fixed point (x, y) of rotation and zoom, in frame pixels.
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
        """Return the matrix from a point at time 0 to the same point at `time`."""
        x, y = self.centre
        scale, angle = np.exp(self.zoom * time), self.rotation * time
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        bottom = [self.perspective[0] * time, self.perspective[1] * time, 1.0]
        linear = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], bottom])
        x1, y1 = x + self.translation[0] * time, y + self.translation[1] * time
        matrix: Matrix = translate(x1, y1) @ linear @ translate(-x, -y)
        return matrix


@dataclass(frozen=True)
class Deformation:
    """A smooth displacement that grows with time, on top of a layer's motion: cloth, faces, water.

    A point that the motion takes to p ends at the y with ``y = p + displacement(y)``: rendering,
    which needs the source of each pixel, is then exact, and the flow is found by fixed-point
    iteration, which converges because the displacement changes slowly (it is well below `radii`).

    Attributes:
        centres: Points of the largest displacement, ``[n, 2]``, pixels of the frame.
        displacements: Displacement there per frame, ``[n, 2]``, pixels.
        radii: Standard deviation of the displacement around each centre, ``[n]``, pixels.
    """

    centres: NDArray[np.float64]
    displacements: NDArray[np.float64]
    radii: NDArray[np.float64]

    def at(self, points: NDArray[np.float64], time: float) -> NDArray[np.float64]:
        """Return the displacement that ended at `points` ``[2, ...]`` at `time`."""
        total = np.zeros_like(points)
        parts = zip(self.centres, self.displacements, self.radii, strict=True)
        for (x, y), displacement, radius in parts:
            square = (points[0] - x) ** 2 + (points[1] - y) ** 2
            weight = np.exp(square / (-2 * radius**2))
            total += time * displacement.reshape(2, *[1] * (points.ndim - 1)) * weight
        return total

    def apply(self, points: NDArray[np.float64], time: float) -> NDArray[np.float64]:
        """Return the ends at `time` of `points` ``[2, N]`` that the motion has moved already."""
        ends = points
        for _ in range(25):  # each step at least halves the error
            ends = points + self.at(ends, time)
        return ends


@dataclass(frozen=True)
class Layer:
    """One flat object.

    Attributes:
        texture: Colours, ``[h, w, 3]``.
        place: Matrix from texture pixels to frame pixels at time 0.
        motion: The layer's own motion, after the camera's.
        alpha: Opacity, ``[h, w]``, 255 opaque; None for a texture that fills the frame, mirrored.
        deformation: The part of its motion that is not rigid.
    """

    texture: Image
    place: Matrix
    motion: Movement = field(default_factory=Motion)
    alpha: Image | None = None
    deformation: Deformation | None = None


class Rendering(NamedTuple):
    """A scene at one time.

    Attributes:
        image: The frame, ``[H, W, 3]``, 0..255.
        layer: Index of the visible layer at each pixel, ``[H, W]``.
    """

    image: NDArray[np.float32]
    layer: NDArray[np.int16]


@dataclass(frozen=True)
class Scene:
    """Layers, back to front, under one camera.

    Attributes:
        size: Height and width of the frames.
        layers: The layers; the first must fill the frame (no alpha).
        camera: Motion that every layer shares, before its own.
    """

    size: tuple[int, int]
    layers: tuple[Layer, ...]
    camera: Motion = field(default_factory=Motion)

    def pose(self, index: int, time: float) -> Matrix:
        """Return the matrix from texture pixels of layer `index` to frame pixels at `time`."""
        layer = self.layers[index]
        return layer.motion.at(time) @ self.camera.at(time) @ layer.place

    def render(self, time: float) -> Rendering:
        """Blend the layers over each other; a pixel is the layer's where it is over half opaque."""
        H, W = self.size
        image = np.zeros((H, W, 3), np.float32)
        visible = np.zeros((H, W), np.int16)
        for index, layer in enumerate(self.layers):
            pose = self.pose(index, time)
            x0, y0, x1, y1 = bounds(layer, pose, H, W)
            if x1 <= x0 or y1 <= y0:
                continue
            warp = _warper(layer, pose, (x0, y0, x1, y1), time)
            border = cv2.BORDER_REFLECT if layer.alpha is None else cv2.BORDER_REPLICATE
            colours = warp(layer.texture, border).astype(np.float32)
            if layer.alpha is None:
                image[:], visible[:] = colours, index
                continue
            alpha = warp(layer.alpha, cv2.BORDER_CONSTANT).astype(np.float32) / 255
            region = image[y0:y1, x0:x1]
            region += alpha[..., None] * (colours - region)
            visible[y0:y1, x0:x1][alpha > 0.5] = index
        return Rendering(image, visible)

    def flow(
        self, rendering: Rendering, start: float, stop: float, later: Rendering | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the flow from `start` to `stop`, and the occluded pixels.

        Args:
            rendering: The scene at `start`.
            start: Time of the first frame.
            stop: Time of the second frame; an earlier one gives the backward flow.
            later: The scene at `stop`; None renders it here.

        Returns:
            Flow ``[H, W, 2]`` in pixels, defined everywhere, and a mask ``[H, W]``, True if the
            point is covered by another layer, or has left the frame, at `stop`.
        """
        H, W = self.size
        y, x = np.mgrid[0:H, 0:W]
        flow, behind = np.zeros((H, W, 2), np.float32), np.zeros((H, W), bool)
        for index in np.unique(rendering.layer):
            mask = rendering.layer == index
            points = np.stack([x[mask], y[mask]]).astype(np.float64)
            ends, behind[mask] = self._move(points, int(index), start, stop)
            flow[mask] = (ends - points).T
        later = later or self.render(stop)
        x2, y2 = x + flow[..., 0], y + flow[..., 1]
        hidden = behind | (x2 < -0.5) | (x2 >= W - 0.5) | (y2 < -0.5) | (y2 >= H - 0.5)
        x2, y2 = (np.where(hidden, 0, c) for c in (x2, y2))
        covered = np.ones((H, W), bool)  # unless one of the four pixels around shows the layer
        for xi in (np.floor(x2), np.ceil(x2)):
            for yi in (np.floor(y2), np.ceil(y2)):
                pixel = yi.clip(0, H - 1).astype(np.intp), xi.clip(0, W - 1).astype(np.intp)
                covered &= later.layer[pixel] != rendering.layer
        return flow, hidden | covered

    def _move(
        self, points: NDArray[np.float64], index: int, start: float, stop: float
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the ends of points ``[2, N]`` of a layer, and which are behind the camera."""
        matrix = self.pose(index, stop) @ np.linalg.inv(self.pose(index, start))
        deformation = self.layers[index].deformation
        if deformation:
            points = points - deformation.at(points, start)
        moved = matrix @ np.concatenate([points, np.ones((1, points.shape[1]))])
        ends = moved[:2] / np.maximum(moved[2], 1e-3)
        return deformation.apply(ends, stop) if deformation else ends, moved[2] <= 1e-3


def translate(x: float, y: float) -> Matrix:
    """Return the matrix that moves a point by (x, y)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def _warper(
    layer: Layer, pose: Matrix, region: tuple[int, int, int, int], time: float
) -> Callable[[Image, int], Image]:
    """Return a function that warps a layer's colours or opacity into a part of the frame."""
    x0, y0, x1, y1 = region
    if layer.deformation is None:
        local, size = translate(-x0, -y0) @ pose, (x1 - x0, y1 - y0)
        return lambda image, border: np.asarray(
            cv2.warpPerspective(image, local, size, borderMode=border), np.uint8
        )
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float64)
    points = np.stack([x, y])
    points -= layer.deformation.at(points, time)
    source = np.tensordot(np.linalg.inv(pose), np.concatenate([points, np.ones((1, *x.shape))]), 1)
    # Points behind the camera show nothing: they are looked up far outside the texture.
    places = np.where(source[2] > 1e-9, source[:2] / np.maximum(source[2], 1e-9), -1e6)
    u, v = places.clip(-1e6, 1e6).astype(np.float32)
    return lambda image, border: np.asarray(
        cv2.remap(image, u, v, cv2.INTER_LINEAR, borderMode=border), np.uint8
    )


def bounds(layer: Layer, pose: Matrix, H: int, W: int) -> tuple[int, int, int, int]:
    """Return the part of the frame that a layer can touch: x0, y0, x1, y1."""
    if layer.alpha is None:
        return 0, 0, W, H
    h, w = layer.texture.shape[:2]
    corners = pose @ np.array([[-1, w, w, -1], [-1, -1, h, h], [1, 1, 1, 1]], np.float64)
    if (corners[2] <= 1e-3).any():  # part of it is behind the camera: the whole frame, to be safe
        return 0, 0, W, H
    x, y = corners[:2] / corners[2]
    deformation = layer.deformation
    margin = 0.0 if deformation is None else float(np.abs(deformation.displacements).sum())
    low, high = np.floor([x.min(), y.min()]) - margin, np.ceil([x.max(), y.max()]) + 1 + margin
    (x0, y0), (x1, y1) = np.clip(low, 0, [W, H]), np.clip(high, 0, [W, H])
    return int(x0), int(y0), int(x1), int(y1)
