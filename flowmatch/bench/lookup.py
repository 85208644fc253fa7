"""The lookup on demand, beside RAFT's volume of all pairs and what plain PyTorch offers."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.bench.measure import Case, Implementation
from flowmatch.ops import correlation_lookup, correlation_pyramid
from flowmatch.ops.lookup_reference import correlation_lookup_reference

# B, C, H, W, radius, levels, lookups: RAFT at 440 x 1024, all that it asks for one pair or once,
# and once at 1080 x 1920, where the volume takes gigabytes.
SHAPES = {
    "RAFT, 12 lookups": (1, 256, 55, 128, 4, 4, 12),
    "RAFT, 1 lookup": (1, 256, 55, 128, 4, 4, 1),
    "1080p, 1 lookup": (1, 256, 135, 240, 4, 4, 1),
}
_MOST_BYTES = 2e9  # of a volume, or of the pixels of all windows


def lookup_cases(
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
) -> list[Case]:
    """Return what RAFT looks up, by ours and by torch's idioms where they fit into memory.

    Args:
        device: Where to compute.
        dtype: Any float type.
        shapes: ``(B, C, H, W, radius, levels, lookups)`` by the name of the case.
    """
    return [_case(name, shape, device, dtype) for name, shape in shapes.items()]


def _case(name: str, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Case:
    B, C, H, W, radius, levels, lookups = shape
    generator = torch.Generator().manual_seed(0)
    f1, f2 = (
        torch.randn(B, C, H, W, generator=generator)
        .to(device, dtype)
        .contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    wide = torch.promote_types(dtype, torch.float32)
    coords = _smooth_coords(B, H, W, generator).to(device, wide)
    ways: list[tuple[str, Any]] = [("flowmatch", _ours)]
    fits = B * (H * W) ** 2 * 4 < _MOST_BYTES
    if fits:
        ways.append(("torch: volume of all pairs", _volume))
    if fits and lookups == 1:
        ways.append(("torch: gather on demand", _gather))
    implementations = tuple(
        Implementation(label, lambda *t, way=way: way(*t, radius, levels, lookups))
        for label, way in ways
    )
    flops = 2.0 * B * C * H * W * levels * (2 * radius + 2) ** 2 * lookups
    truth = partial(_truth, radius=radius, levels=levels, lookups=lookups, rows=None if fits else 2)
    # Coordinates of hundreds of pixels, in float32: the fourth digit of a weight is uncertain.
    close = (1e-3, 1e-3 * lookups) if dtype == torch.float32 else None
    return Case("lookup", name, (f1, f2, coords), flops, truth, implementations, None, fits, close)


def _smooth_coords(B: int, H: int, W: int, generator: torch.Generator) -> Tensor:
    """Where a flow of some pixels, smooth but for a little noise, points."""
    y, x = torch.meshgrid(torch.arange(float(H)), torch.arange(float(W)), indexing="ij")
    coarse = 6 * torch.randn(B, 2, 4, 6, generator=generator)
    flow = F.interpolate(coarse, size=(H, W), mode="bicubic")
    return torch.stack([x, y]) + flow + 0.2 * torch.randn(B, 2, H, W, generator=generator)


def _shifted(coords: Tensor, lookups: int) -> list[Tensor]:
    """Return where each iteration looks: the flow moves by half a pixel."""
    return [coords + 0.5 * n for n in range(lookups)]


def _ours(f1: Tensor, f2: Tensor, coords: Tensor, radius: int, levels: int, lookups: int) -> Tensor:
    pyramid = correlation_pyramid(f2, levels)
    # Each iteration of RAFT uses its lookup and lets go of it.
    total = torch.zeros((), device=f1.device, dtype=f1.dtype)
    for at in _shifted(coords, lookups):
        total = total + correlation_lookup(f1, pyramid, at, radius)
    return total


def _volume(
    f1: Tensor, f2: Tensor, coords: Tensor, radius: int, levels: int, lookups: int
) -> Tensor:
    """Do as RAFT does: multiply all pairs, pool the volume, sample it by `grid_sample`."""
    B, C, H, W = f1.shape
    volume = (f1.flatten(2).transpose(1, 2) @ f2.flatten(2)) / C**0.5
    volume = volume.view(B * H * W, 1, H, W)
    pyramid = [volume]
    for _ in range(levels - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    steps = torch.arange(-radius, radius + 1, device=f1.device, dtype=coords.dtype)
    window = torch.stack(torch.meshgrid(steps, steps, indexing="ij")[::-1], -1)
    total = torch.zeros((), device=f1.device, dtype=f1.dtype)
    for at in _shifted(coords, lookups):
        parts = []
        for i, level in enumerate(pyramid):
            points = at.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2) / 2**i + window
            size = points.new_tensor([level.shape[3] - 1, level.shape[2] - 1])
            grid = (2 * points / size - 1).to(level.dtype)
            sampled = F.grid_sample(level, grid, align_corners=True)
            parts.append(sampled.view(B, H, W, -1).permute(0, 3, 1, 2))
        total = total + torch.cat(parts, 1)
    return total


def _gather(
    f1: Tensor, f2: Tensor, coords: Tensor, radius: int, levels: int, lookups: int
) -> Tensor:
    """Sample the features of each window by `grid_sample`, a row at a time, and multiply."""
    B, C, H, W = f1.shape
    pyramid = correlation_pyramid(f2, levels)
    steps = torch.arange(-radius, radius + 1, device=f1.device, dtype=coords.dtype)
    parts = []
    for i, level in enumerate(pyramid):
        for dy in steps:
            points = coords.permute(0, 2, 3, 1)[..., None, :] / 2**i
            points = points + torch.stack([steps, dy.expand_as(steps)], -1)  # [B, H, W, side, 2]
            size = points.new_tensor([level.shape[3] - 1, level.shape[2] - 1])
            grid = (2 * points / size - 1).to(level.dtype).flatten(2, 3)
            sampled = F.grid_sample(level, grid, align_corners=True)
            sampled = sampled.view(B, C, H, W, -1)
            parts.append(torch.einsum("bchw,bchwk->bkhw", f1, sampled) / C**0.5)
    return torch.cat(parts, 1)


def _truth(
    f1: Tensor,
    f2: Tensor,
    coords: Tensor,
    radius: int,
    levels: int,
    lookups: int,
    rows: int | None,
) -> Tensor:
    """Take the volume's way, or for its first rows the reference's where that does not fit."""
    if rows is None:
        return _volume(f1, f2, coords, radius, levels, lookups)
    first = f1.permute(0, 2, 3, 1)[:, :rows]
    pyramid = [level.permute(0, 2, 3, 1) for level in correlation_pyramid(f2, levels)]
    where = coords[:, :, :rows]
    scales = [(0.5**i, 0.5**i) for i in range(levels)]
    parts = [
        correlation_lookup_reference(first, level, where, *scale, radius, radius)
        for level, scale in zip(pyramid, scales, strict=True)
    ]
    return torch.cat(parts, 1)
