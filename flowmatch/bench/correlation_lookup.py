"""Benchmark of the correlation lookup, against RAFT's all-pairs volume, localcorr and PyTorch."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.bench.measure import Case, Implementation, Suite
from flowmatch.ops import correlation_lookup, correlation_pyramid
from flowmatch.ops.correlation_lookup_reference import correlation_lookup_reference

# B, C, H, W, radius, levels, lookups: RAFT at 440 x 1024, with all lookups of a pair and with one;
# and one lookup at 1080 x 1920, where the volume takes gigabytes.
_SHAPES = {
    "RAFT, 12 lookups": (1, 256, 55, 128, 4, 4, 12),
    "RAFT, 1 lookup": (1, 256, 55, 128, 4, 4, 1),
    "1080p, 1 lookup": (1, 256, 135, 240, 4, 4, 1),
}
_MAX_BYTES = 2e9  # of the all-pairs volume


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
    functions: list[tuple[str, Any]] = [("flowmatch", _ours)]
    fits = B * (H * W) ** 2 * 4 < _MAX_BYTES
    if fits:
        functions.append(("torch: volume of all pairs", _volume))
        functions.append(("torch: compiled volume", torch.compile(_volume, dynamic=False)))
    if fits and lookups == 1:
        functions.append(("torch: gather on demand", _gather))
        functions.append(("torch: RAFT's alternate correlation", _alternate))
    functions += _localcorr(device)
    implementations = tuple(
        Implementation(label, lambda *t, run=run: run(*t, radius, levels, lookups))
        for label, run in functions
    )
    flops = 2.0 * B * C * H * W * levels * (2 * radius + 2) ** 2 * lookups
    truth = partial(_truth, radius=radius, levels=levels, lookups=lookups, rows=None if fits else 2)
    # With float32 coordinates of hundreds of pixels the fourth digit of a weight is uncertain.
    tolerance = (1e-3, 1e-3 * lookups) if dtype == torch.float32 else None
    return Case(
        "correlation_lookup",
        name,
        (f1, f2, coords),
        flops,
        truth,
        implementations,
        backward=fits,
        tolerance=tolerance,
    )


def _smooth_coords(B: int, H: int, W: int, generator: torch.Generator) -> Tensor:
    """Return pixel coordinates displaced by a smooth flow of several pixels with a little noise."""
    y, x = torch.meshgrid(torch.arange(float(H)), torch.arange(float(W)), indexing="ij")
    coarse = 6 * torch.randn(B, 2, 4, 6, generator=generator)
    flow = F.interpolate(coarse, size=(H, W), mode="bicubic")
    return torch.stack([x, y]) + flow + 0.2 * torch.randn(B, 2, H, W, generator=generator)


def _shifted(coords: Tensor, lookups: int) -> list[Tensor]:
    """Return the coordinates of each iteration, half a pixel apart."""
    return [coords + 0.5 * n for n in range(lookups)]


def _ours(f1: Tensor, f2: Tensor, coords: Tensor, radius: int, levels: int, lookups: int) -> Tensor:
    pyramid = correlation_pyramid(f2, levels)
    # As in RAFT, each lookup is used and then freed.
    total = torch.zeros((), device=f1.device, dtype=f1.dtype)
    for at in _shifted(coords, lookups):
        total = total + correlation_lookup(f1, pyramid, at, radius)
    return total


def _volume(
    f1: Tensor, f2: Tensor, coords: Tensor, radius: int, levels: int, lookups: int
) -> Tensor:
    """Compute RAFT's lookup: multiply all pairs, pool the volume, sample it with `grid_sample`."""
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
    """Sample the features of each window with `grid_sample`, row by row, and multiply."""
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


