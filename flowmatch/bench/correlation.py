"""Benchmark of the cost volume, against plain PyTorch and spatial-correlation-sampler."""

import importlib
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.bench.measure import Case, Implementation, Suite
from flowmatch.ops import correlation
from flowmatch.ops.correlation_reference import correlation_reference

# The cost volumes of three networks: B, C, H, W, radius, stride.
_SHAPES = {
    "FlowNetC": (8, 256, 48, 64, 10, 2),
    "PWC": (8, 32, 96, 128, 4, 1),
    "RAFT-local": (1, 256, 55, 128, 10, 2),
}


def _case(name: str, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Case:
    B, C, H, W, radius, stride = shape
    generator = torch.Generator().manual_seed(0)
    f1, f2 = (torch.randn(B, C, H, W, generator=generator).to(device, dtype) for _ in range(2))
    functions: list[tuple[str, Any]] = [
        ("flowmatch", correlation),
        ("reference", correlation_reference),
        ("torch: row matmul", row_matmul),
        ("torch: compiled broadcast", torch.compile(broadcast, dynamic=False)),
    ]
    if sampler := _sampler():
        functions.append(("spatial-correlation-sampler", sampler))
    implementations = tuple(
        Implementation(label, lambda a, b, run=run: run(a, b, radius, stride))
        for label, run in functions
    )
    flops = 2.0 * B * C * H * W * (2 * radius + 1) ** 2
    truth = partial(correlation_reference, radius=radius, stride=stride)
    return Case("correlation", name, (f1, f2), flops, truth, implementations)


def broadcast(f1: Tensor, f2: Tensor, radius: int, stride: int) -> Tensor:
    """Multiply by all windows at once and sum; when compiled, no intermediate is materialised."""
    B, C, H, W = f1.shape
    pad, side = radius * stride, 2 * radius + 1
    padded = F.pad(f2, (pad, pad, pad, pad)).contiguous()
    plane, row, column = padded.stride()[-3:]
    windows = padded.as_strided(
        (B, C, side, side, H, W),
        (padded.stride(0), plane, stride * row, stride * column, row, column),
    )
    return (f1[:, :, None, None] * windows).sum(1).flatten(1, 2) / C


def row_matmul(f1: Tensor, f2: Tensor, radius: int, stride: int) -> Tensor:
    """Multiply whole rows, [W, C] x [C, W], and keep the band: the fastest of the torch idioms."""
    B, C, H, W = f1.shape
    pad, side = radius * stride, 2 * radius + 1
    padded = F.pad(f2, (pad, pad, pad, pad))
    first = f1.permute(0, 2, 3, 1)  # [B, H, W, C]
    second = padded.permute(0, 2, 1, 3)  # [B, H + 2 pad, C, W + 2 pad]
    wide = W + 2 * pad
    rows = []
    for dy in range(side):
        product = first @ second[:, dy * stride : dy * stride + H]  # [B, H, W, wide]
        # Pixel x needs column x + dx: one row down is one column further.
        band = (H * W * wide, W * wide, wide + 1, stride)
        rows.append(product.contiguous().as_strided((B, H, W, side), band))
    return torch.stack(rows, 1).permute(0, 1, 4, 2, 3).reshape(B, side * side, H, W) / C


def _sampler() -> Any:
    """Return spatial-correlation-sampler in our convention, or None if it is not installed."""
    try:
        package = importlib.import_module("spatial_correlation_sampler")
    except ImportError:
        return None

    def run(f1: Tensor, f2: Tensor, radius: int, stride: int) -> Tensor:
        volume: Tensor = package.spatial_correlation_sample(
            f1, f2, patch_size=2 * radius + 1, dilation_patch=stride
        )
        return volume.flatten(1, 2) / f1.shape[1]

    return run


SUITE = Suite(_case, "B,C,H,W,radius,stride", _SHAPES)
