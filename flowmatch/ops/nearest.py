"""Exact nearest neighbours of descriptors, with ratio and mutual tests in the same pass."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowmatch.ops import _native
from flowmatch.ops._batching import map_over_batch
from flowmatch.ops._checks import (
    check_devices,
    check_floats,
    check_metric,
    check_vectors,
    to_one_type,
)
from flowmatch.ops._derivatives import Saved, register_derivatives, save
from flowmatch.ops._directions import directions
from flowmatch.ops._types import wide
from flowmatch.ops.nearest_reference import (
    DOT,
    L2,
    check_kernel_arguments,
    nearest_hamming_reference,
    nearest_reference,
)

# Both ops return the distances and indices of the k nearest, [B, N, k], and, if `mutual`, whether a
# query is also the nearest of its nearest reference, [B, N], otherwise [B, 0].
torch.library.define(
    "flowmatch::nearest",
    "(Tensor query, Tensor reference, int k, int metric, Tensor? query_lengths, "
    "Tensor? reference_lengths, Tensor? mask, bool mutual) -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "flowmatch::nearest_hamming",
    "(Tensor query, Tensor reference, int k, Tensor? query_lengths, Tensor? reference_lengths, "
    "Tensor? mask, bool mutual) -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
_MAX_MISSING = 1024  # largest k without as many references


class Neighbours(NamedTuple):
    """Result of `nearest`.

    Attributes:
        distance: Distances ``[B, N, k]``, nearest first; float32 (float64 for float64 descriptors),
            int32 for hamming. For ``"dot"`` the products, largest first.
        index: Indices of the references, ``[B, N, k]`` int64; -1 for missing neighbours.
        accepted: Whether a query passed the ratio and mutual tests, ``[B, N]`` bool; None without
            either test.
    """

    distance: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which is not needed
    accepted: Tensor | None


for _name, _reference in (
    ("nearest", nearest_reference),
    ("nearest_hamming", nearest_hamming_reference),
):
    torch.library.impl(f"flowmatch::{_name}", "default")(_native.reference(_reference))
    map_over_batch(f"flowmatch::{_name}")


@torch.library.register_fake("flowmatch::nearest")  # type: ignore[untyped-decorator]
def _(
    query: Tensor,
    reference: Tensor,
    k: int,
    metric: int,
    query_lengths: Tensor | None,
    reference_lengths: Tensor | None,
    mask: Tensor | None,
    mutual: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    check_kernel_arguments(query, reference, k, query_lengths, reference_lengths, mask, metric)
    return _empty(query, k, wide(query.dtype), mutual)


@torch.library.register_fake("flowmatch::nearest_hamming")  # type: ignore[untyped-decorator]
def _(
    query: Tensor,
    reference: Tensor,
    k: int,
    query_lengths: Tensor | None,
    reference_lengths: Tensor | None,
    mask: Tensor | None,
    mutual: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    check_kernel_arguments(query, reference, k, query_lengths, reference_lengths, mask)
    return _empty(query, k, torch.int32, mutual)


def _empty(
    query: Tensor, k: int, dtype: torch.dtype, mutual: bool
) -> tuple[Tensor, Tensor, Tensor]:
    B, N, _ = query.shape
    return (
        query.new_empty(B, N, k, dtype=dtype),
        query.new_empty(B, N, k, dtype=torch.int64),
        query.new_empty(B, N if mutual else 0, dtype=torch.bool),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, reference, _, ctx.metric, *_ = inputs
    ctx.mark_non_differentiable(*output[1:])
    save(ctx, query, reference, output[1])


def _sum_into(total: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Add `values` [B, n, D] to the rows `index` [B, n] of `total`, always in the same order."""
    B, M, D = total.shape
    batch = torch.arange(B, device=index.device)[:, None]
    if total.is_cuda:  # on CUDA index_put is deterministic (it sorts), index_add is not
        return total.index_put((batch.expand_as(index), index), values, accumulate=True)
    rows = (index + M * batch).view(-1)  # on the CPU index_add is the deterministic one
    # Not flatten(): under torch.autograd.grad(is_grads_batched=True) it does not work.
    return total.view(B * M, D).index_add(0, rows, values.reshape(rows.shape[0], D)).view(B, M, D)