def _alternate(
    f1: Tensor, f2: Tensor, coords: Tensor, radius: int, levels: int, lookups: int
) -> Tensor:
    """Compute RAFT's alternate correlation: products at whole pixels, then blends of four.

    Reference:
        The kernel alt_cuda_corr of Teed & Deng, RAFT, ECCV 2020, in PyTorch.
    """
    B, C, H, W = f1.shape
    first = f1.permute(0, 2, 3, 1).reshape(B, H * W, C)
    parts = []
    for i, level in enumerate(correlation_pyramid(f2, levels)):
        h, w = level.shape[2:]
        second = level.permute(0, 2, 3, 1).reshape(B, h * w, C)
        places = coords / 2**i
        start = places.floor()
        right, down = (places - start).to(f1.dtype).unbind(1)
        side = range(-radius, radius + 2)
        products = torch.stack(
            [
                torch.stack([_products(first, second, start, (h, w), dy, dx) for dx in side], 1)
                for dy in side
            ],
            1,
        ).view(B, len(side), len(side), H, W)
        right, down = right[:, None, None], down[:, None, None]
        rows = products[:, :, :-1] * (1 - right) + products[:, :, 1:] * right
        parts.append((rows[:, :-1] * (1 - down) + rows[:, 1:] * down).flatten(1, 2) / C**0.5)
    return torch.cat(parts, 1)


def _products(
    first: Tensor, second: Tensor, start: Tensor, size: tuple[int, int], dy: int, dx: int
) -> Tensor:
    """Multiply each pixel's features by those at a whole displacement, 0 outside, ``[B, HW]``."""
    h, w = size
    x, y = (start + start.new_tensor([dx, dy])[:, None, None]).flatten(2).unbind(1)
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    index = torch.where(inside, y * w + x, 0).long()
    found = second.gather(1, index[..., None].expand(-1, -1, second.shape[2]))
    return (first * found).sum(-1) * inside


def _localcorr(device: torch.device) -> list[tuple[str, Any]]:
    """Return localcorr: its Triton kernels, and on a CPU its fallback of standard operators."""
    try:
        package = importlib.import_module("localcorr")
        generic = importlib.import_module("localcorr.onnx_generic")
    except ImportError:
        return []

    def block(f1: Tensor, f2: Tensor, radius: int, levels: int) -> Callable[[Tensor], Tensor]:
        found: Callable[[Tensor], Tensor] = package.get_localcorr_block(f1, f2, levels, radius)
        return found

    def standard(f1: Tensor, f2: Tensor, radius: int, levels: int) -> Callable[[Tensor], Tensor]:
        return lambda at: (
            generic.localcorr_pyramid_onnx_generic(f1, f2, at, levels, radius) / f1.shape[1] ** 0.5
        )

    def run(
        f1: Tensor, f2: Tensor, coords: Tensor, radius: int, levels: int, lookups: int,
        prepare: Callable[..., Callable[[Tensor], Tensor]],
    ) -> Tensor:  # fmt: skip
        lookup = prepare(f1, f2, radius, levels)
        total = torch.zeros((), device=f1.device, dtype=f1.dtype)
        for at in _shifted(coords, lookups):
            total = total + lookup(at)
        # Displacements are column by column there.
        B, _, H, W = f1.shape
        side = 2 * radius + 1
        return total.view(B, levels, side, side, H, W).transpose(2, 3).flatten(1, 3)

    if device.type == "cuda":
        return [("localcorr", partial(run, prepare=block))]
    return [("localcorr: standard operators", partial(run, prepare=standard))]


def _truth(
    f1: Tensor,
    f2: Tensor,
    coords: Tensor,
    radius: int,
    levels: int,
    lookups: int,
    rows: int | None,
) -> Tensor:
    """Compute all by the volume, or the first `rows` by the reference if that is too large."""
    if rows is None:
        return _volume(f1, f2, coords, radius, levels, lookups)
    first = f1.permute(0, 2, 3, 1)[:, :rows]
    pyramid = [level.permute(0, 2, 3, 1) for level in correlation_pyramid(f2, levels)]
    positions = coords[:, :, :rows]
    scales = [(0.5**i, 0.5**i) for i in range(levels)]
    parts = [
        correlation_lookup_reference(first, level, positions, *scale, radius, radius)
        for level, scale in zip(pyramid, scales, strict=True)
    ]
    return torch.cat(parts, 1)


SUITE = Suite(_case, "B,C,H,W,radius,levels,lookups", _SHAPES)
