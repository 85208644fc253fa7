"""All distances between two sets of descriptors, with gradients from matrix products."""

from typing import Any

import torch
from torch import Tensor

from flowmatch.ops import _native
from flowmatch.ops._batching import map_over_batch
from flowmatch.ops._checks import (
    autocast_is_on,
    check_devices,
    check_floats,
    check_metric,
    check_vectors,
)
from flowmatch.ops._directions import directions
from flowmatch.ops._types import wide

_L2, _DOT = 0, 1

torch.library.define("flowmatch::pairwise_distance", "(Tensor x, Tensor y, int metric) -> Tensor")
# Weight of a pair of vectors in the gradient: g / distance, and 0 where the distance is 0.
torch.library.define("flowmatch::pairwise_distance_weight", "(Tensor g, Tensor distance) -> Tensor")


def pairwise_distance_reference(x: Tensor, y: Tensor, metric: int) -> Tensor:
    """State what the op computes, in plain PyTorch: distances from differences, row by row."""
    first, second = (t.to(wide(t.dtype)) for t in (x, y))
    if metric == _DOT:
        return (first @ second.transpose(1, 2)).to(x.dtype)
    out = x.new_empty(*x.shape[:2], y.shape[1])
    for row in range(x.shape[1]):
        out[:, row] = (first[:, row, None] - second).square().sum(-1).sqrt()
    return out


def pairwise_distance_weight_reference(g: Tensor, distance: Tensor) -> Tensor:
    """State the weights of pairs. A distance of 0 has no derivative; its weight is 0, g / inf."""
    return g / distance.masked_fill(distance == 0, torch.inf)


torch.library.impl("flowmatch::pairwise_distance", "default")(
    _native.reference(pairwise_distance_reference)
)
torch.library.impl("flowmatch::pairwise_distance_weight", "default")(
    pairwise_distance_weight_reference
)
for _name in ("pairwise_distance", "pairwise_distance_weight"):
    map_over_batch(f"flowmatch::{_name}")


@torch.library.register_fake("flowmatch::pairwise_distance")  # type: ignore[untyped-decorator]
def _(x: Tensor, y: Tensor, metric: int) -> Tensor:
    return x.new_empty(*x.shape[:2], y.shape[1])


@torch.library.register_fake("flowmatch::pairwise_distance_weight")  # type: ignore[untyped-decorator]
def _(g: Tensor, distance: Tensor) -> Tensor:
    return torch.empty_like(g, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, y, ctx.metric = inputs
    ctx.save_for_backward(x, y, output)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
    """Differentiate |x - y| as (x - y) w, w = g / |x - y|: sums over pairs are matrix products."""
    x, y, distance = ctx.saved_tensors
    if ctx.metric == _DOT:
        return g @ y, g.transpose(1, 2) @ x, None
    # Half types overflow in 1 / distance, and lose digits where terms nearly cancel.
    dtype = x.dtype
    x, y, g, distance = (t.to(wide(dtype)) for t in (x, y, g, distance))
    if torch.is_grad_enabled():  # double backward: the distance must be part of the graph
        distance = torch.ops.flowmatch.pairwise_distance(x, y, _L2)
    weight = torch.ops.flowmatch.pairwise_distance_weight(g, distance)
    # Only differences matter: subtracting a common offset avoids cancellation.
    middle = y.detach().mean(1, keepdim=True).nan_to_num(0, 0, 0)
    x, y = x - middle, y - middle
    for_x = x * weight.sum(2)[..., None] - weight @ y
    for_y = y * weight.sum(1)[..., None] - weight.transpose(1, 2) @ x
    return for_x.to(dtype), for_y.to(dtype), None


def _setup_weight(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1], output)


def _backward_weight(ctx: Any, v: Tensor) -> tuple[Tensor, Tensor]:
    distance, weight = ctx.saved_tensors
    over = torch.ops.flowmatch.pairwise_distance_weight
    return over(v, distance), -over(v * weight, distance)


torch.library.register_autograd("flowmatch::pairwise_distance", _backward, setup_context=_setup)
torch.library.register_autograd(
    "flowmatch::pairwise_distance_weight", _backward_weight, setup_context=_setup_weight
)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("flowmatch::pairwise_distance", _device, torch.float32)

_METRICS = ("l2", "cosine", "dot")


def _check(x: Tensor, y: Tensor, metric: str) -> None:
    check_metric(metric, _METRICS)
    check_vectors("x and y", x, y)
    check_floats("x and y", x, y, autocasts=True)
    check_devices("x and y", x, y)


def pairwise_distance(x: Tensor, y: Tensor, metric: str = "l2") -> Tensor:
    r"""Compute the distance of each `x` to each `y`.

    Distances are precise to about the last digits of their type, also between long vectors that
    are close to each other: where ``|x|^2 + |y|^2 - 2 x.y`` suffers from cancellation, they are
    computed from differences. At distance 0 the first and second derivatives are 0. Twice
    differentiable; bit-identical from run to run. Half types are summed in float32, and under
    autocast the op runs in float32.

    Args:
        x: Descriptors ``[B, N, D]`` or ``[N, D]``, any float type.
        y: Descriptors ``[B, M, D]`` or ``[M, D]`` of the same type.
        metric: ``"l2"``; ``"cosine"``, 1 - cosine of the angle, where zero vectors have distance 1
            to all; ``"dot"``, the product itself.

    Returns:
        ``[B, N, M]`` or ``[N, M]`` of the type of `x`.

    Raises:
        ValueError: Shapes, types or devices do not match, or the metric is unknown.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
        >>> pairwise_distance(x, x).tolist()
        [[0.0, 5.0], [5.0, 0.0]]
    """
    _check(x, y, metric)
    single = x.dim() == 2
    first, second = (x[None], y[None]) if single else (x, y)
    if metric == "cosine":
        first, second = directions(first, 0), directions(second, 1)
    out = torch.ops.flowmatch.pairwise_distance(first, second, _DOT if metric == "dot" else _L2)
    if metric == "cosine":
        out = out.square().div_(2)  # unlike 1 - product, precise for small angles
        out = out if autocast_is_on(x) else out.to(x.dtype)
    result: Tensor = out[0] if single else out
    return result
