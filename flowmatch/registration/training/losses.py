"""Losses for descriptors of points, with nearby points excluded as negatives."""

import torch
from torch import Tensor

from flowmatch.descriptor_losses import check_pairs, info_nce_loss, triplet_loss


def _nearby(first: Tensor, second: Tensor, positions: Tensor | None, min_distance: float) -> Tensor:
    """Return which points are the same or closer than `min_distance`, bool ``[B, B]``."""
    check_pairs(first, second)
    same = torch.eye(len(first), dtype=torch.bool, device=first.device)
    if positions is None:
        return same
    if positions.shape != (len(first), 3):
        raise ValueError(f"positions must be [{len(first)}, 3], got {tuple(positions.shape)}")
    places = positions.float()
    return same | ((places[:, None] - places[None]).square().sum(2) < min_distance**2)


def hardest_triplet_loss(
    first: Tensor,
    second: Tensor,
    positions: Tensor | None = None,
    *,
    margin: float = 1.0,
    min_distance: float = 0.1,
) -> Tensor:
    """Triplet loss with the hardest negatives of the batch.

    Args:
        first: Descriptors of B points, ``[B, D]``, of unit length.
        second: Descriptors of the same points in another scan, ``[B, D]``.
        positions: Positions of the points, ``[B, 3]``, metres; None takes all other points as
            negatives.
        margin: Margin between the distances of positive and negative pairs.
        min_distance: Minimum distance between a point and its negatives, metres.

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
    nearby = _nearby(first, second, positions, min_distance)
    return triplet_loss(first, second, nearby, margin=margin)[0]


def softmax_loss(
    first: Tensor,
    second: Tensor,
    positions: Tensor | None = None,
    *,
    temperature: float = 0.1,
    min_distance: float = 0.1,
) -> Tensor:
    """Cross-entropy of each point against all others of the batch (InfoNCE).

    Where some positive pairs are unmatchable, such as those with different local frames, the
    hardest triplets of an untrained network collapse all descriptors; a sum over all pairs does
    not.

    Args:
        first: Descriptors of B points, ``[B, D]``, of unit length.
        second: Descriptors of the same points in another scan, ``[B, D]``.
        positions: Positions of the points, ``[B, 3]``, metres; None takes all other points as
            negatives.
        temperature: Temperature of the softmax.
        min_distance: Minimum distance between a point and its negatives, metres.

    Returns:
        Mean cross-entropy in both directions.

    Raises:
        ValueError: Shapes do not fit.

    Example:
        >>> softmax_loss(torch.zeros(2, 3), torch.zeros(2, 3))
        tensor(0.6931)

    Reference:
        van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018; for
        fragments: Xie et al., PointContrast, ECCV 2020.
    """
    nearby = _nearby(first, second, positions, min_distance)
    return info_nce_loss(first, second, nearby, temperature=temperature)
