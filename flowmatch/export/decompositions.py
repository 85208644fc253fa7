"""The operators of flowmatch as sequences of PyTorch's own, which have counterparts in ONNX.

They compute what the references do, with few nodes and with memory access that runtimes do well;
the references would become thousands of nodes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def correlation(
    f1: Tensor,
    f2: Tensor,
    radius: int | Sequence[int],
    stride: int,
    tf32: bool = False,
    offset: Sequence[int] = (0, 0),
) -> Tensor:
    """Compute `flowmatch.ops.correlation` by one gather for each row of displacements.

    Channels are last, so that a pixel is copied as a whole. Memory: ``2 * radius + 1`` times that
    of the features.
    """
    B, C, H, W = f1.shape
    ry, rx = (radius, radius) if isinstance(radius, int) else radius
    # The smallest and the largest displacement along each axis.
    (y1, y2), (x1, x2) = (
        (o - r * stride, o + r * stride) for r, o in zip((ry, rx), offset, strict=True)
    )
    top, left = max(0, -y1), max(0, -x1)
    first = f1.permute(0, 2, 3, 1).unsqueeze(3)  # [B, H, W, 1, C]
    second = F.pad(f2, (left, max(0, x2), top, max(0, y2))).permute(0, 2, 3, 1)
    side = 2 * rx + 1
    steps = left + x1 + stride * torch.arange(side, device=f1.device)
    columns = (torch.arange(W, device=f1.device)[:, None] + steps).flatten()
    rows = []
    for y in range(top + y1, top + y2 + 1, stride):
        windows = second[:, y : y + H].index_select(2, columns).view(B, H, W, side, C)
        rows.append((first * windows).mean(-1))  # [B, H, W, side]
    return torch.cat(rows, dim=-1).permute(0, 3, 1, 2)


def correlation_lookup(
    f1: Tensor,
    f2: Tensor,
    coords: Tensor,
    scale_y: float,
    scale_x: float,
    radius_y: int,
    radius_x: int,
) -> Tensor:
    """Compute one level of `flowmatch.ops.correlation_lookup` from the volume of all pairs.

    As the volume depends on the features alone, a runtime computes it once for all iterations.
    Memory grows with the square of the number of pixels, unlike that of the kernels.
    """
    B, H, W, C = f1.shape
    H2, W2 = f2.shape[1:3]
    volume = f1.flatten(1, 2) @ f2.flatten(1, 2).transpose(1, 2) / math.sqrt(C)
    x, y = (
        (centre[..., None].flatten(0, 2) * scale + _steps(radius, coords))[..., None]
        for centre, scale, radius in (
            (coords[:, 0], scale_x, radius_x),
            (coords[:, 1], scale_y, radius_y),
        )
    )  # [B * H * W, side, 1] each
    shape = (-1, 2 * radius_y + 1, 2 * radius_x + 1)
    grid = torch.stack(
        [
            ((2 * x + 1) / W2 - 1).transpose(1, 2).expand(shape),
            ((2 * y + 1) / H2 - 1).expand(shape),
        ],
        dim=-1,
    )
    # grid_sample's coordinates of the pixel centres are -1 + 1/W ... 1 - 1/W.
    windows = F.grid_sample(volume.view(B * H * W, 1, H2, W2), grid, align_corners=False)
    return windows.view(B, H, W, shape[1] * shape[2]).permute(0, 3, 1, 2)


def correlation_lookup_pyramid(
    f1: Tensor, f2: list[Tensor], coords: Tensor, halve_rows: bool, radius_y: int, radius_x: int
) -> Tensor:
    """Compute all levels of `flowmatch.ops.correlation_lookup`, each as by the function above."""
    parts = []
    for n, level in enumerate(f2):
        scales = 0.5**n if halve_rows else 1.0, 0.5**n
        parts.append(correlation_lookup(f1, level, coords, *scales, radius_y, radius_x))
    return torch.cat(parts, dim=1)


def _steps(radius: int, like: Tensor) -> Tensor:
    return torch.arange(-radius, radius + 1, device=like.device).to(like.dtype)


def decompositions() -> dict[Any, Callable[..., Tensor]]:
    """Return the decomposition of each operator that networks use."""
    ops = torch.ops.flowmatch
    return {
        ops.correlation.default: correlation,
        ops.correlation_lookup.default: correlation_lookup,
        ops.correlation_lookup_pyramid.default: correlation_lookup_pyramid,
    }
