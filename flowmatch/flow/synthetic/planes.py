"""Rooms and streets: scenes of planes in space, seen by a camera that drives, pans and turns.

Flat layers that slide over each other know neither expansion towards a vanishing point nor floors
that move faster the nearer they are. A plane in space moves by a homography in the picture, so five
of them, a box with its front open, give both exactly, and a photograph painted on the box's inside
gives them texture.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.flow.synthetic.scene import Layer, Matrix

Generator = np.random.Generator


Vector = tuple[float, float, float]


def vector(values: NDArray[np.float64]) -> Vector:
    """Return three numbers as a tuple, which can be compared and printed."""
    x, y, z = values.tolist()
    return (x, y, z)


@dataclass(frozen=True)
class Drive:
    """A camera that moves steadily; coordinates are x right, y down, z forward at time 0.

    Attributes:
        focal: Focal length in pixels.
        centre: Principal point (x, y), pixels.
        velocity: Where the camera moves in a frame, (x, y, z), in units of the scene.
        turn: Rotation of the camera in a frame, as a rotation vector, radians.
    """

    focal: float
    centre: tuple[float, float]
    velocity: Vector = (0.0, 0.0, 0.0)
    turn: Vector = (0.0, 0.0, 0.0)

    @property
    def matrix(self) -> Matrix:
        """The calibration matrix."""
        x, y = self.centre
        return np.array([[self.focal, 0.0, x], [0.0, self.focal, y], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class PlaneMotion:
    """How the picture of a plane in space moves, as the camera and the plane itself do.

    Attributes:
        camera: The camera.
        normal: Of the plane at time 0, any length but 0.
        offset: Points X of the plane satisfy ``normal . X = offset``.
        velocity: Of the plane itself, in a frame.

    Reference:
        Hartley & Zisserman, Multiple View Geometry, 2004, result 13.1.
    """

    camera: Drive
    normal: Vector
    offset: float
    velocity: Vector = (0.0, 0.0, 0.0)

    def at(self, time: float) -> Matrix:
        """Return the matrix that takes a point at time 0 to where it is at `time`."""
        turn: Matrix = np.asarray(cv2.Rodrigues(-np.array(self.camera.turn) * time)[0], np.float64)
        shift = (np.array(self.velocity) - np.array(self.camera.velocity)) * time
        in_space = turn @ (np.eye(3) + np.outer(shift, self.normal) / self.offset)
        return np.asarray(self.camera.matrix @ in_space @ np.linalg.inv(self.camera.matrix))


@dataclass(frozen=True)
class Box:
    """The inside of a box around the camera, open to the front, as distances from the camera."""

    left: float
    right: float
    up: float
    down: float
    far: float

    def sides(self) -> list[tuple[Vector, float]]:
        """Return the planes (normal, offset): far, left, right, up, down."""
        return [
            ((0.0, 0.0, 1.0), self.far),
            ((-1.0, 0.0, 0.0), self.left),
            ((1.0, 0.0, 0.0), self.right),
            ((0.0, -1.0, 0.0), self.up),
            ((0.0, 1.0, 0.0), self.down),
        ]

    def depth(self, camera: Drive, points: Any) -> NDArray[np.float64]:
        """Return the depth of the box behind points (x, y) of the picture at time 0."""
        points = np.asarray(points, np.float64)
        x = (points[..., 0] - camera.centre[0]) / camera.focal
        y = (points[..., 1] - camera.centre[1]) / camera.focal
        with np.errstate(divide="ignore"):
            wide = np.where(x > 0, self.right, self.left) / np.abs(x)
            high = np.where(y > 0, self.down, self.up) / np.abs(y)
        depth: NDArray[np.float64] = np.minimum(np.minimum(wide, high), self.far)
        return depth

    def outline(self, camera: Drive, side: int) -> NDArray[np.float64]:
        """Return the corners of a side's picture at time 0, ``[4, 2]``; sides reach to the eye."""
        f, (cx, cy) = camera.focal, camera.centre
        x, y = np.array([-self.left, self.right]), np.array([-self.up, self.down])
        inner = f / self.far * np.array([[x[0], y[0]], [x[1], y[0]], [x[1], y[1]], [x[0], y[1]]])
        # The edges of the box run from these corners away from the vanishing point.
        outer = inner * 100
        corners = {
            0: inner,
            1: [inner[0], outer[0], outer[3], inner[3]],
            2: [inner[1], outer[1], outer[2], inner[2]],
            3: [inner[0], outer[0], outer[1], inner[1]],
            4: [inner[3], outer[3], outer[2], inner[2]],
        }[side]
        return np.array(corners) + [cx, cy]


