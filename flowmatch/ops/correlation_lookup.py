"""RAFT's correlation lookup, computed on demand: each pixel with a window at any coordinates."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.ops import _native
from flowmatch.ops._batching import map_over_batch
from flowmatch.ops._checks import (
    check_devices,
    check_floats,
    check_kernel,
    check_kernel_float,
    same_kind,
    to_one_type,
)
from flowmatch.ops._types import wide
from flowmatch.ops.correlation_lookup_derivatives import (
    pyramid_windows,
    register_lookup_derivatives,
)
from flowmatch.ops.correlation_lookup_reference import (
    correlation_lookup_grad_reference,
    correlation_lookup_reference,
)

# One level of the pyramid. f1 [B, H, W, C], f2 [B, H2, W2, C], coords [B, 2, H, W]: channels last,
# because the kernels compute dot products along channels.
torch.library.define(
    "flowmatch::correlation_lookup",
    "(Tensor f1, Tensor f2, Tensor coords, float scale_y, float scale_x, int radius_y, "
    "int radius_x) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "flowmatch::correlation_lookup_grad",
    "(Tensor g, Tensor f1, Tensor f2, Tensor coords, float scale_y, float scale_x, int radius_y, "
    "int radius_x) -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
# All levels, each at half the size of the one before, or with all rows at half the width; the
# result has their planes in order. On GPUs one launch, because a coarse level alone is too small.
torch.library.define(
    "flowmatch::correlation_lookup_pyramid",
    "(Tensor f1, Tensor[] f2, Tensor coords, bool halve_rows, int radius_y, int radius_x) "
    "-> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


for _name, _reference in (
    ("correlation_lookup", correlation_lookup_reference),
    ("correlation_lookup_grad", correlation_lookup_grad_reference),
):
    torch.library.impl(f"flowmatch::{_name}", "default")(_native.reference(_reference))


@torch.library.impl("flowmatch::correlation_lookup_pyramid", "default")
def _(
    f1: Tensor, f2: list[Tensor], coords: Tensor, halve_rows: bool, radius_y: int, radius_x: int
) -> Tensor:
    check_kernel("correlation_lookup_pyramid", len(f2) > 0, "a level is needed")
    parts = [
        torch.ops.flowmatch.correlation_lookup(f1, level, coords, *window)
        for level, (_, window) in zip(
            f2, pyramid_windows(len(f2), halve_rows, radius_y, radius_x), strict=True
        )
    ]
    return torch.cat(parts, 1)


def _check_kernel(
    f1: Tensor, f2: Tensor, coords: Tensor, radius_y: int, radius_x: int
) -> tuple[int, int, int, int]:
    """Check the arguments as the kernels do; return the shape of the windows."""
    op = "correlation_lookup"
    shapes = f1.dim() == f2.dim() == 4 and (f1.shape[0], f1.shape[3]) == (f2.shape[0], f2.shape[3])
    same = shapes and f1.dtype == f2.dtype
    check_kernel(op, same, "f1 and f2 must be [B, H, W, C] of the same type")
    check_kernel_float(op, f1)
    B, H, W, _ = f1.shape
    fits = coords.shape == (B, 2, H, W) and coords.dtype == wide(f1.dtype)
    check_kernel(op, fits, "coords must be [B, 2, H, W], float32, or float64 if f1 is")
    same = f1.device == f2.device == coords.device
    check_kernel(op, same, "all tensors must be on the same device")
    fits = 0 <= radius_y < 1024 and 0 <= radius_x < 1024
    check_kernel(op, fits, "radii must be in [0, 2^10)")
    return B, (2 * radius_y + 1) * (2 * radius_x + 1), H, W


@torch.library.register_fake("flowmatch::correlation_lookup")  # type: ignore[untyped-decorator]
def _(
    f1: Tensor,
    f2: Tensor,
    coords: Tensor,
    scale_y: float,
    scale_x: float,
    radius_y: int,
    radius_x: int,
) -> Tensor:
    return f1.new_empty(_check_kernel(f1, f2, coords, radius_y, radius_x))


@torch.library.register_fake("flowmatch::correlation_lookup_pyramid")  # type: ignore[untyped-decorator]
def _(
    f1: Tensor, f2: list[Tensor], coords: Tensor, halve_rows: bool, radius_y: int, radius_x: int
) -> Tensor:
    check_kernel("correlation_lookup_pyramid", len(f2) > 0, "a level is needed")
    for level in f2:
        B, size, H, W = _check_kernel(f1, level, coords, radius_y, radius_x)
    return f1.new_empty(B, len(f2) * size, H, W)


@torch.library.register_fake("flowmatch::correlation_lookup_grad")  # type: ignore[untyped-decorator]
def _(
    g: Tensor,
    f1: Tensor,
    f2: Tensor,
    coords: Tensor,
    scale_y: float,
    scale_x: float,
    radius_y: int,
    radius_x: int,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = _check_kernel(f1, f2, coords, radius_y, radius_x)
    fits = g.shape == shape and same_kind(g, f1)
    check_kernel("correlation_lookup_grad", fits, "g must be [B, D, H, W] of the type of f1")
    like = torch.contiguous_format
    grads = (torch.empty_like(t, memory_format=like) for t in (f1, f2, coords))
    return tuple(grads)  # type: ignore[return-value]


register_lookup_derivatives()
for _name in ("correlation_lookup", "correlation_lookup_grad", "correlation_lookup_pyramid"):
    map_over_batch(f"flowmatch::{_name}")


def _check(f1: Tensor, levels: Sequence[Tensor], coords: Tensor, radius: int, axes: int) -> None:
    if not levels:
        raise ValueError(
            "f2 must be a tensor or a sequence of at least one tensor, got an empty sequence"
        )
    for f2 in levels:
        if f1.dim() != 4 or f2.dim() != 4 or f1.shape[:2] != f2.shape[:2]:
            raise ValueError(
                "f1 and f2 must be [B, C, H, W] and [B, C, H2, W2], "
                f"got {tuple(f1.shape)} and {tuple(f2.shape)}"
            )
        if axes == 1 and f1.shape[2] != f2.shape[2]:
            raise ValueError(
                f"f1 and each level of f2 must have the same rows, got {f1.shape[2]} and "
                f"{f2.shape[2]} (correlation_pyramid with rows=False keeps them)"
            )
    check_floats("f1 and f2", f1, *levels)
    if coords.shape != (f1.shape[0], axes, *f1.shape[2:]) or not coords.is_floating_point():
        raise ValueError(
            f"coords must be floats [B, {axes}, H, W] for f1 of {tuple(f1.shape)}, "
            f"got {coords.dtype} {tuple(coords.shape)}"
        )
    check_devices("f1, f2 and coords", f1, *levels, coords)
    if not 0 <= radius < 2**10:
        raise ValueError(f"0 <= radius < 2^10 is needed, got {radius}")


def _lookup(
    f1: Tensor, levels: Sequence[Tensor], coords: Tensor, radii: tuple[int, int], halve_rows: bool
) -> Tensor:
    f1, *levels = to_one_type(f1, *levels)
    # The kernel needs channels last: features in that memory format are not copied. On the CPU it
    # computes in float32, so half types are converted here, once for all levels.
    kind = wide(f1.dtype) if f1.device.type == "cpu" else f1.dtype
    first, *others = (f.permute(0, 2, 3, 1).contiguous().to(kind) for f in (f1, *levels))
    positions = coords.to(wide(f1.dtype)).contiguous()
    if len(others) == 1:
        result = torch.ops.flowmatch.correlation_lookup(first, *others, positions, 1.0, 1.0, *radii)
    else:
        result = torch.ops.flowmatch.correlation_lookup_pyramid(
            first, others, positions, halve_rows, *radii
        )
    windows: Tensor = result.to(f1.dtype)
    return windows


def correlation_lookup(
    f1: Tensor, f2: Tensor | Sequence[Tensor], coords: Tensor, radius: int = 4
) -> Tensor:
    r"""Compare each pixel of `f1` with a window of `f2` around its position in `coords`.

    ``out[b, k, y, x] = <f1[b, :, y, x], f2[b, :, v + dy, u + dx]> / sqrt(C)``, where ``(u, v) =
    coords[b, :, y, x]`` and ``k`` counts ``(dy, dx)`` row by row over ``{-radius, ..., radius}``.
    Between pixels `f2` is interpolated bilinearly; outside the image it is 0. With a pyramid the
    result has the windows of all levels in order; in level ``i`` they are around ``coords / 2**i``.

    The results are those of RAFT's lookup, without its all-pairs volume: no memory is needed beyond
    the result. Differentiable any number of times, in reverse and forward mode and by `torch.func`,
    also with respect to `coords`; bit-identical from run to run. Fastest with features in
    ``torch.channels_last``. Half types are summed in float32. Under autocast features keep their
    type; if the types differ, all are converted to the widest. Windows at coordinates that are not
    finite are 0.

    Args:
        f1: Features of the first image, ``[B, C, H, W]``, float16, bfloat16, float32 or float64.
        f2: Features of the second, ``[B, C, H2, W2]`` of the same type, or a sequence of them, each
            at half the size of the one before (`correlation_pyramid`).
        coords: Centres of the windows, ``[B, 2, H, W]``, (x, y) in pixels of the first level.
        radius: Window radius in pixels of each level. RAFT: 4, its small version: 3.

    Returns:
        ``[B, levels * (2 * radius + 1) ** 2, H, W]`` of the type of `f1`.

    Raises:
        ValueError: Shapes, types or devices do not match, or `radius` is out of range.

    Example:
        >>> f1, f2 = torch.rand(2, 1, 8, 6, 7)
        >>> coords = 6 * torch.rand(1, 2, 6, 7)
        >>> correlation_lookup(f1, correlation_pyramid(f2, 2), coords, radius=3).shape
        torch.Size([1, 98, 6, 7])

    Reference:
        Teed and Deng, RAFT, ECCV 2020, section 3.2.
    """
    levels = [f2] if isinstance(f2, Tensor) else list(f2)
    _check(f1, levels, coords, radius, 2)
    return _lookup(f1, levels, coords, (radius, radius), halve_rows=True)


def correlation_lookup_1d(
    f1: Tensor, f2: Tensor | Sequence[Tensor], coords: Tensor, radius: int = 4
) -> Tensor:
    r"""Compare each pixel of `f1` with a window of `f2` in the same row, for stereo.

    Like `correlation_lookup`, with windows of ``2 * radius + 1`` pixels of the pixel's own row.

    Args:
        f1: Features of the left image, ``[B, C, H, W]``, any float type.
        f2: Features of the right, ``[B, C, H, W2]``, or a pyramid of which each level has half the
            columns of the one before (`correlation_pyramid` with ``rows=False``).
        coords: Centres of the windows, ``[B, 1, H, W]``, x in pixels of the first level.
        radius: Window radius in pixels of each level.

    Returns:
        ``[B, levels * (2 * radius + 1), H, W]`` of the type of `f1`.

    Raises:
        ValueError: Shapes, types or devices do not match, or `radius` is out of range.

    Example:
        >>> f1, f2 = torch.rand(2, 1, 8, 6, 7)
        >>> correlation_lookup_1d(f1, f2, torch.zeros(1, 1, 6, 7), radius=4).shape
        torch.Size([1, 9, 6, 7])

    Reference:
        Lipson, Teed and Deng, RAFT-Stereo, 3DV 2021, section 3.2.
    """
    levels = [f2] if isinstance(f2, Tensor) else list(f2)
    _check(f1, levels, coords, radius, 1)
    x = coords.to(wide(f1.dtype))  # half types cannot represent every row
    rows = torch.arange(f1.shape[2], device=x.device, dtype=x.dtype)
    positions = torch.cat([x, rows[:, None].expand_as(x)], 1)
    return _lookup(f1, levels, positions, (0, radius), halve_rows=False)


def correlation_pyramid(f2: Tensor, levels: int = 4, rows: bool = True) -> list[Tensor]:
    """Build a pyramid for `correlation_lookup` by averaging over 2 x 2, 4 x 4, ... pixels.

    Args:
        f2: Features, ``[B, C, H, W]``.
        levels: Number of levels, including `f2` itself.
        rows: Halve rows and columns; False: columns only, for `correlation_lookup_1d`.

    Raises:
        ValueError: `f2` is too small to be halved so often.

    Example:
        >>> [tuple(level.shape[2:]) for level in correlation_pyramid(torch.rand(1, 8, 20, 33), 3)]
        [(20, 33), (10, 16), (5, 8)]
    """
    sides = f2.shape[2:] if rows else f2.shape[3:]
    if f2.dim() != 4 or levels < 1 or min(sides) >> (levels - 1) < 1:
        raise ValueError(
            f"f2 must be [B, C, H, W], large enough for {levels} levels, got {tuple(f2.shape)}"
        )
    pyramid = [f2]
    for _ in range(levels - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], (2, 2) if rows else (1, 2)))
    return pyramid
