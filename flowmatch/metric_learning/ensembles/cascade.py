"""HDC: a cascade of heads, each trained on the hardest pairs of the previous one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.tuples import check_batch, same_and_different
from flowmatch.ops import pairwise_distance
from flowmatch.units import unit_vectors


def hardest(hardness: Tensor, candidates: Tensor, share: float) -> Tensor:
    """Select the hardest pairs among candidates.

    Args:
        hardness: Hardness of each pair, ``[N, N]``.
        candidates: Mask of the pairs to select from, ``[N, N]`` bool.
        share: Share of the candidates to select, rounded up.

    Returns:
        Mask of the selected pairs, ``[N, N]`` bool.

    Example:
        >>> hardness = torch.tensor([[0.0, 1.0], [2.0, 9.0]])
        >>> candidates = torch.tensor([[True, True], [True, False]])
        >>> hardest(hardness, candidates, 0.5).int().tolist()
        [[0, 1], [1, 0]]
    """
    selected = torch.zeros_like(candidates)
    places = candidates.flatten().nonzero()[:, 0]
    # A tolerance, so that 20 % of 5 pairs is one pair despite the rounding of 0.2 * 5.
    count = min(len(places), -int(-(len(places) * share - 1e-9) // 1))
    order = torch.sort(hardness.flatten()[places], descending=True, stable=True).indices
    selected.view(-1)[places[order[:count]]] = True
    return selected


class CascadeLoss(nn.Module):
    r"""Contrastive loss of a cascade, whose head k takes the hardest pairs of head k - 1.

    Head k takes the hardest share ``h_k`` of the pairs of the head before it, positive and negative
    pairs apart, by their loss ``d^2`` or ``max(0, m - d)^2`` at head k; the total is
    ``1/2 sum_k (mean_same d^2 + mean_different max(0, m - d)^2)``. Easy pairs therefore train only
    the heads of early layers, hard pairs all of them.

    Args:
        shares: Share ``h_k`` of each head.
        margin: Distance margin ``m``.

    Raises:
        ValueError: A share is not in 0..1, or `margin` is negative.

    Example:
        >>> parts = [torch.randn(6, 4) for _ in range(3)]
        >>> CascadeLoss()(parts, torch.tensor([0, 0, 1, 1, 2, 2])).isfinite().item()
        True

    Reference:
        Yuan, Yang & Zhang, Hard-Aware Deeply Cascaded Embedding, ICCV 2017; the default shares are
        not checked against the paper.
    """

    def __init__(self, shares: Sequence[float] = (1.0, 0.5, 0.2), margin: float = 1.0) -> None:
        super().__init__()
        at_least(0, margin=margin)
        if not shares or not all(0 < share <= 1 for share in shares):
            raise ValueError(f"shares must be in 0..1, got {tuple(shares)}")
        self.shares, self.margin = tuple(shares), margin

    def forward(self, parts: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            parts: Embedding ``[N, D_k]`` of each head, from the earliest.
            labels: ``[N]``.

        Returns:
            A scalar.

        Raises:
            ValueError: Shapes do not fit, or the numbers of heads and shares differ.
        """
        if len(parts) != len(self.shares):
            raise ValueError(f"parts must be of {len(self.shares)} heads, got {len(parts)}")
        for part in parts:
            check_batch(part, labels)
        selected = same_and_different(labels)
        total = 0 * parts[0].sum()
        for part, share in zip(parts, self.shares, strict=True):
            distances = pairwise_distance(part, part)
            losses = distances.square(), (self.margin - distances).relu().square()
            selected = (
                hardest(losses[0].detach(), selected[0], share),
                hardest(losses[1].detach(), selected[1], share),
            )
            for loss, pairs in zip(losses, selected, strict=True):
                if pairs.any():
                    total = total + loss[pairs].mean() / 2
        return total

    @staticmethod
    def combine(parts: Sequence[Tensor]) -> Tensor:
        """Concatenate the heads to one embedding, for the test.

        Args:
            parts: Embedding ``[N, D_k]`` of each head.

        Returns:
            Concatenated unit vectors, ``[N, sum of D_k]``.
        """
        return torch.cat([unit_vectors(part) for part in parts], 1)