def random_box(rng: Generator) -> Box:
    """Draw a corridor, a street with an open sky, or a plain with a wall far behind."""
    down = rng.uniform(0.8, 1.6)
    wide = np.exp(rng.uniform(np.log(0.8), np.log(6), 2))
    up = np.exp(rng.uniform(np.log(0.8), np.log(8)))
    if rng.random() < 0.3:
        wide = np.array([60.0, 60.0])
    if rng.random() < 0.4:
        up = 60.0
    return Box(wide[0], wide[1], up, down, float(np.exp(rng.uniform(np.log(3), np.log(20)))))


def random_drive(rng: Generator, size: tuple[int, int], box: Box, factor: float) -> Drive:
    """Draw a camera whose picture of the box moves by about ``8 * factor`` pixels on average."""
    H, W = size
    focal = float(W * rng.uniform(0.7, 1.4))
    centre = (W / 2 + rng.normal() * W / 12, H / 2 + rng.normal() * H / 12)
    still = Drive(focal, centre)
    way = rng.normal(size=3) * [0.5, 0.25, 1.0 if rng.random() < 0.6 else 0.2]
    grid = np.stack(np.meshgrid(np.linspace(0, W, 9), np.linspace(0, H, 7)), axis=-1)
    depth = box.depth(still, grid)
    # Motion of a point at depth z: f (tx, ty) / z - (x, y) tz / z.
    shown = focal * way[:2] - (grid - centre) * way[2]
    mean = float(np.linalg.norm(shown / depth[..., None], axis=-1).mean())
    pixels = min(rng.exponential(7 * factor), 40 * factor)
    reach = 0.35 * min(box.down, box.left, box.right, box.up)  # stay inside the box
    velocity = way * min(pixels / max(mean, 1e-6), reach / max(np.abs(way).max(), 1e-6))
    angle = rng.normal(size=3) * np.array([1, 1, 0.5]) * min(4 * factor, 20) / focal
    if rng.random() < 0.4:
        angle = angle * 0
    return Drive(focal, centre, vector(velocity), vector(angle))


def box_layers(box: Box, camera: Drive, texture: NDArray[np.uint8], place: Matrix) -> list[Layer]:
    """Paint one picture on the inside of a box.

    Args:
        box: The box.
        camera: Who looks.
        texture: The picture.
        place: Texture pixels to frame pixels at time 0.

    Returns:
        Its far side, which fills the frame, and the four others.
    """
    h, w = texture.shape[:2]
    layers = []
    for side, (normal, offset) in enumerate(box.sides()):
        motion = PlaneMotion(camera, normal, offset)
        if side == 0:
            layers.append(Layer(texture, place, motion))
            continue
        corners = box.outline(camera, side)
        back = np.linalg.inv(place)
        inside = np.concatenate([corners, np.ones((4, 1))], axis=1) @ back.T
        polygon = np.rint(256 * inside[:, :2] / inside[:, 2:]).astype(np.int64)
        alpha = np.zeros((h, w), np.uint8)
        cv2.fillPoly(alpha, [polygon.clip(-(2**30), 2**30).astype(np.int32)], 255, cv2.LINE_8, 8)
        if alpha.any():
            layers.append(Layer(texture, place, motion, alpha))
    return layers