def _of_pairs(query: Tensor, reference: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the vectors of all pairs that were found, [B, N, k, D]; 0 for missing neighbours.

    Missing neighbours may stand for vectors that are not finite: 0 times those would be NaN.
    """
    B, N, k = index.shape
    D = query.shape[2]
    chosen = index.clamp(min=0).reshape(B, N * k, 1).expand(-1, -1, D)
    missing = (index < 0)[..., None]
    kind = wide(query.dtype)
    pairs = torch.where(missing, 0, reference.gather(1, chosen).reshape(B, N, k, D).to(kind))
    return torch.where(missing, 0, query[:, :, None].to(kind)), pairs


_MAX_ELEMENTS = 1 << 25  # of the vectors of pairs, in the backward pass at a time


def _over_distance(values: Tensor, difference: Tensor) -> Tensor:
    """Divide by the distance; at distance 0, where there is no derivative, return 0."""
    square = difference.square().sum(-1, keepdim=True)
    same = square == 0
    return torch.where(same, 0, values / torch.where(same, 1, square).sqrt())


def _backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    """Differentiate the distances of the returned pairs; the choice of pairs is constant."""
    query, reference, index = ctx.saved_tensors
    B, N, _ = index.shape
    if reference.shape[1] == 0:
        return torch.zeros_like(query), torch.zeros_like(reference), *(None,) * 6
    kind = wide(query.dtype)
    first = torch.zeros_like(query, dtype=kind, memory_format=torch.contiguous_format)
    total = torch.zeros_like(reference, dtype=kind, memory_format=torch.contiguous_format)
    # Some neighbours at a time: the vectors of all pairs may need much memory.
    step = max(1, _MAX_ELEMENTS // max(1, query.numel()))
    for chosen, weight in zip(torch.split(index, step, 2), torch.split(g, step, 2), strict=True):
        queries, pairs = _of_pairs(query, reference, chosen)
        weight = torch.where((chosen < 0)[..., None], 0, weight[..., None])
        if ctx.metric == DOT:
            for_query, for_pairs = weight * pairs, weight * queries
        else:
            difference = queries - pairs
            for_query = _over_distance(weight, difference) * difference
            for_pairs = -for_query
        first = first + for_query.sum(2)
        count = N * chosen.shape[2]
        rows = for_pairs.reshape(B, count, query.shape[2])
        total = _sum_into(total, chosen.clamp(min=0).reshape(B, count), rows)
    grads = first.to(query.dtype), total.to(reference.dtype)
    return (*grads, None, None, None, None, None, None)


def _jvp(
    ctx: Any, saved: Saved, along_q: Tensor | None, along_r: Tensor | None, *_: Any
) -> tuple[Any, ...]:
    query, reference, index = saved
    if reference.shape[1] == 0:
        return query.new_zeros(index.shape, dtype=wide(query.dtype)), None, None
    queries, pairs = _of_pairs(query, reference, index)
    along_q = torch.zeros_like(query) if along_q is None else along_q
    along_r = torch.zeros_like(reference) if along_r is None else along_r
    change_q, change_r = _of_pairs(along_q, along_r, index)
    if ctx.metric == DOT:
        tangent = (change_q * pairs + queries * change_r).sum(-1)
    else:
        difference = queries - pairs
        products = (difference * (change_q - change_r)).sum(-1, keepdim=True)
        tangent = _over_distance(products, difference)[..., 0]
    return tangent, None, None


register_derivatives("nearest", _setup, _backward, _jvp)

_METRICS = ("l2", "cosine", "dot", "hamming")


def _check(query: Tensor, reference: Tensor, k: int, metric: str, ratio: float | None) -> None:
    names = "query and reference"
    check_metric(metric, _METRICS)
    check_vectors(names, query, reference)
    if metric != "hamming":
        check_floats(names, query, reference)
    elif not query.dtype == reference.dtype == torch.uint8:
        raise ValueError(
            f"{names} must be uint8 (packed bits), got {query.dtype} and {reference.dtype}"
        )
    check_devices(names, query, reference)
    if k < 1:
        raise ValueError(f"k must be positive, got {k}")
    if k > _MAX_MISSING and k > reference.shape[-2]:
        raise ValueError(
            f"k must be at most {_MAX_MISSING} or the number of references, {reference.shape[-2]}, "
            f"got {k}"
        )
    if ratio is not None and (metric == "dot" or not 0 < ratio <= 1):
        raise ValueError(f"ratio needs a distance and 0 < ratio <= 1, got {metric!r} and {ratio}")


def _check_lengths(name: str, lengths: Tensor | None, vectors: Tensor) -> Tensor | None:
    if lengths is None:
        return None
    if vectors.dim() != 3 or lengths.shape != vectors.shape[:1] or lengths.is_floating_point():
        raise ValueError(
            f"{name} must be integers [B] for batches {tuple(vectors.shape)}, "
            f"got {lengths.dtype} {tuple(lengths.shape)}"
        )
    return lengths.to(vectors.device, torch.int64).clamp(0, vectors.shape[1]).contiguous()


def _check_mask(mask: Tensor | None, query: Tensor, reference: Tensor) -> Tensor | None:
    if mask is None:
        return None
    shape = (*query.shape[:-1], reference.shape[-2])
    if mask.shape != shape or mask.dtype != torch.bool or mask.device != query.device:
        raise ValueError(
            f"mask must be bool {shape} on {query.device}, "
            f"got {mask.dtype} {tuple(mask.shape)} on {mask.device}"
        )
    return (mask if mask.dim() == 3 else mask[None]).contiguous()


def nearest(
    query: Tensor,
    reference: Tensor,
    k: int = 1,
    metric: str = "l2",
    *,
    ratio: float | None = None,
    mutual: bool = False,
    query_lengths: Tensor | None = None,
    reference_lengths: Tensor | None = None,
    mask: Tensor | None = None,
) -> Neighbours:
    r"""Find the `k` nearest references of each query, exactly.

    All pairs are compared, but not stored: no memory is needed beyond inputs and results. Equal
    distances are ordered by index, so that results are reproducible. Distances are computed in
    float32 as ``sqrt(sum((q - r)^2))``, without cancellation. A faster first pass may select
    candidates by products in bfloat16; its errors are bounded, and all pairs within the bound are
    compared again in float32. Vectors that are not finite have no neighbours and are neighbours of
    none. Distances are differentiable any number of times, in reverse and forward mode and by
    `torch.func`. Under autocast descriptors keep their type; if the types differ, both are
    converted to the wider.

    Args:
        query: Descriptors ``[B, N, D]`` or ``[N, D]``: float16, bfloat16, float32 or float64, or
            bits packed into uint8 for ``"hamming"``. Half types are compared in float32.
        reference: Descriptors ``[B, M, D]`` or ``[M, D]`` of the same type.
        k: Number of neighbours; more than 1024 only if there are as many references.
        metric: ``"l2"``; ``"cosine"``, 1 - cosine of the angle, where zero vectors have distance 1
            to all; ``"dot"``, the largest product; ``"hamming"``, the number of differing bits.
        ratio: Ratio test (Lowe): accept a query if its nearest distance is at most `ratio` times
            its second. Queries with a single neighbour, or with two at distance 0, are rejected.
        mutual: Mutual test: accept a query if it is the nearest of its nearest reference.
        query_lengths: Number of valid queries of each batch item, ``[B]``; the rest is padding.
        reference_lengths: Number of valid references of each batch item, ``[B]``.
        mask: Allowed pairs, ``[B, N, M]`` or ``[N, M]`` bool. Slower.

    Returns:
        `Neighbours`; missing neighbours have distance inf (-inf for ``"dot"``, -1 for
        ``"hamming"``) and index -1.

    Raises:
        ValueError: Shapes, types or devices do not match, or an argument is out of range.

    Example:
        >>> reference = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
        >>> result = nearest(torch.tensor([[0.0, 0.0]]), reference, k=2)
        >>> result.index.tolist(), result.distance.tolist()
        ([[0, 2]], [[0.0, 1.0]])

    Reference:
        The ratio test: Lowe, Distinctive Image Features from Scale-Invariant Keypoints, IJCV 2004,
        section 7.1.
    """
    _check(query, reference, k, metric, ratio)
    lengths = (
        _check_lengths("query_lengths", query_lengths, query),
        _check_lengths("reference_lengths", reference_lengths, reference),
    )
    options = (*lengths, _check_mask(mask, query, reference), mutual)
    query, reference = to_one_type(query, reference)
    single = query.dim() == 2
    q, r = (query[None], reference[None]) if single else (query, reference)
    count = max(k, 2) if ratio is not None else k
    if metric == "hamming":
        distance, index, both = torch.ops.flowmatch.nearest_hamming(q, r, count, *options)
    elif metric == "cosine":
        q, r = directions(q, 0), directions(r, 1)
        chord, index, both = torch.ops.flowmatch.nearest(q, r, count, L2, *options)
        distance = chord.square() / 2  # unlike 1 - product, exactly 0 for equal directions
    else:
        kind = L2 if metric == "l2" else DOT
        distance, index, both = torch.ops.flowmatch.nearest(q, r, count, kind, *options)
    accepted: Tensor | None = None
    if ratio is not None or mutual:
        accepted = index[..., 0] >= 0
        if mutual:
            accepted = accepted & both
        if ratio is not None:
            first, second = distance[..., 0], distance[..., 1]
            accepted = accepted & (index[..., 1] >= 0) & (first <= ratio * second) & (second > 0)
        accepted = accepted[0] if single else accepted
    distance, index = distance[..., :k], index[..., :k]
    return Neighbours(*((distance[0], index[0]) if single else (distance, index)), accepted)
