"""References of `nearest` in plain PyTorch: all distances, sorted, a few rows at a time."""

from typing import Any

import torch
from torch import Tensor

from flowmatch.ops._checks import check_kernel, check_kernel_float, same_kind
from flowmatch.ops._types import finest, wide

L2, DOT = 0, 1  # metrics of the op
_CHUNK = 2**24  # number of pairs in memory at a time


def check_kernel_arguments(
    query: Tensor,
    reference: Tensor,
    k: int,
    query_lengths: Tensor | None,
    reference_lengths: Tensor | None,
    mask: Tensor | None,
    metric: int | None = None,
) -> None:
    """Check arguments as the compiled kernels do; without `metric` those of hamming."""
    op = "nearest"
    fits = query.dim() == reference.dim() == 3 and query.shape[::2] == reference.shape[::2]
    check_kernel(op, fits, "query and reference must be [B, N, D] and [B, M, D]")
    same = same_kind(query, reference)
    check_kernel(op, same, "query and reference must have the same type and device")
    check_kernel(op, k >= 1, "k must be positive")
    B, N, _ = query.shape
    for name, lengths in (
        ("query_lengths", query_lengths),
        ("reference_lengths", reference_lengths),
    ):
        if lengths is not None:
            fits = lengths.shape == (B,) and lengths.dtype == torch.int64
            fits = fits and lengths.device == query.device and lengths.is_contiguous()
            check_kernel(op, fits, f"{name} must be contiguous int64 [B]")
    if mask is not None:
        fits = mask.shape == (B, N, reference.shape[1]) and mask.dtype == torch.bool
        fits = fits and mask.device == query.device and mask.is_contiguous()
        check_kernel(op, fits, "mask must be contiguous bool [B, N, M]")
    if metric is None:
        is_bytes = query.dtype == torch.uint8
        check_kernel("nearest_hamming", is_bytes, "query and reference must be uint8")
    else:
        check_kernel_float(op, query)
        check_kernel(op, metric in (L2, DOT), "metric must be 0 (l2) or 1 (dot)")


def _allowed(
    query: Tensor,
    reference: Tensor,
    query_lengths: Tensor | None,
    reference_lengths: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """Return the pairs that lengths and mask allow: [B, N or 1, M or 1]."""
    allowed = torch.ones(query.shape[0], 1, 1, dtype=torch.bool, device=query.device)
    if query_lengths is not None:
        rows = torch.arange(query.shape[1], device=query.device)
        allowed = allowed & (rows[:, None] < query_lengths[:, None, None])
    if reference_lengths is not None:
        columns = torch.arange(reference.shape[1], device=query.device)
        allowed = allowed & (columns < reference_lengths[:, None, None])
    return allowed if mask is None else allowed & mask


def _select(
    pair_values: Any, allowed: Tensor, shape: tuple[int, int, int], k: int, mutual: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k smallest of pair_values(rows), [B, n, M], computed a few rows at a time."""
    B, N, M = shape
    device = allowed.device
    kind = finest(device)
    best = torch.full((B, N, k), torch.inf, dtype=kind, device=device)
    index = torch.full((B, N, k), -1, dtype=torch.int64, device=device)
    columns = torch.full((B, M), torch.inf, dtype=kind, device=device)
    nearest_query = torch.full((B, M), -1, dtype=torch.int64, device=device)
    step = max(1, _CHUNK // max(1, B * M))
    for start in range(0, N if M else 0, step):
        rows = slice(start, min(start + step, N))
        values = pair_values(rows)
        usable = allowed if allowed.shape[1] == 1 else allowed[:, rows]
        values = torch.where(usable & values.isfinite(), values, torch.inf)
        ordered, order = values.sort(dim=-1, stable=True)  # equal values by index
        take = min(k, M)
        best[:, rows, :take], index[:, rows, :take] = ordered[..., :take], order[..., :take]
        low = values.min(1)[0]
        at = torch.where(values == low[:, None], 1, 0).argmax(1)  # the first of equal values
        nearest_query = torch.where(low < columns, at + start, nearest_query)
        columns = torch.minimum(columns, low)
    index = torch.where(best.isinf(), -1, index)
    both = torch.zeros(B, N if mutual else 0, dtype=torch.bool, device=device)
    if mutual and M:
        first = index[..., 0]
        back = nearest_query.gather(1, first.clamp(min=0))
        both = (first >= 0) & (back == torch.arange(N, device=device))
    return best, index, both


def nearest_reference(
    query: Tensor,
    reference: Tensor,
    k: int,
    metric: int,
    query_lengths: Tensor | None,
    reference_lengths: Tensor | None,
    mask: Tensor | None,
    mutual: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """State what `nearest` computes, in plain PyTorch: all distances in float64, sorted.

    On devices without float64 they are computed in float32.
    """
    q, r = (t.to(finest(t.device)) for t in (query, reference))

    def pair_values(rows: slice) -> Tensor:
        if metric == DOT:
            return -(q[:, rows] @ r.transpose(1, 2))
        return torch.cdist(q[:, rows], r, compute_mode="donot_use_mm_for_euclid_dist")

    allowed = _allowed(query, reference, query_lengths, reference_lengths, mask)
    shape = (*query.shape[:2], reference.shape[1])
    best, index, both = _select(pair_values, allowed, shape, k, mutual)
    return (best if metric == L2 else -best).to(wide(query.dtype)), index, both


def nearest_hamming_reference(
    query: Tensor,
    reference: Tensor,
    k: int,
    query_lengths: Tensor | None,
    reference_lengths: Tensor | None,
    mask: Tensor | None,
    mutual: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """State what `nearest_hamming` computes: the differing bits are |a| + |b| - 2 a.b."""
    q, r = (_bits(t) for t in (query, reference))

    def pair_values(rows: slice) -> Tensor:
        part = q[:, rows]
        product = part @ r.transpose(1, 2)  # whole numbers, exact in float32
        counts = part.sum(-1)[..., None] + r.sum(-1)[:, None] - 2 * product
        return counts.to(finest(counts.device))

    allowed = _allowed(query, reference, query_lengths, reference_lengths, mask)
    shape = (*query.shape[:2], reference.shape[1])
    best, index, both = _select(pair_values, allowed, shape, k, mutual)
    return torch.where(best.isinf(), -1, best).int(), index, both


def _bits(packed: Tensor) -> Tensor:
    """Unpack bytes [..., D] to bits [..., 8 D] as floats 0 and 1."""
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed[..., None] >> places) & 1).flatten(-2).float()
