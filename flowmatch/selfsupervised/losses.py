"""Ranking loss of patches from videos."""

import torch
from torch import Tensor

from flowmatch.metric_learning.tuples import check_tensors
from flowmatch.units import unit_vectors

HARDEST = 4  # number of nearest negatives that hard negatives are sampled from


def ranking_loss(
    first: Tensor,
    second: Tensor,
    different: Tensor,
    hard: bool,
    *,
    margin: float = 0.5,
    negatives: int = 4,
) -> tuple[Tensor, Tensor]:
    """Triplet ranking loss: patches of one track are closer than patches of different objects.

    ``mean max(0, d(a, p) - d(a, n) + m)``, with d one minus the cosine. Both patches of a pair are
    anchors; the negatives of each are sampled from the patches of other pairs that certainly show
    another object. With `hard`, half of them are sampled from the four nearest instead.

    Args:
        first: Embeddings of one patch of each track, ``[N, D]``; one of length 0 has no direction
            and gets no gradient.
        second: Embeddings of another patch of the same tracks, ``[N, D]``.
        different: Whether two tracks certainly show different objects, ``[N, N]`` bool, symmetric.
        hard: Whether half of the negatives are hard ones, as in later epochs.
        margin: Margin ``m``.
        negatives: Number of negatives of each anchor.

    Returns:
        The loss, 0 for a batch without negatives, and the share of triplets in the wrong order,
        without gradients.

    Raises:
        ValueError: Shapes or types do not fit, or `negatives` is not positive.

    Example:
        >>> x = torch.eye(2)
        >>> loss, wrong = ranking_loss(x, x, ~torch.eye(2, dtype=torch.bool), hard=False)
        >>> loss.item(), wrong.item()  # distances 0 and 1
        (0.0, 0.0)

    Reference:
        Wang & Gupta, ICCV 2015, section 4.2, equation 3; the sampling of negatives and both
        patches as anchors follow the published code, whose margin is 1 instead of 0.5.
    """
    check_tensors(first=first, second=second, different=different)
    N = len(first)
    if first.shape != second.shape or different.shape != (N, N) or negatives < 1:
        raise ValueError(
            "first and second must be [N, D], different [N, N] and negatives positive, got "
            f"{tuple(first.shape)}, {tuple(second.shape)}, {tuple(different.shape)}, {negatives}"
        )
    ends = unit_vectors(torch.cat([first, second]).float())
    cosine = ends @ ends.T
    order = torch.arange(2 * N, device=ends.device)
    near = cosine[order, (order + N) % (2 * N)]
    allowed = different.repeat(2, 2)
    index = sample_negatives(cosine.detach(), allowed, negatives, hard)
    # The difference of distances is the reversed difference of cosines.
    violation = cosine.gather(1, index) - near[:, None]
    valid = allowed.gather(1, index).to(cosine.dtype)  # 0 if an anchor has too few negatives
    total = valid.sum().clamp(min=1)
    loss = ((violation + margin).clamp(min=0) * valid).sum() / total
    return loss, ((violation >= 0) * valid).sum().detach() / total


def sample_negatives(cosine: Tensor, allowed: Tensor, count: int, hard: bool) -> Tensor:
    """Sample negatives of each anchor.

    Args:
        cosine: Cosines of all patches of a batch, ``[M, M]``.
        allowed: Whether two patches certainly show different objects, ``[M, M]`` bool.
        count: Number of negatives of each anchor.
        hard: Whether half of them are sampled from the nearest negatives.

    Returns:
        Indices ``[M, count]``; those of an anchor with too few negatives may not be allowed.
    """
    M = len(cosine)
    noise = torch.rand(M, M, device=cosine.device)
    score = torch.where(allowed, noise, -1.0)
    if not hard:
        return _highest(score, count)
    nearest = cosine.masked_fill(~allowed, -2.0).topk(min(HARDEST, M), dim=1).indices
    is_hard = torch.zeros_like(allowed).scatter_(1, nearest, True) & allowed
    return torch.cat(
        [
            _highest(torch.where(is_hard, noise, -1.0), count - count // 2),
            _highest(torch.where(is_hard, -1.0, score), count // 2),
        ],
        dim=1,
    )


def _highest(score: Tensor, count: int) -> Tensor:
    return score.topk(min(count, len(score)), dim=1).indices
