"""Losses of triplets."""

import torch
from torch import Tensor

from flowmatch.metric_learning._extras import metric_learning
from flowmatch.metric_learning.losses._base import SimilarityLoss, WrappedLoss, at_least
from flowmatch.metric_learning.tuples import Tuples, triplets_of


class TripletLoss(WrappedLoss):
    r"""FaceNet's triplet loss.

    ``mean_{a, p, n} max(0, |f_a - f_p|^2 - |f_a - f_n|^2 + m)`` over all triplets of ``[N, D]``, or
    those of a miner; ``f = x / |x|``.

    Args:
        margin: ``m``, in squared distances; 4 is the largest there is.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: `margin` is negative.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> round(TripletLoss()(x, torch.tensor([0, 0, 1])).item(), 4)
        1.2

    Reference:
        Schroff, Kalenichenko & Philbin, FaceNet, CVPR 2015, equation 2 (summed there).
    """

    takes_tuples = True

    def __init__(self, margin: float = 0.2) -> None:
        at_least(0, margin=margin)
        super().__init__(
            metric_learning("losses").TripletMarginLoss(
                margin=margin,
                distance=metric_learning("distances").LpDistance(power=2),
                reducer=metric_learning("reducers").MeanReducer(),
            )
        )


class BiasCorrectedTripletLoss(SimilarityLoss):
    r"""Experimental: a triplet loss that pulls mined triplets back to what the batch looks like.

    ``triplet + w sum_c |mean_{selected, c} f - mean_{batch, c} f|^2``: a miner prefers what is
    hard, so that what it selects is not distributed as the data are; the second term, a linear
    kernel's discrepancy, is that bias, class by class. An item counts as often as it is selected,
    in any role. Without a miner all triplets are selected, and there is no bias. Written from the
    idea of the paper, not from its text: do not quote its numbers for this.

    Args:
        margin: Of `TripletLoss`.
        weight: ``w``.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: An argument is negative.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> round(BiasCorrectedTripletLoss()(x, torch.tensor([0, 0, 1])).item(), 4)
        1.2

    Reference:
        After Yu, Liu, Gong, Ding & Tao, Correcting the Triplet Selection Bias for Triplet Loss,
        ECCV 2018.
    """

    takes_tuples = True

    def __init__(self, margin: float = 0.2, weight: float = 1.0) -> None:
        super().__init__()
        at_least(0, weight=weight)
        self.triplet = TripletLoss(margin)
        self.weight = weight

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Add the discrepancy of each class that was selected."""
        triplets = triplets_of(tuples, labels)
        units = torch.nn.functional.normalize(embeddings, dim=1)
        chosen = torch.bincount(torch.cat(triplets), minlength=len(labels)).to(units.dtype)
        bias = 0 * units.sum()
        for label in torch.unique(labels):
            of_class = (labels == label).to(units.dtype)
            weights = chosen * of_class
            if weights.any():
                selected = weights @ units / weights.sum()
                bias = bias + (selected - of_class @ units / of_class.sum()).square().sum()
        return self.triplet.compute(embeddings, labels, triplets) + self.weight * bias
