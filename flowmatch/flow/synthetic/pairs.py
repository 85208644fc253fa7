"""Pairs of frames with exact flow, from photographs, cut-outs and procedural textures.

After the 2-D generators of Dosovitskiy et al. (FlyingChairs, ICCV 2015, section 4) and Mayer et al.
(IJCV 2018): a background and a few objects, moved by the camera and on their own.
"""

from dataclasses import dataclass, field

import numpy as np

from flowmatch._opencv import cv2
from flowmatch.flow.synthetic import textures
from flowmatch.flow.synthetic.effects import sample_effects
from flowmatch.flow.synthetic.plan import Plan, render_pair, sample_flip
from flowmatch.flow.synthetic.planes import (
    Box,
    MovingCamera,
    PlaneMotion,
    as_vector,
    box_layers,
    sample_box,
    sample_camera,
)
from flowmatch.flow.synthetic.scene import (
    Deformation,
    FlowSample,
    Layer,
    Matrix,
    Motion,
    Movement,
    Scene,
    translate,
)
from flowmatch.flow.synthetic.sources import Sources, sample_backdrop, sample_cutout, shrink
from flowmatch.imaging import Generator, Image, resize


@dataclass(frozen=True)
class SyntheticFlow:
    """An endless, repeatable dataset of pairs: item `i` is always the same for one seed.

    Attributes:
        sources: Sources of the textures.
        size: Height and width of the frames.
        motion: Factors on all motions and their weights, ``(factor, weight)``. At factor 1 the
            camera moves by about 5 pixels and objects by 7 more.
        planes: Share of the scenes that are planes in space under a moving camera (`planes`); the
            others are flat layers.
        backward: Also give the flow from the second frame to the first, and its occlusion.
        seed: Random seed.
        length: Number of items.

    Example:
        >>> sample = SyntheticFlow(size=(64, 96))[0]
        >>> sample.first.shape, sample.flow.shape, sample.occluded.shape
        ((64, 96, 3), (64, 96, 2), (64, 96))
    """

    sources: Sources = field(default_factory=Sources)
    size: tuple[int, int] = (192, 256)
    motion: tuple[tuple[float, float], ...] = ((0.3, 0.2), (1.0, 0.5), (2.5, 0.3))
    planes: float = 0.35
    backward: bool = False
    seed: int = 0
    length: int = 1_000_000

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> FlowSample:
        return render_pair(self.plan(index), self.backward)

    def plan(self, index: int, seeded: bool = False) -> Plan:
        """Sample item `index` without rendering it.

        Args:
            index: Index of the item.
            seeded: Leave the noise to the renderer, which is faster. Noise, compression and
                mirroring are then random as well, but differ from those of the item.

        Raises:
            IndexError: The index is out of range.
        """
        if not 0 <= index < self.length:
            raise IndexError(f"index must be below {self.length}, got {index}")
        rng = np.random.default_rng([self.seed, index])
        sample_scene = sample_box_scene if rng.random() < self.planes else sample_flat_scene
        scene = sample_scene(rng, self.sources, self.size, self._factor(rng))
        return Plan(scene, sample_effects(rng, self.size, seeded), sample_flip(rng))

    def _factor(self, rng: Generator) -> float:
        factors, weights = np.array(self.motion, np.float64).T
        return float(rng.choice(factors, p=weights / weights.sum()))


@dataclass(frozen=True)
class SyntheticPlans:
    """The plans of synthetic pairs, for `render.render_plans`.

    Attributes:
        pairs: The pairs; `SyntheticFlow.backward` is ignored.
    """

    pairs: SyntheticFlow

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Plan:
        return self.pairs.plan(index, seeded=True)


# ---- Scenes ------------------------------------------------------------------------------------


