"""Interiors and streets: scenes of planes in space under a moving camera.

Flat layers that slide over each other have neither expansion towards a vanishing point nor floors
that move faster the nearer they are. A plane in space moves by a homography in the image, so five
planes, a box with its front open, give both exactly; a photograph on the inside of the box is their
texture.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.flow.synthetic.scene import Layer, Matrix
from flowmatch.imaging import Generator, Image

Vector = tuple[float, float, float]


def as_vector(values: NDArray[np.float64]) -> Vector:
    """Return three numbers as a tuple, which can be compared and printed."""
    x, y, z = values.tolist()
    return (x, y, z)


@dataclass(frozen=True)
class MovingCamera:
    """A camera of constant velocity; coordinates are x right, y down, z forward at time 0.

    Attributes:
        focal: Focal length in pixels.
        centre: Principal point (x, y), pixels.
        velocity: Translation per frame, (x, y, z), in units of the scene.
        rotation: Rotation per frame, as a rotation vector, radians.
    """

    focal: float
    centre: tuple[float, float]
    velocity: Vector = (0.0, 0.0, 0.0)
    rotation: Vector = (0.0, 0.0, 0.0)

    @property
    def matrix(self) -> Matrix:
        """The intrinsics, ``[3, 3]``."""
        x, y = self.centre
        return np.array([[self.focal, 0.0, x], [0.0, self.focal, y], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class PlaneMotion:
    """Motion of a plane's projection, due to the camera and to the plane itself.

    Attributes:
        camera: The camera.
        normal: Normal of the plane at time 0, any length but 0.
        offset: Points X of the plane satisfy ``normal . X = offset``.
        velocity: Translation of the plane per frame.

    Reference:
        Hartley & Zisserman, Multiple View Geometry, 2004, result 13.1.
    """

    camera: MovingCamera
    normal: Vector
    offset: float
    velocity: Vector = (0.0, 0.0, 0.0)

    def at(self, time: float) -> Matrix:
        """Return the matrix from a point at time 0 to the same point at `time`."""
        rotation_vector = -np.array(self.camera.rotation) * time
        rotation: Matrix = np.asarray(cv2.Rodrigues(rotation_vector)[0], np.float64)
        shift = (np.array(self.velocity) - np.array(self.camera.velocity)) * time
        in_space = rotation @ (np.eye(3) + np.outer(shift, self.normal) / self.offset)
        return np.asarray(self.camera.matrix @ in_space @ np.linalg.inv(self.camera.matrix))


@dataclass(frozen=True)
class Box:
    """The inside of a box around the camera, open to the front.

    Attributes:
        left: Distance from the camera to the left side.
        right: Distance to the right side.
        up: Distance to the upper side.
        down: Distance to the lower side.
        far: Distance to the far side.
    """

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

    def depth(self, camera: MovingCamera, points: Any) -> NDArray[np.float64]:
        """Return the depth of the box at points (x, y) of the image at time 0."""
        points = np.asarray(points, np.float64)
        x = (points[..., 0] - camera.centre[0]) / camera.focal
        y = (points[..., 1] - camera.centre[1]) / camera.focal
        with np.errstate(divide="ignore"):
            to_wall = np.where(x > 0, self.right, self.left) / np.abs(x)
            to_floor = np.where(y > 0, self.down, self.up) / np.abs(y)
        depth: NDArray[np.float64] = np.minimum(np.minimum(to_wall, to_floor), self.far)
        return depth

    def outline(self, camera: MovingCamera, side: int) -> NDArray[np.float64]:
        """Return the corners of a side's image at time 0, ``[4, 2]``; sides reach to the camera."""
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


def sample_box(rng: Generator) -> Box:
    """Sample a corridor, a street with an open sky, or a plain with a wall far behind."""
    down = rng.uniform(0.8, 1.6)
    wide = np.exp(rng.uniform(np.log(0.8), np.log(6), 2))
    up = np.exp(rng.uniform(np.log(0.8), np.log(8)))
    if rng.random() < 0.3:
        wide = np.array([60.0, 60.0])
    if rng.random() < 0.4:
        up = 60.0
    return Box(wide[0], wide[1], up, down, float(np.exp(rng.uniform(np.log(3), np.log(20)))))


def sample_camera(rng: Generator, size: tuple[int, int], box: Box, factor: float) -> MovingCamera:
    """Sample a camera whose image of the box moves by about ``8 * factor`` pixels on average.

    Args:
        rng: Source of all random numbers.
        size: Height and width of the frames.
        box: The box around the camera.
        factor: Factor on the motion.
    """
    H, W = size
    focal = float(W * rng.uniform(0.7, 1.4))
    centre = (W / 2 + rng.normal() * W / 12, H / 2 + rng.normal() * H / 12)
    still = MovingCamera(focal, centre)
    direction = rng.normal(size=3) * [0.5, 0.25, 1.0 if rng.random() < 0.6 else 0.2]
    grid = np.stack(np.meshgrid(np.linspace(0, W, 9), np.linspace(0, H, 7)), axis=-1)
    depth = box.depth(still, grid)
    # Motion of a point at depth z: f (tx, ty) / z - (x, y) tz / z.
    motion = focal * direction[:2] - (grid - centre) * direction[2]
    mean = float(np.linalg.norm(motion / depth[..., None], axis=-1).mean())
    pixels = min(rng.exponential(7 * factor), 40 * factor)
    longest = 0.35 * min(box.down, box.left, box.right, box.up)  # stay inside the box
    speed = min(pixels / max(mean, 1e-6), longest / max(np.abs(direction).max(), 1e-6))
    rotation = rng.normal(size=3) * np.array([1, 1, 0.5]) * min(4 * factor, 20) / focal
    if rng.random() < 0.4:
        rotation = rotation * 0
    return MovingCamera(focal, centre, as_vector(direction * speed), as_vector(rotation))


def box_layers(box: Box, camera: MovingCamera, texture: Image, place: Matrix) -> list[Layer]:
    """Return the sides of a box, with one image as the texture of all.

    Args:
        box: The box.
        camera: The camera.
        texture: The image.
        place: Matrix from texture pixels to frame pixels at time 0.

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
        to_texture = np.linalg.inv(place)
        homogeneous = np.concatenate([corners, np.ones((4, 1))], axis=1) @ to_texture.T
        polygon = np.rint(256 * homogeneous[:, :2] / homogeneous[:, 2:]).astype(np.int64)
        alpha = np.zeros((h, w), np.uint8)
        cv2.fillPoly(alpha, [polygon.clip(-(2**30), 2**30).astype(np.int32)], 255, cv2.LINE_8, 8)
        if alpha.any():
            layers.append(Layer(texture, place, motion, alpha))
    return layers
