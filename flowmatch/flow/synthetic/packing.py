"""Plans of synthetic pairs as few tensors, which a process sends to another, and to a device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmatch._opencv import cv2
from flowmatch.flow.synthetic.effects import Effects, shutter_times
from flowmatch.flow.synthetic.plan import Flip, Plan
from flowmatch.flow.synthetic.scene import Bend, Layer, bounds

MOST_BENDS = 3  # centres of a layer, as `synthetic.random_bend` draws them
PIXELS_AT_ONCE = 1 << 20  # of layers; each takes about 500 bytes for a moment


class Pass(NamedTuple):
    """Rectangles `start` to `stop` of the table: all of one depth, so none covers another."""

    start: int
    stop: int
    depth: int
    bent: bool
    mirrored: bool


@dataclass(frozen=True)
class PackedPlans:
    """Plans as tensors, to be sent to a device. V views are painted of L layers, in R rectangles.

    The views are all first frames, all second ones, and then for each pair with motion blur what is
    seen around the first frame and around the second.

    Attributes:
        size: Height and width of the frames.
        texels: Textures with opacity and a border of one pixel, RGBA, ``[N, 4]`` uint8.
        places: Of each rectangle: its view, left, top, width and height there, the first texel of
            its texture, and the texture's height and width, ``[R, 8]`` int64.
        poses: Frame pixels to texture pixels, ``[R, 3, 3]`` float64.
        bends: Of each rectangle at its time, ``[R, 3, 5]`` float64: centre, pull, reach.
        passes: Which rectangles are painted together, back to front.
        motions: First frame to second frame, of each layer, ``[B, L, 3, 3]`` float64.
        layer_bends: Of each layer in the second frame, ``[B, L, 3, 5]`` float64.
        effects: What happens to the frames of each pair.
        flips: How each pair is mirrored.
    """

    size: tuple[int, int]
    texels: Tensor
    places: Tensor
    poses: Tensor
    bends: Tensor
    passes: tuple[Pass, ...]
    motions: Tensor
    layer_bends: Tensor
    effects: tuple[Effects, ...]
    flips: tuple[Flip, ...]


class _Rectangle(NamedTuple):
    """A layer in a view."""

    sort: tuple[int, bool, bool]  # depth, bent, mirrored
    place: tuple[int, ...]
    pose: NDArray[np.float64]
    bend: NDArray[np.float64]


def pack(plans: Sequence[Plan]) -> PackedPlans:
    """Make few tensors of plans, which one process can send to another and to a device.

    Args:
        plans: Of pairs of one size.

    Raises:
        ValueError: There is no plan, or their sizes differ.
    """
    sizes = {plan.scene.size for plan in plans}
    if len(sizes) != 1:
        raise ValueError(f"plans must have one size, got {sorted(sizes) or 'no plan'}")
    texels, starts = _pack_textures(plans)
    found = [
        rectangle
        for view, (item, time) in enumerate(_views(plans))
        for rectangle in _rectangles(plans[item], time, view, starts[item])
    ]
    found.sort(key=lambda rectangle: rectangle.sort)
    depth = max(len(plan.scene.layers) for plan in plans)
    ends = np.tile(np.eye(3), (2, len(plans), depth, 1, 1))  # poses in the first and second frame
    layer_bends = np.tile(_bend_row(None, 1), (len(plans), depth, 1, 1))
    for b, plan in enumerate(plans):
        for index, layer in enumerate(plan.scene.layers):
            ends[:, b, index] = [plan.scene.pose(index, time) for time in (0, 1)]
            layer_bends[b, index] = _bend_row(layer.bend, 1)
    return PackedPlans(
        sizes.pop(),
        torch.from_numpy(texels),
        torch.tensor([rectangle.place for rectangle in found]),
        torch.from_numpy(np.linalg.inv(np.stack([rectangle.pose for rectangle in found]))),
        torch.from_numpy(np.stack([rectangle.bend for rectangle in found])),
        tuple(_passes(found)),
        torch.from_numpy(ends[1] @ np.linalg.inv(ends[0])),
        torch.from_numpy(layer_bends),
        tuple(plan.effects for plan in plans),
        tuple(plan.flip for plan in plans),
    )


def _views(plans: Sequence[Plan]) -> Iterator[tuple[int, float]]:
    """Yield whose layers are painted, and at what time."""
    for time in (0.0, 1.0):
        yield from ((item, time) for item in range(len(plans)))
    for item, plan in enumerate(plans):
        if plan.effects.shutter is not None:
            around = shutter_times(plan.effects.shutter)
            yield from ((item, middle + float(t)) for middle in (0.0, 1.0) for t in around)


def _pack_textures(plans: Sequence[Plan]) -> tuple[NDArray[np.uint8], list[list[int]]]:
    """Return all textures, one after the other, and where each layer's begins."""
    parts: list[NDArray[np.uint8]] = []
    starts: list[list[int]] = []
    total = 0
    for plan in plans:
        starts.append([])
        for layer in plan.scene.layers:
            parts.append(_bordered(layer).reshape(-1, 4))
            starts[-1].append(total)
            total += len(parts[-1])
    return np.concatenate(parts), starts


def _bordered(layer: Layer) -> NDArray[np.uint8]:
    """Return colours and opacity with a border: colours go on, opacity ends."""
    opaque = cv2.cvtColor(layer.texture, cv2.COLOR_RGB2RGBA)
    texels = np.asarray(cv2.copyMakeBorder(opaque, 1, 1, 1, 1, cv2.BORDER_REPLICATE), np.uint8)
    if layer.alpha is not None:
        texels[..., 3] = cv2.copyMakeBorder(layer.alpha, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    return texels


def _rectangles(plan: Plan, time: float, view: int, starts: list[int]) -> Iterator[_Rectangle]:
    H, W = plan.scene.size
    for index, layer in enumerate(plan.scene.layers):
        pose = plan.scene.pose(index, time)
        x0, y0, x1, y1 = bounds(layer, pose, H, W)
        if x1 > x0 and y1 > y0:
            yield _Rectangle(
                (index, layer.bend is not None, layer.alpha is None),
                (view, x0, y0, x1 - x0, y1 - y0, starts[index], *layer.texture.shape[:2]),
                pose,
                _bend_row(layer.bend, time),
            )


def _bend_row(bend: Bend | None, time: float) -> NDArray[np.float64]:
    """Return centre, pull at that time and reach of each part of a bend, [3, 5]."""
    row = np.zeros((MOST_BENDS, 5))
    row[:, 4] = 1
    if bend is not None:
        if len(bend.reach) > MOST_BENDS:
            raise ValueError(f"a bend has at most {MOST_BENDS} centres, got {len(bend.reach)}")
        parts = np.column_stack([bend.centres, bend.pull * time, bend.reach])
        row[: len(parts)] = parts
    return row


def _passes(rectangles: Sequence[_Rectangle]) -> Iterator[Pass]:
    """Split sorted rectangles where the way to paint them changes, or there are many pixels."""
    at = 0
    for how, group in groupby(rectangles, key=lambda rectangle: rectangle.sort):
        start, pixels = at, 0
        for rectangle in group:
            area = rectangle.place[3] * rectangle.place[4]
            if pixels and pixels + area > PIXELS_AT_ONCE:
                yield Pass(start, at, *how)
                start, pixels = at, 0
            at, pixels = at + 1, pixels + area
        yield Pass(start, at, *how)
