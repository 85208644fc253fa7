"""Flow of large images in tiles, which bounds the memory of a network."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def blend_tiles(
    whole: Callable[[Tensor, Tensor], Tensor],
    first: Tensor,
    second: Tensor,
    tile: int,
    overlap: int,
) -> Tensor:
    """Blend the flows of overlapping tiles, weighted by the distance from a tile's border.

    Args:
        whole: Function that returns the flow of two images ``[B, 3, h, w]``.
        first: Images ``[B, 3, H, W]``.
        second: The later images.
        tile: Side of a tile, in pixels.
        overlap: Number of pixels that neighbouring tiles share.

    Returns:
        Flow ``[B, 2, H, W]``.
    """
    B, _, H, W = first.shape
    total = first.new_zeros(B, 2, H, W)
    weights = first.new_zeros(H, W)
    for y in _starts(H, tile, overlap):
        for x in _starts(W, tile, overlap):
            window = (..., slice(y, y + tile), slice(x, x + tile))
            flow = whole(first[window], second[window])
            h, w = flow.shape[-2:]
            ramp = [torch.minimum(torch.arange(n) + 1, n - torch.arange(n)) for n in (h, w)]
            fade = (r.clamp(max=overlap + 1).to(flow) for r in ramp)
            weight = torch.outer(*fade)
            total[window] += flow * weight
            weights[window] += weight
    return total / weights


def _starts(length: int, tile: int, overlap: int) -> Iterator[int]:
    """Yield the starts of tiles that are spread evenly over `length`; the last one ends with it."""
    if length <= tile:
        yield 0
        return
    count = -(-(length - overlap) // (tile - overlap))
    for i in range(count):
        yield round(i * (length - tile) / (count - 1))
