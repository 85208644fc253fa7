"""The cost volume and its gradients in plain PyTorch: what the kernels compute."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.ops._types import wide


def _displacements(radius: Sequence[int], stride: int, offset: Sequence[int]) -> list[list[int]]:
    """Return the displacements along y, and those along x."""
    return [
        [o + step * stride for step in range(-r, r + 1)]
        for r, o in zip(radius, offset, strict=True)
    ]


def _moved(image: Tensor, y: int, x: int) -> Tensor:
    """Return ``image[..., y + row, x + column]`` for all rows and columns, 0 outside."""
    H, W = image.shape[-2:]
    y, x = max(-H, min(y, H)), max(-W, min(x, W))  # farther away there are only zeros, too
    return F.pad(image, (-x, x, -y, y))


def pair(value: int | Sequence[int]) -> Sequence[int]:
    """Return (y, x) of a value for both, or of two values."""
    return (value, value) if isinstance(value, int) else value


def correlation_reference(
    f1: Tensor,
    f2: Tensor,
    radius: int | Sequence[int],
    stride: int,
    tf32: bool = False,
    offset: int | Sequence[int] = 0,
) -> Tensor:
    """State what `correlation` computes, in plain PyTorch; half types are summed in float32.

    `tf32` allows, but does not require, a kernel to use TF32.
    """
    first, second = (f.to(wide(f.dtype)) for f in (f1, f2))
    C = max(f1.shape[1], 1)
    down, right = _displacements(pair(radius), stride, pair(offset))
    planes = [(first * _moved(second, y, x)).sum(1) / C for y in down for x in right]
    return torch.stack(planes, dim=1).to(f1.dtype)


def correlation_grad_reference(
    g: Tensor,
    other: Tensor,
    radius: int | Sequence[int],
    stride: int,
    first: bool,
    tf32: bool = False,
    offset: int | Sequence[int] = 0,
) -> Tensor:
    """State the gradient of `correlation` with respect to f1 (`other` is f2) or f2 (`other` is f1).

    Pixel (y, x) of f2 contributes to the entry of g at (y - dy, x - dx), where it met f1.
    """
    entries, values = (t.to(wide(t.dtype)) for t in (g, other))
    total = torch.zeros_like(values, memory_format=torch.contiguous_format)
    down, right = _displacements(pair(radius), stride, pair(offset))
    for k, (y, x) in enumerate((y, x) for y in down for x in right):
        entry = entries[:, k : k + 1]
        total += entry * _moved(values, y, x) if first else _moved(entry * values, -y, -x)
    return (total / max(other.shape[1], 1)).to(other.dtype)