def sample_flat_scene(
    rng: Generator, sources: Sources, size: tuple[int, int], factor: float = 1.0
) -> Scene:
    """Sample a background, two to twelve objects, and their motions.

    Args:
        rng: Source of all random numbers.
        sources: Sources of the textures.
        size: Height and width of the frames.
        factor: Factor on translations; rotation and zoom grow with it up to twice.
    """
    H, W = size
    camera = sample_motion(rng, (W / 2, H / 2), factor, angle=0.04, zoom=0.04, pixels=5)
    layers = [sample_background(rng, sources, size)]
    for _ in range(rng.integers(2, 13)):
        centre, pixels = sample_position(rng, size)
        motion = Motion()  # a fifth stand still in the world and only follow the camera
        if rng.random() < 0.8:
            motion = sample_motion(rng, centre, factor, angle=0.08, zoom=0.06, pixels=7)
        layers.append(sample_foreground(rng, sources, centre, pixels, motion, factor))
    return Scene(size, tuple(layers), camera)


def sample_box_scene(
    rng: Generator, sources: Sources, size: tuple[int, int], factor: float = 1.0
) -> Scene:
    """Sample a box in space, up to eight objects in it, and a camera that moves through it.

    Args:
        rng: Source of all random numbers.
        sources: Sources of the textures.
        size: Height and width of the frames.
        factor: Factor on the motion of the camera and of the objects.
    """
    box = sample_box(rng)
    camera = sample_camera(rng, size, box, factor)
    background = sample_background(rng, sources, size)
    layers = box_layers(box, camera, background.texture, background.place)
    for _ in range(rng.integers(0, 9)):
        centre, pixels = sample_position(rng, size)
        motion = _sample_plane(rng, box, camera, centre, factor)
        layers.append(sample_foreground(rng, sources, centre, pixels, motion, factor))
    return Scene(size, tuple(layers))


# ---- Positions and motions ---------------------------------------------------------------------


def _sample_plane(
    rng: Generator, box: Box, camera: MovingCamera, centre: tuple[float, float], factor: float
) -> PlaneMotion:
    """Sample a nearly frontal plane in the box, visible at `centre`; half of them move."""
    depth = float(box.depth(camera, centre)) * rng.uniform(0.35, 0.95)
    depth = max(depth, 2 * abs(camera.velocity[2]) + 0.2)
    point = depth * np.linalg.inv(camera.matrix) @ np.array([*centre, 1.0])
    normal = np.array([*(rng.normal(size=2) * 0.3), 1.0])
    velocity = np.zeros(3)
    if rng.random() < 0.5:
        pixels = min(rng.exponential(7 * factor), 56 * factor)
        heading = rng.uniform(0, 2 * np.pi)
        direction = np.array([np.cos(heading), np.sin(heading), rng.normal() * 0.5])
        velocity = direction * pixels * depth / camera.focal
        velocity[2] = np.clip(velocity[2], -0.3 * depth, 0.3 * depth)
    return PlaneMotion(camera, as_vector(normal), float(normal @ point), as_vector(velocity))


def sample_position(rng: Generator, size: tuple[int, int]) -> tuple[tuple[float, float], float]:
    """Sample an object's centre, perhaps outside the frame, and its size in pixels."""
    H, W = size
    centre = (rng.uniform(-0.1, 1.1) * W, rng.uniform(-0.1, 1.1) * H)
    return centre, float(np.exp(rng.uniform(np.log(20), np.log(200))))


def sample_deformation(
    rng: Generator, centre: tuple[float, float], pixels: float, factor: float
) -> Deformation | None:
    """Deform a sixth of the objects, by at most a fifth of their size.

    Args:
        rng: Source of all random numbers.
        centre: Centre of the object.
        pixels: Size of the object.
        factor: Factor on the motion.
    """
    if rng.random() >= 1 / 6:
        return None
    count = int(rng.integers(1, 4))
    radii = pixels * rng.uniform(0.15, 0.4, count)
    displacements = rng.normal(size=(count, 2)) * min(3 * factor, 8)
    # If the displacement were steeper, the object would fold over itself.
    limit = (0.5 * radii / count)[:, None]
    centres = np.array(centre) + rng.normal(size=(count, 2)) * pixels / 4
    return Deformation(centres, displacements.clip(-limit, limit), radii)


