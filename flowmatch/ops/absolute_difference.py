"""Mean absolute differences in the layout of `correlation`, for layers that subtract.

There is no compiled kernel. The ops compute one displacement at a time and save only their inputs,
where automatic differentiation would keep the differences of all displacements.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.ops._batching import map_over_batch
from flowmatch.ops._derivatives import Saved, register_derivatives, save
from flowmatch.ops._types import wide
from flowmatch.ops.correlation_reference import pair

_TAGS = torch.Tag.pt2_compliant_tag
torch.library.define(
    "flowmatch::absolute_difference",
    "(Tensor f1, Tensor f2, int[2] radius, int stride, int[2] offset=0) -> Tensor",
    tags=_TAGS,
)
torch.library.define(
    "flowmatch::absolute_difference_grad",
    "(Tensor g, Tensor f1, Tensor f2, int[2] radius, int stride, int[2] offset=0) -> "
    "(Tensor, Tensor)",
    tags=_TAGS,
)
# The derivative in a direction t1, t2.
torch.library.define(
    "flowmatch::absolute_difference_tangent",
    "(Tensor t1, Tensor t2, Tensor f1, Tensor f2, int[2] radius, int stride, int[2] offset=0) -> "
    "Tensor",
    tags=_TAGS,
)


Pair = Sequence[int]  # y, x
_ZERO = (0, 0)


def absolute_difference(
    f1: Tensor,
    f2: Tensor,
    radius: int | tuple[int, int],
    stride: int,
    *,
    offset: tuple[int, int] = _ZERO,
) -> Tensor:
    """Return ``mean_c |f1 - f2|`` for all displacements, in the order of `correlation`."""
    op = torch.ops.flowmatch.absolute_difference
    volume: Tensor = op(f1, f2, pair(radius), stride, offset)
    return volume


def _margin(radius: Pair, stride: int, offset: Pair) -> tuple[int, int]:
    """Return the zeros that windows need around an image, in y and x."""
    my, mx = (r * stride + abs(o) for r, o in zip(radius, offset, strict=True))
    return my, mx


def _padded(f: Tensor, radius: Pair, stride: int, offset: Pair) -> Tensor:
    my, mx = _margin(radius, stride, offset)
    return F.pad(f.to(wide(f.dtype)), (mx, mx, my, my))


def _windows(f: Tensor, radius: Pair, stride: int, offset: Pair) -> list[tuple[Any, ...]]:
    """Return the window of each displacement in the padded image."""
    sides, margins = f.shape[-2:], _margin(radius, stride, offset)
    down, right = (
        [
            slice(at, at + side)
            for at in range(margin + o - r * stride, margin + o + r * stride + 1, stride)
        ]
        for r, o, side, margin in zip(radius, offset, sides, margins, strict=True)
    )
    return [(..., y, x) for y in down for x in right]


def _count(radius: Pair) -> int:
    return (2 * radius[0] + 1) * (2 * radius[1] + 1)


@torch.library.impl("flowmatch::absolute_difference", "default")
def _compute(f1: Tensor, f2: Tensor, radius: Pair, stride: int, offset: Pair = _ZERO) -> Tensor:
    B, C, H, W = f1.shape
    grid = radius, stride, offset
    volume = f1.new_empty(B, _count(radius), H, W)
    first, second = f1.to(wide(f1.dtype)), _padded(f2, *grid)
    for k, window in enumerate(_windows(f1, *grid)):
        difference = first - second[window]
        volume[:, k] = difference.abs_().sum(1).div_(max(C, 1))
    return volume


@torch.library.impl("flowmatch::absolute_difference_grad", "default")
def _compute_grad(
    g: Tensor, f1: Tensor, f2: Tensor, radius: Pair, stride: int, offset: Pair = _ZERO
) -> tuple[Tensor, Tensor]:
    C, H, W = f1.shape[1:]
    grid = radius, stride, offset
    first, second = f1.to(wide(f1.dtype)), _padded(f2, *grid)
    grad1, grad2 = (torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in (first, second))
    for k, window in enumerate(_windows(f1, *grid)):
        part = (first - second[window]).sign_() * (g[:, k : k + 1].to(first.dtype) / max(C, 1))
        grad1 += part
        grad2[window] -= part
    my, mx = _margin(*grid)
    inside = grad2[..., my : my + H, mx : mx + W]
    return grad1.to(f1.dtype), inside.contiguous().to(f2.dtype)


@torch.library.impl("flowmatch::absolute_difference_tangent", "default")
def _compute_tangent(
    t1: Tensor,
    t2: Tensor,
    f1: Tensor,
    f2: Tensor,
    radius: Pair,
    stride: int,
    offset: Pair = _ZERO,
) -> Tensor:
    B, C, H, W = f1.shape
    grid = radius, stride, offset
    out = f1.new_empty(B, _count(radius), H, W)
    (first, second), (along1, along2) = (
        (a.to(wide(a.dtype)), _padded(b, *grid)) for a, b in ((f1, f2), (t1, t2))
    )
    for k, window in enumerate(_windows(f1, *grid)):
        signs = (first - second[window]).sign_()
        out[:, k] = signs.mul_(along1 - along2[window]).sum(1).div_(max(C, 1))
    return out


def _volume_like(f1: Tensor, radius: Pair) -> Tensor:
    B, _, H, W = f1.shape
    return f1.new_empty(B, _count(radius), H, W)


@torch.library.register_fake("flowmatch::absolute_difference")  # type: ignore[untyped-decorator]
def _(f1: Tensor, f2: Tensor, radius: Pair, stride: int, offset: Pair = _ZERO) -> Tensor:
    return _volume_like(f1, radius)


@torch.library.register_fake("flowmatch::absolute_difference_grad")  # type: ignore[untyped-decorator]
def _(
    g: Tensor, f1: Tensor, f2: Tensor, radius: Pair, stride: int, offset: Pair = _ZERO
) -> tuple[Tensor, Tensor]:
    return f1.new_empty(f1.shape), f2.new_empty(f2.shape)


@torch.library.register_fake("flowmatch::absolute_difference_tangent")  # type: ignore[untyped-decorator]
def _(
    t1: Tensor,
    t2: Tensor,
    f1: Tensor,
    f2: Tensor,
    radius: Pair,
    stride: int,
    offset: Pair = _ZERO,
) -> Tensor:
    return _volume_like(f1, radius)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, radius, stride, offset = inputs
    ctx.grid = (radius, stride, offset)
    save(ctx, *tensors)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.flowmatch.absolute_difference_grad(g, *ctx.saved_tensors, *ctx.grid)
    return (*grads, None, None, None)


def _along(ctx: Any, t1: Tensor | None, t2: Tensor | None, f1: Tensor, f2: Tensor) -> Tensor:
    along = [torch.zeros_like(f1) if t is None else t for t in (t1, t2)]
    out: Tensor = torch.ops.flowmatch.absolute_difference_tangent(*along, f1, f2, *ctx.grid)
    return out


def _jvp(ctx: Any, saved: Saved, t1: Tensor | None, t2: Tensor | None, *_: None) -> Tensor:
    return _along(ctx, t1, t2, *saved)


# The signs of the differences are constant, so the other two ops are linear in their gradients and
# tangents, and do not depend on the features otherwise.
def _backward_grad(ctx: Any, v1: Tensor | None, v2: Tensor | None) -> tuple[Tensor | None, ...]:
    _, f1, f2 = ctx.saved_tensors
    return _along(ctx, v1, v2, f1, f2), None, None, None, None, None


def _jvp_grad(ctx: Any, saved: Saved, t_g: Tensor | None, *_: Any) -> tuple[Tensor, Tensor]:
    f1, f2 = saved[1:]
    if t_g is None:
        return torch.zeros_like(f1), torch.zeros_like(f2)
    first, second = torch.ops.flowmatch.absolute_difference_grad(t_g, f1, f2, *ctx.grid)
    return first, second


def _backward_tangent(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.flowmatch.absolute_difference_grad(g, *ctx.saved_tensors[2:], *ctx.grid)
    return (*grads, None, None, None, None, None)


def _jvp_tangent(ctx: Any, saved: Saved, s1: Tensor | None, s2: Tensor | None, *_: Any) -> Tensor:
    return _along(ctx, s1, s2, *saved[2:])


register_derivatives("absolute_difference", _setup, _backward, _jvp)
register_derivatives("absolute_difference_grad", _setup, _backward_grad, _jvp_grad)
register_derivatives("absolute_difference_tangent", _setup, _backward_tangent, _jvp_tangent)
for _name in ("absolute_difference", "absolute_difference_grad", "absolute_difference_tangent"):
    map_over_batch(f"flowmatch::{_name}")
