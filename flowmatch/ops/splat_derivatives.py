"""Derivatives of the ops of splatting.

The sums are linear in the image. In a component of the flow they are linear between two whole
pixels: there the derivative is the sum with that component at the next whole pixel minus the sum
with it at the pixel before.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowmatch.ops._derivatives import Saved, add, register_derivatives, save


def _at_whole_pixels(flow: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return `flow` with component 0 (x) or 1 (y) at the whole pixel before, and at the next."""
    before = flow[:, axis : axis + 1].detach().floor()
    other = flow[:, 1 - axis : 2 - axis]
    first, second = (
        torch.cat([at, other] if axis == 0 else [other, at], 1) for at in (before, before + 1)
    )
    return first, second


def _splat_tangent(
    inputs: Sequence[Tensor], along_image: Tensor | None, along_flow: Tensor | None
) -> Tensor | None:
    """Return the derivative of the sums in a direction."""
    image, flow = inputs
    op = torch.ops.flowmatch.splat
    terms = [] if along_image is None else [op(along_image, flow)]
    for axis in (0, 1) if along_flow is not None else ():
        change = image * along_flow[:, axis : axis + 1]  # type: ignore[index]
        before, after = (op(change, at) for at in _at_whole_pixels(flow, axis))
        terms.append(after - before)
    return add(terms)


def _grad_tangent(
    g: Tensor, inputs: Sequence[Tensor], along_image: Tensor | None, along_flow: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the derivative of the gradients in a direction, at constant `g`.

    These are second derivatives of one number, ``sum(g * splat)``, and therefore symmetric: the
    function serves forward mode and double backward.
    """
    image, flow = inputs
    op = torch.ops.flowmatch.splat_grad
    first, second = torch.zeros_like(image), torch.zeros_like(flow)
    if along_image is not None:
        second = second + op(g, along_image, flow)[1]
    for axis in (0, 1) if along_flow is not None else ():
        change = along_flow[:, axis : axis + 1]  # type: ignore[index]
        before, after = (op(g, image, at) for at in _at_whole_pixels(flow, axis))
        first = first + change * (after[0] - before[0])
        # Along one axis the sums are linear: only the mixed second derivative is not 0.
        mixed = change * (after[1] - before[1])[:, 1 - axis : 2 - axis]
        parts = [torch.zeros_like(mixed), mixed]
        second = second + torch.cat(parts if axis == 0 else parts[::-1], 1)
    return first, second


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    save(ctx, *inputs)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
    grads: tuple[Tensor, Tensor] = torch.ops.flowmatch.splat_grad(g, *ctx.saved_tensors)
    return grads


def _jvp(ctx: Any, saved: Saved, *tangents: Tensor | None) -> Tensor | None:
    return _splat_tangent(saved, *tangents)


def _backward_grad(ctx: Any, *v: Tensor | None) -> tuple[Tensor | None, ...]:
    g, *inputs = ctx.saved_tensors
    return (_splat_tangent(inputs, *v), *_grad_tangent(g, inputs, *v))


def _jvp_grad(
    ctx: Any, saved: Saved, along_g: Tensor | None, *tangents: Tensor | None
) -> tuple[Tensor, ...]:
    g, *inputs = saved
    result = _grad_tangent(g, inputs, *tangents)
    if along_g is None:
        return result
    grads = torch.ops.flowmatch.splat_grad(along_g, *inputs)
    return tuple(a + b for a, b in zip(result, grads, strict=True))


def register_splat_derivatives() -> None:
    """Register the derivatives of both ops, once they are defined."""
    register_derivatives("splat", _setup, _backward, _jvp)
    register_derivatives("splat_grad", _setup, _backward_grad, _jvp_grad)
