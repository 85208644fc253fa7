"""Derivatives of `correlation_lookup`, which consist of lookups and gradients of lookups.

A window is linear in f1 and in f2. In a coordinate it is linear between two whole pixels: there the
derivative is the window at the next pixel minus the window at the pixel before.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowmatch.ops._derivatives import Saved, add, register_derivatives, save

Window = tuple[float, float, int, int]  # scale_y, scale_x, radius_y, radius_x
Three = tuple[Tensor | None, ...]  # for f1, f2 and coords


def _at_whole_pixels(coords: Tensor, axis: int, scale: float) -> list[Tensor]:
    """Return `coords` with axis 0 (x) or 1 (y) moved to the whole pixel before, and to the next."""
    before = (coords[:, axis : axis + 1].detach() * scale).floor()
    other = coords[:, 1 - axis : 2 - axis]
    moved = ((before + step) / scale for step in (0, 1))  # exact: scales are powers of two
    return [torch.cat([at, other] if axis == 0 else [other, at], 1) for at in moved]


def _along_axes(window: Window, along: Tensor | None) -> list[tuple[int, float, Tensor]]:
    """Return axis, scale and change in pixels of a level, for a tangent of the coordinates."""
    if along is None:
        return []
    scale_y, scale_x, *_ = window
    return [
        (axis, scale, scale * along[:, axis : axis + 1])
        for axis, scale in enumerate((scale_x, scale_y))
    ]


def _lookup_tangent(inputs: Sequence[Tensor], tangents: Three, window: Window) -> Tensor | None:
    """Return the derivative of a lookup in a direction."""
    f1, f2, coords = inputs
    t1, t2, along = tangents
    op = torch.ops.flowmatch.correlation_lookup
    pairs = [(a, b) for a, b in ((t1, f2), (f1, t2)) if a is not None and b is not None]
    terms = [op(*pair, coords, *window) for pair in pairs]
    for axis, scale, change in _along_axes(window, along):
        before, after = (op(f1, f2, at, *window) for at in _at_whole_pixels(coords, axis, scale))
        terms.append((change * (after - before)).to(f1.dtype))
    return add(terms)


def _grad_tangent(
    g: Tensor, inputs: Sequence[Tensor], tangents: Three, window: Window
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the derivative of a lookup's gradients in a direction, at constant `g`.

    These are second derivatives of one number, ``sum(g * lookup)``, and therefore symmetric: the
    function serves forward mode and double backward.
    """
    f1, f2, coords = inputs
    t1, t2, along = tangents
    op = torch.ops.flowmatch.correlation_lookup_grad
    first, second, third = (torch.zeros_like(t) for t in inputs)
    if t1 is not None:
        _, grad2, grad_coords = op(g, t1, f2, coords, *window)
        second, third = second + grad2, third + grad_coords
    if t2 is not None:
        grad1, _, grad_coords = op(g, f1, t2, coords, *window)
        first, third = first + grad1, third + grad_coords
    for axis, scale, change in _along_axes(window, along):
        weighted = (g * change).to(g.dtype)
        before, after = (
            op(weighted, f1, f2, at, *window) for at in _at_whole_pixels(coords, axis, scale)
        )
        first, second = first + (after[0] - before[0]), second + (after[1] - before[1])
        # Along one axis a window is linear: only the mixed second derivative is not 0.
        mixed = (after[2] - before[2])[:, 1 - axis : 2 - axis]
        parts = [torch.zeros_like(mixed), mixed]
        third = third + torch.cat(parts if axis == 0 else parts[::-1], 1)
    return first, second, third


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    save(ctx, *inputs[:3])
    ctx.window = inputs[3:]


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.flowmatch.correlation_lookup_grad(g, *ctx.saved_tensors, *ctx.window)
    return (*grads, None, None, None, None)


def _jvp(ctx: Any, saved: Saved, *tangents: Any) -> Tensor | None:
    return _lookup_tangent(saved, tangents[:3], ctx.window)


def _setup_grad(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    save(ctx, *inputs[:4])
    ctx.window = inputs[4:]


def _backward_grad(ctx: Any, *v: Tensor | None) -> tuple[Tensor | None, ...]:
    g, *inputs = ctx.saved_tensors
    for_g = _lookup_tangent(inputs, v, ctx.window)
    return (for_g, *_grad_tangent(g, inputs, v, ctx.window), None, None, None, None)


def _jvp_grad(ctx: Any, saved: Saved, along_g: Tensor | None, *tangents: Any) -> tuple[Tensor, ...]:
    g, *inputs = saved
    result = _grad_tangent(g, inputs, tangents[:3], ctx.window)
    if along_g is None:
        return result
    grads = torch.ops.flowmatch.correlation_lookup_grad(along_g, *inputs, *ctx.window)
    return tuple(a + b for a, b in zip(result, grads, strict=True))


def pyramid_windows(
    levels: int, halve_rows: bool, radius_y: int, radius_x: int
) -> list[tuple[slice, Window]]:
    """Return, for each level, its planes of the result and the arguments of its lookup."""
    size = (2 * radius_y + 1) * (2 * radius_x + 1)
    scales = [0.5**level for level in range(levels)]
    return [
        (slice(n * size, (n + 1) * size), (scale if halve_rows else 1.0, scale, radius_y, radius_x))
        for n, scale in enumerate(scales)
    ]


def _setup_pyramid(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    f1, levels, coords, *window = inputs
    save(ctx, f1, coords, *levels)
    ctx.windows = pyramid_windows(len(levels), *window)


def _backward_pyramid(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    f1, coords, *levels = ctx.saved_tensors
    grads = [
        torch.ops.flowmatch.correlation_lookup_grad(g[:, planes], f1, f2, coords, *window)
        for f2, (planes, window) in zip(levels, ctx.windows, strict=True)
    ]
    first, seconds, along = zip(*grads, strict=True)
    return (add(first), *seconds, add(along), None, None, None)


def _jvp_pyramid(ctx: Any, saved: Saved, *tangents: Any) -> Tensor | None:
    f1, coords, *levels = saved
    t1, *t2, along = tangents[: len(levels) + 2]
    parts = []
    for f2, t, (_, window) in zip(levels, t2, ctx.windows, strict=True):
        part = _lookup_tangent((f1, f2, coords), (t1, t, along), window)
        B, size = f1.shape[0], (2 * window[2] + 1) * (2 * window[3] + 1)
        parts.append(f1.new_zeros(B, size, *f1.shape[1:3]) if part is None else part)
    return torch.cat(parts, 1)


def register_lookup_derivatives() -> None:
    """Register the derivatives of all three ops, once they are defined."""
    register_derivatives("correlation_lookup", _setup, _backward, _jvp)
    register_derivatives("correlation_lookup_grad", _setup_grad, _backward_grad, _jvp_grad)
    register_derivatives(
        "correlation_lookup_pyramid", _setup_pyramid, _backward_pyramid, _jvp_pyramid
    )
