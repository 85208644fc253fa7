"""Benchmark of softmax splatting, against plain PyTorch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.bench.measure import Case, Implementation, Suite
from flowmatch.ops import splat

# B, C, H, W: a frame of Sintel, and the features of a network for frames between two.
_SHAPES = {"Sintel, 3 channels": (1, 3, 436, 1024), "64 features": (4, 64, 96, 128)}
_MOTION = 10.0  # pixels; smooth, and with pixels that leave the image


def _case(name: str, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Case:
    B, C, H, W = shape
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(B, C, H, W, generator=generator)
    coarse = _MOTION * torch.randn(B, 2, 5, 7, generator=generator)
    flow = F.interpolate(coarse, (H, W), mode="bicubic")
    weight = torch.rand(B, 1, H, W, generator=generator)
    functions: list[tuple[str, Callable[..., Tensor]]] = [
        ("flowmatch", lambda i, f, w: splat(i, f, w, "softmax")),
        ("torch: index_add", index_add),
        ("torch: scatter_add", scatter_add),
    ]
    inputs = tuple(t.to(device, dtype) for t in (image, flow, weight))
    implementations = tuple(Implementation(*function) for function in functions)
    # Positions have few digits in the features' type, where quotients of small weights amplify it.
    tolerance = (1e-3, 1e-3) if dtype == torch.float32 else None
    return Case("splat", name, inputs, 0.0, scatter_add, implementations, tolerance=tolerance)


def _targets(flow: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the index ``[B, H, W]`` of each of four targets, and its weight."""
    H, W = flow.shape[2:]
    x = torch.arange(W, device=flow.device) + flow[:, 0]
    y = torch.arange(H, device=flow.device)[:, None] + flow[:, 1]
    targets = []
    for dy in (0, 1):
        for dx in (0, 1):
            column, row = x.floor() + dx, y.floor() + dy
            inside = (column >= 0) & (column < W) & (row >= 0) & (row < H)
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs()) * inside
            targets.append(((row * W + column).long().clamp(0, H * W - 1), weight))
    return targets


def _normalised(sums: Tensor) -> Tensor:
    norm = sums[:, -1:]
    return sums[:, :-1] / torch.where(norm == 0, 1, norm)


def scatter_add(image: Tensor, flow: Tensor, weight: Tensor) -> Tensor:
    """Add the four parts of all pixels with scatter_add, along the pixels of each channel."""
    factor = weight.exp()
    values = torch.cat([image * factor, factor], 1)
    sums = torch.zeros_like(values).flatten(2)
    for index, part in _targets(flow):
        along = index.flatten(1)[:, None].expand(-1, values.shape[1], -1)
        sums = sums.scatter_add(2, along, (values * part[:, None]).flatten(2))
    return _normalised(sums.view(values.shape))


def index_add(image: Tensor, flow: Tensor, weight: Tensor) -> Tensor:
    """Add the four parts of all pixels with index_add, in rows of channels."""
    B, _, H, W = image.shape
    factor = weight.exp()
    values = torch.cat([image * factor, factor], 1).permute(0, 2, 3, 1)
    sums = torch.zeros_like(values).reshape(B * H * W, -1)
    first = torch.arange(B, device=image.device)[:, None, None] * H * W
    for index, part in _targets(flow):
        rows = (values * part[..., None]).flatten(0, 2)
        sums = sums.index_add(0, (first + index).flatten(), rows)
    return _normalised(sums.view(values.shape).permute(0, 3, 1, 2))


SUITE = Suite(_case, "B,C,H,W", _SHAPES)
