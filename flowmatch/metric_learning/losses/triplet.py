"""Triplet losses."""

import torch
from torch import Tensor

from flowmatch.metric_learning._extras import metric_learning
from flowmatch.metric_learning.losses._base import EmbeddingLoss, WrappedLoss, at_least
from flowmatch.metric_learning.tuples import Tuples, as_triplets


class TripletLoss(WrappedLoss):
    r"""Triplet loss of FaceNet.

    ``mean_{a, p, n} max(0, |f_a - f_p|^2 - |f_a - f_n|^2 + m)`` over all triplets of ``[N, D]``, or
    those of a miner; ``f = x / |x|``.

    Args:
        margin: Margin ``m`` of squared distances, which are at most 4.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: `margin` is negative.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> round(TripletLoss()(x, torch.tensor([0, 0, 1])).item(), 4)
        1.2

    Reference:
        Schroff, Kalenichenko & Philbin, FaceNet, CVPR 2015, equation 2, with a mean for the sum.
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

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Delegate triplets to the wrapped loss, which would compare all pairs with all others."""
        triplets = None if tuples is None else as_triplets(tuples, labels)
        return super().compute(embeddings, labels, triplets)


class BiasCorrectedTripletLoss(EmbeddingLoss):
    r"""Experimental: triplet loss with a penalty on the selection bias of the miner.

    ``triplet + w sum_c |mean_{selected, c} f - mean_{batch, c} f|^2``: a miner prefers hard items,
    so that the distribution of its triplets differs from that of the data; the second term, a
    discrepancy with a linear kernel, measures this bias class by class. An item counts as often as
    it is selected, in any role. Without a miner, all triplets are selected and the bias is 0. The
    implementation follows the idea of the paper, not its text, so its numbers do not apply.

    Args:
        margin: Margin of `TripletLoss`.
        weight: Weight ``w`` of the bias.

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
        """Compute the triplet loss plus the bias of each selected class."""
        triplets = as_triplets(tuples, labels)
        units = torch.nn.functional.normalize(embeddings, dim=1)
        counts = torch.bincount(torch.cat(triplets), minlength=len(labels)).to(units.dtype)
        bias = 0 * units.sum()
        for label in torch.unique(labels):
            of_class = (labels == label).to(units.dtype)
            weights = counts * of_class
            if weights.any():
                selected = weights @ units / weights.sum()
                bias = bias + (selected - of_class @ units / of_class.sum()).square().sum()
        return self.triplet.compute(embeddings, labels, triplets) + self.weight * bias
