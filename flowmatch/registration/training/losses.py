"""Losses that bring descriptors of the same point together and keep others apart."""

import torch
from torch import Tensor
from torch.nn import functional as F


def _check(first: Tensor, second: Tensor) -> None:
    if first.dim() != 2 or first.shape != second.shape:
        raise ValueError(
            f"descriptors must be two [B, D], got {tuple(first.shape)} and {tuple(second.shape)}"
        )


def _close(first: Tensor, second: Tensor, positions: Tensor | None, apart: float) -> Tensor:
    """Return which points are the same or nearer than `apart`, bool ``[B, B]``."""
    _check(first, second)
    close = torch.eye(len(first), dtype=torch.bool, device=first.device)
    if positions is None:
        return close
    if positions.shape != (len(first), 3):
        raise ValueError(f"positions must be [{len(first)}, 3], got {tuple(positions.shape)}")
    where = positions.float()
    return close | ((where[:, None] - where[None]).square().sum(2) < apart**2)


def contrastive_loss(first: Tensor, second: Tensor, same: Tensor, margin: float = 1.0) -> Tensor:
    """Pull pairs of the same point together and push others beyond a margin.

    Args:
        first: Descriptors ``[B, D]``.
        second: What each is paired with, ``[B, D]``.
        same: bool ``[B]``: whether a pair shows the same point.
        margin: Distance from which other points cost nothing.

    Returns:
        Mean of ``1/2 [y d^2 + (1 - y) max(0, margin - d)^2]``.

    Raises:
        ValueError: Shapes do not fit.

    Example:
        >>> a = torch.zeros(2, 3)
        >>> contrastive_loss(a, a, torch.tensor([True, False]))
        tensor(0.2500)

    Reference:
        Hadsell, Chopra and LeCun, CVPR 2006; as in Zeng et al., 3DMatch, CVPR 2017.
    """
    _check(first, second)
    if same.shape != first.shape[:1]:
        raise ValueError(f"same must be [{len(first)}], got {tuple(same.shape)}")
    square = (first - second).square().sum(1)
    apart = F.relu(margin - (square + 1e-12).sqrt()).square()
    return 0.5 * torch.where(same, square, apart).mean()


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
    # Half types would round small distances to nothing.
    a, b = first.float(), second.float()
    close = _close(a, b, positions, apart)
    distances = (2 - 2 * (a @ b.T)).clamp(min=1e-8).sqrt()
    wrong = distances.masked_fill(close, torch.inf)
    hardest = torch.minimum(wrong.amin(0), wrong.amin(1))
    pairs = (2 - 2 * (a * b).sum(1)).clamp(min=1e-8).sqrt()
    return F.relu(margin + pairs - hardest).mean()


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
    a, b = first.float(), second.float()
    close = _close(a, b, positions, apart)
    own = torch.eye(len(a), dtype=torch.bool, device=a.device)
    alike = (a @ b.T / temperature).masked_fill(close & ~own, -torch.inf)
    right = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(alike, right) + F.cross_entropy(alike.T, right)) / 2
