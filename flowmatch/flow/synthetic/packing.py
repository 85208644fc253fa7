"""Plans of synthetic pairs as a few tensors, which are sent to another process and to a device."""

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
from flowmatch.flow.synthetic.scene import Deformation, Layer, bounds
from flowmatch.imaging import Image

MAX_CENTRES = 3
"""Largest number of centres of a deformation (`pairs.sample_deformation`)."""
PIXELS_AT_ONCE = 1 << 20
"""Number of layer pixels that are rendered together; each takes about 500 bytes meanwhile."""


class Pass(NamedTuple):
    """Rectangles that are rendered together: all of one depth, so none covers another.

    Attributes:
        start: First rectangle of the table.
        stop: Rectangle after the last.
        depth: Index of the layer in its scene.
        deformed: The layers have a deformation.
        mirrored: The textures continue mirrored beyond their border.
    """

    start: int
    stop: int
    depth: int
    deformed: bool
    mirrored: bool


@dataclass(frozen=True)
class PackedPlans:
    """Plans as tensors: V views of L layers, in R rectangles.

    The views are all first frames, all second frames, and then for each pair with motion blur those
    around the first frame and around the second.

    Attributes:
        size: Height and width of the frames.
        texels: Textures with opacity and a border of one pixel, RGBA, ``[N, 4]`` uint8.
        rectangles: View of each rectangle; left, top, width and height in it; first texel, height
            and width of its texture; ``[R, 8]`` int64.
        poses: Matrices from frame pixels to texture pixels, ``[R, 3, 3]`` float64.
        deformations: Centre, displacement and radius of each rectangle's deformation at its time,
            ``[R, 3, 5]`` float64.
        passes: Groups of rectangles that are rendered together, back to front.
        motions: Matrices of each layer from first to second frame, ``[B, L, 3, 3]`` float64.
        layer_deformations: Deformation of each layer in the second frame, ``[B, L, 3, 5]`` float64.
        effects: Effects on the frames of each pair.
        flips: Mirroring of each pair.
    """

    size: tuple[int, int]
    texels: Tensor
    rectangles: Tensor
    poses: Tensor
    deformations: Tensor
    passes: tuple[Pass, ...]
    motions: Tensor
    layer_deformations: Tensor
    effects: tuple[Effects, ...]
    flips: tuple[Flip, ...]


class _Rectangle(NamedTuple):
    """A layer in a view.

    Attributes:
        group: Depth, whether it is deformed, and whether its texture is mirrored.
        row: Row of `PackedPlans.rectangles`.
        pose: Matrix from texture pixels to frame pixels.
        deformation: Row of `PackedPlans.deformations`.
    """

    group: tuple[int, bool, bool]
    row: tuple[int, ...]
    pose: NDArray[np.float64]
    deformation: NDArray[np.float64]


def pack_plans(plans: Sequence[Plan]) -> PackedPlans:
    """Convert plans to a few tensors, which a process can send to another and to a device.

    Args:
        plans: Plans of one frame size.

    Raises:
        ValueError: No plans are given, or their sizes differ.
    """
    sizes = {plan.scene.size for plan in plans}
    if len(sizes) != 1:
        raise ValueError(f"plans must have one size, got {sorted(sizes) or 'no plan'}")
    texels, starts = _pack_textures(plans)
    rectangles = [
        rectangle
        for view, (item, time) in enumerate(_views(plans))
        for rectangle in _rectangles(plans[item], time, view, starts[item])
    ]
    rectangles.sort(key=lambda rectangle: rectangle.group)
    depth = max(len(plan.scene.layers) for plan in plans)
    poses = np.tile(np.eye(3), (2, len(plans), depth, 1, 1))  # in the first and second frame
    layer_deformations = np.tile(_deformation_row(None, 1), (len(plans), depth, 1, 1))
    for b, plan in enumerate(plans):
        for index, layer in enumerate(plan.scene.layers):
            poses[:, b, index] = [plan.scene.pose(index, time) for time in (0, 1)]
            layer_deformations[b, index] = _deformation_row(layer.deformation, 1)
    return PackedPlans(
        sizes.pop(),
        torch.from_numpy(texels),
        torch.tensor([rectangle.row for rectangle in rectangles]),
        torch.from_numpy(np.linalg.inv(np.stack([rectangle.pose for rectangle in rectangles]))),
        torch.from_numpy(np.stack([rectangle.deformation for rectangle in rectangles])),
        tuple(_passes(rectangles)),
        torch.from_numpy(poses[1] @ np.linalg.inv(poses[0])),
        torch.from_numpy(layer_deformations),
        tuple(plan.effects for plan in plans),
        tuple(plan.flip for plan in plans),
    )


def _views(plans: Sequence[Plan]) -> Iterator[tuple[int, float]]:
    """Yield the plan and the time of each view."""
    for time in (0.0, 1.0):
        yield from ((item, time) for item in range(len(plans)))
    for item, plan in enumerate(plans):
        if plan.effects.shutter is not None:
            offsets = shutter_times(plan.effects.shutter)
            yield from ((item, time + float(offset)) for time in (0.0, 1.0) for offset in offsets)


def _pack_textures(plans: Sequence[Plan]) -> tuple[NDArray[np.uint8], list[list[int]]]:
    """Return all textures, one after the other, and the first texel of each layer's."""
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


def _bordered(layer: Layer) -> Image:
    """Return RGBA with a border of one pixel: colours are repeated, opacity is 0."""
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
                (index, layer.deformation is not None, layer.alpha is None),
                (view, x0, y0, x1 - x0, y1 - y0, starts[index], *layer.texture.shape[:2]),
                pose,
                _deformation_row(layer.deformation, time),
            )


def _deformation_row(deformation: Deformation | None, time: float) -> NDArray[np.float64]:
    """Return centre, displacement at a time and radius of each part of a deformation, [3, 5]."""
    row = np.zeros((MAX_CENTRES, 5))
    row[:, 4] = 1
    if deformation is not None:
        count = len(deformation.radii)
        if count > MAX_CENTRES:
            raise ValueError(f"a deformation has at most {MAX_CENTRES} centres, got {count}")
        row[:count] = np.column_stack(
            [deformation.centres, deformation.displacements * time, deformation.radii]
        )
    return row


def _passes(rectangles: Sequence[_Rectangle]) -> Iterator[Pass]:
    """Split sorted rectangles between groups, and within a group that has too many pixels."""
    index = 0
    for group, members in groupby(rectangles, key=lambda rectangle: rectangle.group):
        start, pixels = index, 0
        for rectangle in members:
            area = rectangle.row[3] * rectangle.row[4]
            if pixels and pixels + area > PIXELS_AT_ONCE:
                yield Pass(start, index, *group)
                start, pixels = index, 0
            index, pixels = index + 1, pixels + area
        yield Pass(start, index, *group)
