"""Losses that bring descriptors of the same point together and keep others apart."""

import torch
from torch import Tensor

from flowmatch.descriptor_losses import check_pairs, info_nce_loss, triplet_loss


def _close(first: Tensor, second: Tensor, positions: Tensor | None, apart: float) -> Tensor:
    """Return which points are the same or nearer than `apart`, bool ``[B, B]``."""
    check_pairs(first, second)
    close = torch.eye(len(first), dtype=torch.bool, device=first.device)
    if positions is None:
        return close
    if positions.shape != (len(first), 3):
        raise ValueError(f"positions must be [{len(first)}, 3], got {tuple(positions.shape)}")
    where = positions.float()
    return close | ((where[:, None] - where[None]).square().sum(2) < apart**2)


def hardest_triplet_loss(
    first: Tensor,
    second: Tensor,
    positions: Tensor | None = None,
    *,
    margin: float = 1.0,
    apart: float = 0.1,
) -> Tensor:
    """Demand that each pair is nearer than the nearest wrong one of the batch, by a margin.

    Args:
        first: Descriptors of B points, ``[B, D]``, of unit length.
        second: Of the same points as another scan shows them, ``[B, D]``.
        positions: Where the points are, ``[B, 3]``, metres; points nearer than `apart` are not
            held against each other.
        margin: By how much.
        apart: Metres.

    Returns:
        Mean of ``max(0, margin + d(pair) - d(hardest))``, the hardest over both sides.

    Raises:
        ValueError: Shapes do not fit.

    Example:
        >>> a = torch.eye(3)
        >>> hardest_triplet_loss(a, a, margin=1.0)
        tensor(0.)

    Reference:
        Mishchuk et al., Working hard to know your neighbor's margins, NeurIPS 2017.
    """
    close = _close(first, second, positions, apart)
    return triplet_loss(first, second, close, margin=margin)[0]


def softmax_loss(
    first: Tensor,
    second: Tensor,
    positions: Tensor | None = None,
    *,
    temperature: float = 0.1,
    apart: float = 0.1,
) -> Tensor:
    """Demand that each point is told from all others of the batch, the alike ones counting most.

    Where some pairs are hopeless, as with local frames that differ, the hardest triplets of a
    young network draw everything to one place; a sum over all does not.

    Args:
        first: Descriptors of B points, ``[B, D]``, of unit length.
        second: Of the same points as another scan shows them, ``[B, D]``.
        positions: As in `hardest_triplet_loss`.
        temperature: Similarity by which one point is e times as likely as another.
        apart: Metres.

    Returns:
        Mean cross-entropy of choosing the right point, from either side.

    Raises:
        ValueError: Shapes do not fit.

    Example:
        >>> softmax_loss(torch.zeros(2, 3), torch.zeros(2, 3))
        tensor(0.6931)

    Reference:
        van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018; for
        fragments: Xie et al., PointContrast, ECCV 2020.
    """
    close = _close(first, second, positions, apart)
    return info_nce_loss(first, second, close, temperature=temperature)
