"""All distances between two sets of descriptors, with gradients from matrix products."""

from typing import Any

import torch
from torch import Tensor

from flowmatch.ops import _native
from flowmatch.ops._batching import map_over_batch
from flowmatch.ops._checks import (
    check_devices,
    check_floats,
    check_kernel,
    check_kernel_float,
    check_metric,
    check_vectors,
    same_kind,
    to_one_type,
)
from flowmatch.ops._derivatives import Saved, add, register_derivatives, save
from flowmatch.ops._directions import directions
from flowmatch.ops._types import wide

_L2, _DOT = 0, 1

torch.library.define(
    "flowmatch::pairwise_distance",
    "(Tensor x, Tensor y, int metric) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
# Weight of a pair of vectors in the gradient: g / distance, and 0 where the distance is 0.
torch.library.define(
    "flowmatch::pairwise_distance_weight",
    "(Tensor g, Tensor distance) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


def pairwise_distance_reference(x: Tensor, y: Tensor, metric: int) -> Tensor:
    """State what the op computes, in plain PyTorch: distances from differences, row by row."""
    first, second = (t.to(wide(t.dtype)) for t in (x, y))
    if metric == _DOT:
        return (first @ second.transpose(1, 2)).to(x.dtype)
    out = x.new_zeros(*x.shape[:2], y.shape[1])
    for row in range(x.shape[1] if x.shape[2] else 0):
        apart = first[:, row, None] - second
        largest = apart.abs().amax(-1)  # divided by it, squares cannot overflow
        scale = torch.where(largest.isfinite() & (largest > 0), largest, 1)
        out[:, row] = scale * (apart / scale[..., None]).square().sum(-1).sqrt()
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
    op = "pairwise_distance"
    fits = x.dim() == y.dim() == 3 and x.shape[::2] == y.shape[::2] and same_kind(x, y)
    message = "x and y must be [B, N, D] and [B, M, D] of the same type and device"
    check_kernel(op, fits, message)
    check_kernel_float(op, x)
    check_kernel(op, metric in (_L2, _DOT), "metric must be 0 (l2) or 1 (dot)")
    return x.new_empty(*x.shape[:2], y.shape[1])


@torch.library.register_fake("flowmatch::pairwise_distance_weight")  # type: ignore[untyped-decorator]
def _(g: Tensor, distance: Tensor) -> Tensor:
    op, same = "pairwise_distance_weight", g.shape == distance.shape and same_kind(g, distance)
    check_kernel(op, same, "g and distance must have the same shape, type and device")
    check_kernel_float(op, g)
    return torch.empty_like(g, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, y, ctx.metric = inputs
    save(ctx, x, y, output)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
    """Differentiate |x - y| as (x - y) w, w = g / |x - y|: sums over pairs are matrix products."""
    x, y, distance = ctx.saved_tensors
    if ctx.metric == _DOT:
        return g @ y, g.transpose(1, 2) @ x, None
    dtype = x.dtype
    x, y, distance = _centred(x, y, distance)
    weight = torch.ops.flowmatch.pairwise_distance_weight(g.to(x.dtype), distance)
    for_x = x * weight.sum(2)[..., None] - weight @ y
    for_y = y * weight.sum(1)[..., None] - weight.transpose(1, 2) @ x
    return for_x.to(dtype), for_y.to(dtype), None


def _centred(x: Tensor, y: Tensor, distance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the vectors and distances that derivatives are computed from.

    Half types overflow in 1 / distance, and lose digits where terms nearly cancel. Only differences
    matter: subtracting a common offset avoids cancellation.
    """
    kind = wide(x.dtype)
    x, y, distance = (t.to(kind) for t in (x, y, distance))
    if torch.is_grad_enabled():  # second derivatives: the distance must be part of the graph
        distance = torch.ops.flowmatch.pairwise_distance(x, y, _L2)
    middle = y.detach().mean(1, keepdim=True).nan_to_num(0, 0, 0)
    return x - middle, y - middle, distance


def _jvp(
    ctx: Any, saved: Saved, along_x: Tensor | None, along_y: Tensor | None, *_: None
) -> Tensor | None:
    """Differentiate |x - y| in a direction: (x - y) . (change of x - change of y) / |x - y|."""
    x, y, distance = saved
    kind, terms = x.dtype, []
    if ctx.metric == _L2:
        x, y, distance = _centred(x, y, distance)
    if along_x is not None:
        along_x = along_x.to(x.dtype)
        terms.append(along_x @ y.transpose(1, 2))
    if along_y is not None:
        along_y = along_y.to(x.dtype)
        terms.append(x @ along_y.transpose(1, 2))
    products = add(terms)
    if ctx.metric == _DOT or products is None:
        return products
    total = -products
    if along_x is not None:
        total = total + (x * along_x).sum(2)[..., None]
    if along_y is not None:
        total = total + (y * along_y).sum(2)[:, None]
    result: Tensor = torch.ops.flowmatch.pairwise_distance_weight(total, distance)
    return result.to(kind)


def _setup_weight(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    save(ctx, inputs[1], output)


def _backward_weight(ctx: Any, v: Tensor) -> tuple[Tensor, Tensor]:
    distance, weight = ctx.saved_tensors
    over = torch.ops.flowmatch.pairwise_distance_weight
    return over(v, distance), -over(v * weight, distance)


def _jvp_weight(
    ctx: Any, saved: Saved, along_g: Tensor | None, along_d: Tensor | None
) -> Tensor | None:
    distance, weight = saved
    terms = [] if along_g is None else [along_g]
    terms += [] if along_d is None else [-weight * along_d]
    total = add(terms)
    if total is None:
        return None
    result: Tensor = torch.ops.flowmatch.pairwise_distance_weight(total, distance)
    return result


register_derivatives("pairwise_distance", _setup, _backward, _jvp)
register_derivatives("pairwise_distance_weight", _setup_weight, _backward_weight, _jvp_weight)

_METRICS = ("l2", "cosine", "dot")


def _check(x: Tensor, y: Tensor, metric: str) -> None:
    check_metric(metric, _METRICS)
    check_vectors("x and y", x, y)
    check_floats("x and y", x, y)
    check_devices("x and y", x, y)


def pairwise_distance(x: Tensor, y: Tensor, metric: str = "l2") -> Tensor:
    r"""Compute the distance of each `x` to each `y`.

    In float32 the relative error of a distance is at most about 5e-6, also between long vectors
    that are close to each other: where ``|x|^2 + |y|^2 - 2 x.y`` suffers from cancellation,
    distances are computed from differences, and where squares overflow, as those of 1e25 do, from
    differences divided by the largest. At distance 0 all derivatives are 0. Differentiable any
    number of times, in reverse and forward mode and by `torch.func`; bit-identical from run to run.
    Half types are summed in float32. Under autocast vectors keep their type; if the types differ,
    both are converted to the wider.

    Args:
        x: Descriptors ``[B, N, D]`` or ``[N, D]``, float16, bfloat16, float32 or float64.
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
    x, y = to_one_type(x, y)
    single = x.dim() == 2
    first, second = (x[None], y[None]) if single else (x, y)
    if metric == "cosine":
        first, second = directions(first, 0), directions(second, 1)
    out = torch.ops.flowmatch.pairwise_distance(first, second, _DOT if metric == "dot" else _L2)
    if metric == "cosine":
        out = out.square().div_(2)  # unlike 1 - product, precise for small angles
        out = out.to(x.dtype)
    result: Tensor = out[0] if single else out
    return result
