"""What `nearest` computes, stated in plain PyTorch: all distances, some rows at a time, sorted."""

from typing import Any

import torch
from torch import Tensor

from flowmatch.ops._types import wide

L2, DOT = 0, 1  # metrics of the op
_CHUNK = 2**24  # pairs that are held at once


def _allowed(
    query: Tensor,
    reference: Tensor,
    query_lengths: Tensor | None,
    reference_lengths: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """Return what may be paired, as far as lengths and mask say: [B, N or 1, M or 1]."""
    allowed = torch.ones(query.shape[0], 1, 1, dtype=torch.bool, device=query.device)
    if query_lengths is not None:
        rows = torch.arange(query.shape[1], device=query.device)
        allowed = allowed & (rows[:, None] < query_lengths[:, None, None])
    if reference_lengths is not None:
        columns = torch.arange(reference.shape[1], device=query.device)
        allowed = allowed & (columns < reference_lengths[:, None, None])
    return allowed if mask is None else allowed & mask


def _select(
    figures: Any, allowed: Tensor, shape: tuple[int, int, int], k: int, mutual: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Sort out the k smallest of figures(rows), [B, n, M], some rows at a time."""
    B, N, M = shape
    device = allowed.device
    best = torch.full((B, N, k), torch.inf, dtype=torch.float64, device=device)
    index = torch.full((B, N, k), -1, dtype=torch.int64, device=device)
    columns = torch.full((B, M), torch.inf, dtype=torch.float64, device=device)
    nearest_query = torch.full((B, M), -1, dtype=torch.int64, device=device)
    step = max(1, _CHUNK // max(1, B * M))
    for start in range(0, N if M else 0, step):
        rows = slice(start, min(start + step, N))
        found = figures(rows)
        free = allowed if allowed.shape[1] == 1 else allowed[:, rows]
        found = torch.where(free & found.isfinite(), found, torch.inf)
        values, order = found.sort(dim=-1, stable=True)  # of equal ones the first
        take = min(k, M)
        best[:, rows, :take], index[:, rows, :take] = values[..., :take], order[..., :take]
        low, at = found.min(1)  # of equal ones any: look again
        at = torch.where(found == low[:, None], 1, 0).argmax(1)
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
    """State what `nearest` computes, in plain PyTorch: all distances, in float64, sorted."""
    q, r = query.double(), reference.double()

    def figures(rows: slice) -> Tensor:
        if metric == DOT:
            return -(q[:, rows] @ r.transpose(1, 2))
        return torch.cdist(q[:, rows], r, compute_mode="donot_use_mm_for_euclid_dist")

    allowed = _allowed(query, reference, query_lengths, reference_lengths, mask)
    shape = (*query.shape[:2], reference.shape[1])
    best, index, both = _select(figures, allowed, shape, k, mutual)
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
    """State the same for packed bits: differing bits are |a| + |b| - 2 a.b."""
    q, r = (_bits(t) for t in (query, reference))

    def figures(rows: slice) -> Tensor:
        here = q[:, rows]
        both = (here @ r.transpose(1, 2)).double()
        return here.sum(-1)[..., None].double() + r.sum(-1)[:, None].double() - 2 * both

    allowed = _allowed(query, reference, query_lengths, reference_lengths, mask)
    shape = (*query.shape[:2], reference.shape[1])
    best, index, both = _select(figures, allowed, shape, k, mutual)
    return torch.where(best.isinf(), -1, best).int(), index, both


def _bits(packed: Tensor) -> Tensor:
    """Unpack bytes, [..., D] to [..., 8 D] of 0 and 1."""
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed[..., None] >> places) & 1).flatten(-2).float()
