"""Pairs of frames with exact flow, made from photographs, cut-outs and procedure alone.

After the 2-D generators of Dosovitskiy et al. (FlyingChairs, ICCV 2015, section 4) and Mayer et al.
(IJCV 2018): a background and a few objects, moved by the camera and on their own.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.flow.synthetic import textures
from flowmatch.flow.synthetic.effects import draw_effects
from flowmatch.flow.synthetic.plan import Plan, draw_flip, paint
from flowmatch.flow.synthetic.planes import (
    Box,
    Drive,
    PlaneMotion,
    box_layers,
    random_box,
    random_drive,
    vector,
)
from flowmatch.flow.synthetic.scene import (
    Bend,
    FlowSample,
    Layer,
    Matrix,
    Motion,
    Movement,
    Scene,
    shift,
)
from flowmatch.flow.synthetic.sources import Sources, backdrop, cutout, resize, shrink

Generator = np.random.Generator
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class SyntheticFlow:
    """An endless, repeatable collection of pairs: item `i` is always the same for one seed.

    Attributes:
        sources: Where the textures come from.
        size: Height and width of the frames.
        motion: Factors on all motions and how often each is drawn, ``(factor, weight)``. At factor
            1 the camera moves by about 5 pixels and objects by 7 more.
        rooms: Share of the scenes that are planes in space under a moving camera (`rooms`), the
            others being flat layers.
        backward: Give the flow from the second frame to the first, and its occlusion, as well.
        seed: Another seed, another collection.
        length: The number of items it claims to have.

    Example:
        >>> sample = SyntheticFlow(size=(64, 96))[0]
        >>> sample.first.shape, sample.flow.shape, sample.occluded.shape
        ((64, 96, 3), (64, 96, 2), (64, 96))
    """

    sources: Sources = field(default_factory=Sources)
    size: tuple[int, int] = (192, 256)
    motion: tuple[tuple[float, float], ...] = ((0.3, 0.2), (1.0, 0.5), (2.5, 0.3))
    rooms: float = 0.35
    backward: bool = False
    seed: int = 0
    length: int = 1_000_000

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> FlowSample:
        return paint(self.plan(index), self.backward)

    def plan(self, index: int, seeded: bool = False) -> Plan:
        """Draw item `index`, and paint nothing yet.

        Args:
            index: Of the item.
            seeded: Leave the noise to whoever paints. That is faster; noise, compression and
                mirroring are then drawn as well, but are not those of the item.

        Raises:
            IndexError: There is no such item.
        """
        if not 0 <= index < self.length:
            raise IndexError(f"index must be below {self.length}, got {index}")
        rng = np.random.default_rng([self.seed, index])
        draw = random_room if rng.random() < self.rooms else random_scene
        scene = draw(rng, self.sources, self.size, self._factor(rng))
        return Plan(scene, draw_effects(rng, self.size, seeded), draw_flip(rng))

    def _factor(self, rng: Generator) -> float:
        factors, weights = np.array(self.motion, np.float64).T
        return float(rng.choice(factors, p=weights / weights.sum()))


@dataclass(frozen=True)
class SyntheticPlans:
    """The plans of synthetic pairs, which `render.render_plans` paints.

    Attributes:
        pairs: What there is to be painted; `SyntheticFlow.backward` is not.
    """

    pairs: SyntheticFlow

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Plan:
        return self.pairs.plan(index, seeded=True)


def random_scene(
    rng: Generator, sources: Sources, size: tuple[int, int], factor: float = 1.0
) -> Scene:
    """Draw a background, two to twelve objects, and how everything moves.

    Args:
        rng: The only source of chance.
        sources: Where the textures come from.
        size: Height and width of the frames.
        factor: Multiplies translations; rotation and zoom grow with it up to twice.
    """
    H, W = size
    camera = random_motion(rng, (W / 2, H / 2), factor, angle=0.04, zoom=0.04, pixels=5)
    layers = [background(rng, sources, size)]
    for _ in range(rng.integers(2, 13)):
        centre, pixels = random_spot(rng, size)
        motion = Motion()  # a fifth stand still in the world and only follow the camera
        if rng.random() < 0.8:
            motion = random_motion(rng, centre, factor, angle=0.08, zoom=0.06, pixels=7)
        layers.append(foreground(rng, sources, centre, pixels, motion, factor))
    return Scene(size, tuple(layers), camera)


def random_room(
    rng: Generator, sources: Sources, size: tuple[int, int], factor: float = 1.0
) -> Scene:
    """Draw a box in space, up to eight objects in it, and a camera that moves through it.

    Args:
        rng: The only source of chance.
        sources: Where the textures come from.
        size: Height and width of the frames.
        factor: Multiplies the motion of the camera and of the objects.
    """
    box = random_box(rng)
    camera = random_drive(rng, size, box, factor)
    backdrop = background(rng, sources, size)
    layers = box_layers(box, camera, backdrop.texture, backdrop.place)
    for _ in range(rng.integers(0, 9)):
        centre, pixels = random_spot(rng, size)
        motion = _standing(rng, box, camera, centre, factor)
        layers.append(foreground(rng, sources, centre, pixels, motion, factor))
    return Scene(size, tuple(layers))


def _standing(
    rng: Generator, box: Box, camera: Drive, centre: tuple[float, float], factor: float
) -> PlaneMotion:
    """Stand a plane in the box, seen at `centre`, turned a little, half of the time moving."""
    depth = float(box.depth(camera, centre)) * rng.uniform(0.35, 0.95)
    depth = max(depth, 2 * abs(camera.velocity[2]) + 0.2)
    point = depth * np.linalg.inv(camera.matrix) @ np.array([*centre, 1.0])
    normal = np.array([*(rng.normal(size=2) * 0.3), 1.0])
    velocity = np.zeros(3)
    if rng.random() < 0.5:
        pixels = min(rng.exponential(7 * factor), 56 * factor)
        heading = rng.uniform(0, 2 * np.pi)
        way = np.array([np.cos(heading), np.sin(heading), rng.normal() * 0.5])
        velocity = way * pixels * depth / camera.focal
        velocity[2] = np.clip(velocity[2], -0.3 * depth, 0.3 * depth)
    return PlaneMotion(camera, vector(normal), float(normal @ point), vector(velocity))


def random_spot(rng: Generator, size: tuple[int, int]) -> tuple[tuple[float, float], float]:
    """Draw where an object is, perhaps half outside the frame, and how large, in pixels."""
    H, W = size
    centre = (rng.uniform(-0.1, 1.1) * W, rng.uniform(-0.1, 1.1) * H)
    return centre, float(np.exp(rng.uniform(np.log(20), np.log(200))))


def random_bend(
    rng: Generator, centre: tuple[float, float], pixels: float, factor: float
) -> Bend | None:
    """Let a sixth of the objects bend, by at most a fifth of their size."""
    if rng.random() >= 1 / 6:
        return None
    count = int(rng.integers(1, 4))
    reach = pixels * rng.uniform(0.15, 0.4, count)
    pull = rng.normal(size=(count, 2)) * min(3 * factor, 8)
    # Steeper than this and the object would fold over itself.
    most = (0.5 * reach / count)[:, None]
    centres = np.array(centre) + rng.normal(size=(count, 2)) * pixels / 4
    return Bend(centres, pull.clip(-most, most), reach)


def random_motion(
    rng: Generator,
    centre: tuple[float, float],
    factor: float,
    angle: float,
    zoom: float,
    pixels: float,
) -> Motion:
    """Draw a motion: mostly small, with a long tail; `factor` is as in `random_scene`."""
    turn = min(factor, 2)
    heading = rng.uniform(0, 2 * np.pi)
    length = min(rng.exponential(pixels * factor), 8 * pixels * factor)
    perspective = (0.0, 0.0)
    if rng.random() < 0.2:
        perspective = tuple((rng.normal(size=2) * 1e-4 * turn).tolist())
    return Motion(
        centre=centre,
        translation=(float(length * np.cos(heading)), float(length * np.sin(heading))),
        rotation=float(rng.normal() * angle * turn),
        zoom=float(rng.normal() * zoom * turn),
        perspective=perspective,
    )


def background(rng: Generator, sources: Sources, size: tuple[int, int]) -> Layer:
    """Cut a part out of a photograph or texture and turn it a little."""
    H, W = size
    picture = backdrop(rng, sources)
    h, w = picture.shape[:2]
    scale = np.exp(rng.uniform(np.log(0.35), np.log(1.6)))  # texture pixels for a frame pixel
    scale = min(scale, (h - 2) / (H + 40), (w - 2) / (W + 40))
    x, y = rng.uniform(0, max(w - W * scale, 0)), rng.uniform(0, max(h - H * scale, 0))
    # Only what may come into view, plus half a frame on each side, is worth shrinking.
    x0, y0 = max(0, int(x - W * scale / 2)), max(0, int(y - H * scale / 2))
    picture = picture[y0 : int(y + 1.5 * H * scale), x0 : int(x + 1.5 * W * scale)]
    picture, shrunk = shrink(picture, scale)
    scale *= shrunk
    place = np.diag([1 / scale, 1 / scale, 1.0]) @ shift((x0 - x) * shrunk, (y0 - y) * shrunk)
    turn = Motion(centre=(W / 2, H / 2), rotation=float(rng.normal() * 0.1)).at(1)
    return Layer(picture, turn @ place)


def foreground(
    rng: Generator,
    sources: Sources,
    centre: tuple[float, float],
    pixels: float,
    motion: Movement,
    factor: float = 1.0,
) -> Layer:
    """Take a cut-out, or cut a random shape out of a texture, `pixels` large, at `centre`."""
    if sources.cutouts and rng.random() < 0.6:
        picture = cutout(rng, sources)
        colours, alpha = picture[..., :3], picture[..., 3]
    else:
        colours, alpha = _cut(rng, backdrop(rng, sources), 256)
    scale = pixels / max(alpha.shape)
    colours, shrunk = shrink(colours, 1 / scale)
    alpha, _ = shrink(alpha, 1 / scale)
    scale /= shrunk
    h, w = alpha.shape
    angle = rng.uniform(-np.pi, np.pi) if rng.random() < 0.5 else rng.normal() * 0.3
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    turn: Matrix = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    place = shift(*centre) @ turn @ shift(-w / 2, -h / 2)
    return Layer(colours, place, motion, alpha, random_bend(rng, centre, pixels, factor))


def _cut(rng: Generator, picture: Image, size: int) -> tuple[Image, Image]:
    """Return a random square of `picture`, ``[size, size, 3]``, and a random outline for it."""
    h, w = picture.shape[:2]
    side = min(int(size * np.exp(rng.uniform(np.log(0.4), np.log(1.5)))), h, w)
    y, x = rng.integers(h - side + 1), rng.integers(w - side + 1)
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    square = resize(picture[y : y + side, x : x + side], (size, size), how)
    return square, textures.outline(rng, size)
