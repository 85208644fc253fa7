"""Flow of large frames in tiles, which bounds the memory."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch._opencv import cv2

Estimate = Callable[[Any, Any], Tensor]

GUESSED = 500_000
"""Largest frame in pixels from which the motion of the tiles is guessed."""
NARROWEST = 64
"""Smallest side of such a frame."""


def blend_tiles(
    estimate: Estimate,
    first: Any,
    second: Any,
    tile: int,
    overlap: int,
    guess: Tensor | None = None,
) -> Tensor:
    """Blend the flows of overlapping tiles, weighted by the distance from a tile's border.

    Args:
        estimate: Function that returns the flow ``[B, 2, h, w]`` of two tiles.
        first: Image ``[H, W, C]`` or ``[H, W]``, or a batch of images as a tensor ``[B, C, H, W]``.
        second: The later image or batch.
        tile: Side of a tile, in pixels.
        overlap: Number of pixels that neighbouring tiles share.
        guess: Approximate flow of one pair at a lower resolution, ``[1, 2, h, w]``, in pixels of
            that. Each tile of the second image is moved by the median of the guess within the tile,
            so that long motion does not leave it.

    Returns:
        Flow ``[B, 2, H, W]``.
    """
    H, W = _size(first)
    h, w = min(tile, H), min(tile, W)
    ramp = [torch.minimum(torch.arange(n) + 1, n - torch.arange(n)) for n in (h, w)]
    down, across = (r.clamp(max=overlap + 1).float() for r in ramp)
    starts = list(_starts(H, tile, overlap)), list(_starts(W, tile, overlap))
    weight, total = torch.outer(down, across), torch.zeros(0)
    for y in starts[0]:
        for x in starts[1]:
            dy, dx = (0, 0) if guess is None else _shift(guess, (y, x), (h, w), (H, W))
            moved = _crop(second, y + dy, x + dx, h, w)
            flow = estimate(_crop(first, y, x, h, w), moved)
            if not total.numel():
                total = flow.new_zeros(len(flow), 2, H, W)
                weight = weight.to(flow)
            window = (..., slice(y, y + h), slice(x, x + w))
            total[window] += (flow + flow.new_tensor([dx, dy]).view(2, 1, 1)) * weight
    # The tiles are a grid, so the sum of their weights is a product of two sums.
    total.div_(_sum_of_ramps(down, starts[0], H).to(total)[:, None])
    return total.div_(_sum_of_ramps(across, starts[1], W).to(total))


def _sum_of_ramps(ramp: Tensor, starts: Sequence[int], length: int) -> Tensor:
    total = torch.zeros(length)
    for start in starts:
        total[start : start + len(ramp)] += ramp
    return total


def reduced(image: Any) -> Any:
    """Return an image, or a batch, reduced to `GUESSED` pixels; None if it is small or narrow.

    Args:
        image: Image ``[H, W, C]`` or ``[H, W]``, or a tensor ``[B, C, H, W]``.
    """
    H, W = _size(image)
    scale = (GUESSED / (H * W)) ** 0.5
    if scale >= 1 or scale * min(H, W) < NARROWEST:
        return None
    size = (round(scale * H), round(scale * W))
    if not isinstance(image, Tensor):
        pixels = image if image.dtype == np.uint8 else np.asarray(image, np.float32)
        return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)
    small = F.interpolate(image.float(), size, mode="bilinear", antialias=True)
    return small.round().to(image.dtype) if image.dtype == torch.uint8 else small.clamp(0, 1)


def _size(image: Any) -> tuple[int, int]:
    return tuple(image.shape[-2:] if isinstance(image, Tensor) else image.shape[:2])


def _crop(image: Any, y: int, x: int, height: int, width: int) -> Any:
    window = (slice(y, y + height), slice(x, x + width))
    return image[(..., *window)] if isinstance(image, Tensor) else image[window]


def _shift(
    guess: Tensor, start: tuple[int, int], tile: tuple[int, int], frame: tuple[int, int]
) -> tuple[int, int]:
    """Return the motion (y, x) of a tile in whole pixels; moved by it, the tile stays inside."""
    scale = [n / small for n, small in zip(frame, guess.shape[-2:], strict=True)]
    begin = [int(at / s) for at, s in zip(start, scale, strict=True)]
    end = [int(np.ceil((at + n) / s)) for at, n, s in zip(start, tile, scale, strict=True)]
    within = guess[0, :, begin[0] : end[0], begin[1] : end[1]].flatten(1)
    dx, dy = within.median(dim=1).values.tolist()
    shifts = (round(dy * scale[0]), round(dx * scale[1]))
    dy, dx = (
        min(max(shift, -at), whole - n - at)
        for shift, at, n, whole in zip(shifts, start, tile, frame, strict=True)
    )
    return int(dy), int(dx)


def _starts(length: int, tile: int, overlap: int) -> Iterator[int]:
    """Yield the starts of tiles that are spread evenly over `length`; the last one ends with it."""
    if length <= tile:
        yield 0
        return
    count = -(-(length - overlap) // (tile - overlap))
    for i in range(count):
        yield round(i * (length - tile) / (count - 1))
