"""Rendered clips whose objects and points are known in every frame."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowmatch.flow.synthetic import Scene, Sources
from flowmatch.flow.synthetic.pairs import sample_flat_scene
from flowmatch.imaging import Generator, Image
from flowmatch.tracking.boxes import Boxes, inside_share
from flowmatch.tracking.synthetic.objects import object_box, visible_share

SIZE = (192, 256)
"""Height and width of the frames."""
LENGTH = 24
"""Number of frames."""
_SWING = 2.5  # largest time of a scene, in the unit of its motions
_NOISE = 3.0  # standard deviation, of 255 levels
_SMALLEST = 16.0  # side of a box that is tracked, pixels
_SEEN, _SEEN_ALWAYS = 0.8, 0.5  # visible share of such an object: first, and in the mean
_MOST_OBJECTS, _POINTS = 3, 256


@dataclass(frozen=True)
class RenderedClip:
    """A clip of T frames with N objects and P points.

    Attributes:
        frames: The frames, T of ``[H, W, 3]``.
        boxes: Boxes of the whole objects, ``[T, N, 4]``, pixels.
        shares: Visible share of each object, ``[T, N]``, about 0 to 1.
        points: Positions (x, y) of points, ``[T, P, 2]``, pixels.
        visible: Whether each point is visible, ``[T, P]``.
    """

    frames: tuple[Image, ...]
    boxes: Boxes
    shares: NDArray[np.float64]
    points: NDArray[np.float64]
    visible: NDArray[np.bool_]


def render_clip(sources: Sources, seed: int, factor: float = 1.0) -> RenderedClip:
    """Render a clip: a background and objects that move away, come back, and cover each other.

    Args:
        sources: Sources of the textures.
        seed: Random seed; the same seed gives the same clip.
        factor: Factor on the motions. At 1 the camera moves by about 2 pixels a frame and objects
            by 3 more.

    Returns:
        A clip of `LENGTH` frames of `SIZE`, with at least one object and at most three, which are
        in the frame and visible at first, and 256 random points of the first frame.

    Example:
        >>> clip = render_clip(Sources(textures=range(2)), seed=0)
        >>> len(clip.frames), clip.points.shape
        (24, (24, 256, 2))
    """
    rng = np.random.default_rng([seed, 3])
    times = _SWING * np.sin(2 * np.pi * np.arange(LENGTH) / LENGTH)
    while True:
        scene = sample_flat_scene(rng, sources, SIZE, factor)
        renderings = [scene.render(float(time)) for time in times]
        layers = [rendering.layer for rendering in renderings]
        boxes, shares = _objects(scene, times, layers)
        if boxes.shape[1]:
            break
    H, W = SIZE
    start = np.stack([rng.integers(W, size=_POINTS), rng.integers(H, size=_POINTS)], 1)
    x, y = start.T
    points, visible = [start.astype(np.float64)], [np.ones(_POINTS, np.bool_)]
    for time, rendering in zip(times[1:], renderings[1:], strict=True):
        flow, hidden = scene.flow(renderings[0], 0, float(time), rendering)
        points.append(start + flow[y, x].astype(np.float64))
        visible.append(~hidden[y, x])
    frames = tuple(_add_noise(rng, rendering.image) for rendering in renderings)
    return RenderedClip(frames, boxes, shares, np.stack(points), np.stack(visible))


def _objects(
    scene: Scene, times: NDArray[np.float64], layers: list[NDArray[np.int16]]
) -> tuple[Boxes, NDArray[np.float64]]:
    """Return boxes ``[T, N, 4]`` and visible shares ``[T, N]`` of the objects to be tracked."""
    boxes, shares = [], []
    for index, layer in enumerate(scene.layers):
        if layer.alpha is None:
            continue
        track = np.stack([object_box(scene, index, float(time)) for time in times])
        if track[0, 2:].min() < _SMALLEST or inside_share(track[0], SIZE) < 1:
            continue
        seen = [
            visible_share(scene, index, float(time), visible)
            for time, visible in zip(times, layers, strict=True)
        ]
        if seen[0] >= _SEEN and np.mean(seen) >= _SEEN_ALWAYS:
            boxes.append(track)
            shares.append(seen)
    if not boxes:
        return np.empty((len(times), 0, 4)), np.empty((len(times), 0))
    return np.stack(boxes[-_MOST_OBJECTS:], 1), np.stack(shares[-_MOST_OBJECTS:], 1)


def _add_noise(rng: Generator, image: NDArray[np.float32]) -> Image:
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    return np.asarray((image + _NOISE * grain).round().clip(0, 255), np.uint8)