def sample_motion(
    rng: Generator,
    centre: tuple[float, float],
    factor: float,
    angle: float,
    zoom: float,
    pixels: float,
) -> Motion:
    """Sample a motion: mostly small, with a long tail.

    Args:
        rng: Source of all random numbers.
        centre: Fixed point of rotation and zoom.
        factor: Factor on the translation; rotation and zoom grow with it up to twice.
        angle: Standard deviation of the rotation, radians.
        zoom: Standard deviation of the logarithm of the zoom.
        pixels: Mean length of the translation.
    """
    limited = min(factor, 2)
    heading = rng.uniform(0, 2 * np.pi)
    length = min(rng.exponential(pixels * factor), 8 * pixels * factor)
    perspective = (0.0, 0.0)
    if rng.random() < 0.2:
        perspective = tuple((rng.normal(size=2) * 1e-4 * limited).tolist())
    return Motion(
        centre=centre,
        translation=(float(length * np.cos(heading)), float(length * np.sin(heading))),
        rotation=float(rng.normal() * angle * limited),
        zoom=float(rng.normal() * zoom * limited),
        perspective=perspective,
    )


# ---- Layers ------------------------------------------------------------------------------------


def sample_background(rng: Generator, sources: Sources, size: tuple[int, int]) -> Layer:
    """Sample a slightly rotated part of a photograph or texture that fills the frame."""
    H, W = size
    image = sample_backdrop(rng, sources)
    h, w = image.shape[:2]
    scale = np.exp(rng.uniform(np.log(0.35), np.log(1.6)))  # texture pixels for a frame pixel
    scale = min(scale, (h - 2) / (H + 40), (w - 2) / (W + 40))
    x, y = rng.uniform(0, max(w - W * scale, 0)), rng.uniform(0, max(h - H * scale, 0))
    # Only the part that may become visible, with half a frame on each side, is shrunk.
    x0, y0 = max(0, int(x - W * scale / 2)), max(0, int(y - H * scale / 2))
    image = image[y0 : int(y + 1.5 * H * scale), x0 : int(x + 1.5 * W * scale)]
    image, shrunk = shrink(image, scale)
    scale *= shrunk
    shift = translate((x0 - x) * shrunk, (y0 - y) * shrunk)
    place = np.diag([1 / scale, 1 / scale, 1.0]) @ shift
    rotation = Motion(centre=(W / 2, H / 2), rotation=float(rng.normal() * 0.1)).at(1)
    return Layer(image, rotation @ place)


def sample_foreground(
    rng: Generator,
    sources: Sources,
    centre: tuple[float, float],
    pixels: float,
    motion: Movement,
    factor: float = 1.0,
) -> Layer:
    """Sample a cut-out, or a random shape of a texture.

    Args:
        rng: Source of all random numbers.
        sources: Sources of the textures.
        centre: Centre of the object.
        pixels: Size of the object.
        motion: Motion of the object.
        factor: Factor on its deformation.
    """
    if sources.cutouts and rng.random() < 0.6:
        cutout = sample_cutout(rng, sources)
        colours, alpha = cutout[..., :3], cutout[..., 3]
    else:
        colours, alpha = _sample_shape(rng, sample_backdrop(rng, sources), 256)
    scale = pixels / max(alpha.shape)
    colours, shrunk = shrink(colours, 1 / scale)
    alpha, _ = shrink(alpha, 1 / scale)
    scale /= shrunk
    h, w = alpha.shape
    angle = rng.uniform(-np.pi, np.pi) if rng.random() < 0.5 else rng.normal() * 0.3
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    similarity: Matrix = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    place = translate(*centre) @ similarity @ translate(-w / 2, -h / 2)
    return Layer(colours, place, motion, alpha, sample_deformation(rng, centre, pixels, factor))


def _sample_shape(rng: Generator, image: Image, size: int) -> tuple[Image, Image]:
    """Return a random square of an image, ``[size, size, 3]``, and a random outline for it."""
    h, w = image.shape[:2]
    side = min(int(size * np.exp(rng.uniform(np.log(0.4), np.log(1.5)))), h, w)
    y, x = rng.integers(h - side + 1), rng.integers(w - side + 1)
    interpolation = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    square = resize(image[y : y + side, x : x + side], (size, size), interpolation)
    return square, textures.sample_outline(rng, size)
