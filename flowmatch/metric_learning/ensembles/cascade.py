"""HDC: a cascade of heads, each trained on what is hard for those before it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.tuples import check_batch, same_and_different
from flowmatch.ops import pairwise_distance


def hardest(hardness: Tensor, candidates: Tensor, share: float) -> Tensor:
    """Keep the hardest of some pairs.

    Args:
        hardness: ``[N, N]``.
        candidates: Which pairs to choose from, ``[N, N]`` bool.
        share: Of them, rounded up.

    Returns:
        ``[N, N]`` bool.

    Example:
        >>> hardness = torch.tensor([[0.0, 1.0], [2.0, 9.0]])
        >>> candidates = torch.tensor([[True, True], [True, False]])
        >>> hardest(hardness, candidates, 0.5).int().tolist()
        [[0, 1], [1, 0]]
    """
    kept = torch.zeros_like(candidates)
    places = candidates.flatten().nonzero()[:, 0]
    # Of 5 pairs, 20 % are one, whatever 0.2 * 5 is in binary.
    count = min(len(places), -int(-(len(places) * share - 1e-9) // 1))
    order = torch.sort(hardness.flatten()[places], descending=True, stable=True).indices
    kept.view(-1)[places[order[:count]]] = True
    return kept


class CascadeLoss(nn.Module):
    r"""Contrastive losses of a cascade: head k sees the hardest of the pairs that head k - 1 saw.

    Of the pairs of each kind, by their loss ``d^2`` or ``max(0, m - d)^2`` at head k, the hardest
    share ``h_k`` of those that were left is trained at that head, and left for the next:
    ``1/2 sum_k (mean_same d^2 + mean_different max(0, m - d)^2)``. Easy pairs train only early
    heads, which sit at early layers; hard ones get all the depth there is.

    Args:
        shares: ``h_k``, for each head.
        margin: ``m``.

    Raises:
        ValueError: A share is not in 0..1, or `margin` is negative.

    Example:
        >>> parts = [F.normalize(torch.randn(6, 4), dim=1) for _ in range(3)]
        >>> CascadeLoss()(parts, torch.tensor([0, 0, 1, 1, 2, 2])).isfinite().item()
        True

    Reference:
        Yuan, Yang & Zhang, Hard-Aware Deeply Cascaded Embedding, ICCV 2017; shares as recalled.
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
            parts: The embedding of each head, ``[N, D_k]``, the earliest first.
            labels: ``[N]``.

        Returns:
            A scalar.

        Raises:
            ValueError: Shapes do not fit, or there are not as many heads as shares.
        """
        if len(parts) != len(self.shares):
            raise ValueError(f"parts must be of {len(self.shares)} heads, got {len(parts)}")
        left = same_and_different(labels)
        total = 0 * parts[0].sum()
        for part, share in zip(parts, self.shares, strict=True):
            check_batch(part, labels)
            distances = pairwise_distance(part, part)
            losses = distances.square(), (self.margin - distances).relu().square()
            left = (
                hardest(losses[0].detach(), left[0], share),
                hardest(losses[1].detach(), left[1], share),
            )
            for loss, pairs in zip(losses, left, strict=True):
                if pairs.any():
                    total = total + loss[pairs].mean() / 2
        return total

    @staticmethod
    def combine(parts: Sequence[Tensor]) -> Tensor:
        """Make one embedding for the test.

        Args:
            parts: ``[N, D_k]``.

        Returns:
            All parts at length 1, side by side.
        """
        return torch.cat([F.normalize(part, dim=1) for part in parts], 1)
