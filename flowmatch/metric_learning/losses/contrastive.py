"""Losses of pairs: near if of one class, far if not."""

from torch import Tensor

from flowmatch.metric_learning._extras import metric_learning
from flowmatch.metric_learning.losses._base import SimilarityLoss, WrappedLoss, at_least
from flowmatch.metric_learning.tuples import Tuples, all_pairs
from flowmatch.ops import pairwise_distance


class ContrastiveLoss(WrappedLoss):
    r"""The lecture's contrastive loss: squared distances against a squared margin.

    ``mean_same d^2 + mean_different max(0, m^2 - d^2)``, with ``d = |x_i - x_j|`` of embeddings as
    they are, over the ordered pairs of ``[N, D]``. Beyond the margin, different classes no longer
    push. Where classes are few, pairs of different ones are many: the two means weigh the same.

    Args:
        margin: ``m``, a distance.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: `margin` is negative.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [0.5], [0.6]])
        >>> round(ContrastiveLoss()(x, torch.tensor([0, 0, 1])).item(), 4)
        1.065

    Reference:
        Hadsell, Chopra & LeCun, Dimensionality Reduction by Learning an Invariant Mapping, CVPR
        2006, in the form in which lectures write it.
    """

    takes_tuples = True
    metric = "l2"

    def __init__(self, margin: float = 1.0) -> None:
        at_least(0, margin=margin)
        distance = metric_learning("distances").LpDistance(normalize_embeddings=False, power=2)
        super().__init__(
            metric_learning("losses").ContrastiveLoss(
                pos_margin=0,
                neg_margin=margin**2,
                distance=distance,
                reducer=metric_learning("reducers").MeanReducer(),
            )
        )


class HadsellLoss(SimilarityLoss):
    r"""Hadsell's own contrastive loss: the hinge is on the distance, and is squared after.

    ``1/2 mean_same d^2 + 1/2 mean_different max(0, m - d)^2``, with ``d = |x_i - x_j|`` over the
    ordered pairs of ``[N, D]``. Unlike `ContrastiveLoss` the push fades out towards the margin, and
    it is strongest between embeddings that coincide (there its direction is undefined, and 0).

    Args:
        margin: ``m``, a distance.

    Raises:
        ValueError: `margin` is negative.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [0.5], [0.6]])
        >>> round(HadsellLoss()(x, torch.tensor([0, 0, 1])).item(), 4)
        0.3675

    Reference:
        Hadsell, Chopra & LeCun, Dimensionality Reduction by Learning an Invariant Mapping, CVPR
        2006, equation 4.
    """

    takes_tuples = True
    metric = "l2"

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        at_least(0, margin=margin)
        self.margin = margin

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Average both kinds of pairs on their own."""
        distances = pairwise_distance(embeddings, embeddings)
        if tuples is None:
            tuples = all_pairs(labels)
        same = distances[tuples[0], tuples[1]].square()
        # Pairs have anchors for either kind, triplets one for both.
        different = self.margin - distances[tuples[-2 if len(tuples) == 4 else 0], tuples[-1]]
        total = 0 * embeddings.sum()
        for terms in (same, different.relu().square()):
            if terms.numel():
                total = total + terms.mean() / 2
        return total


class SNRLoss(WrappedLoss):
    r"""Contrastive loss of the signal-to-noise distance.

    ``mean_{same, d > 0} d + mean_{different, d < m} (m - d) + w mean_i |sum(x_i)|`` with
    ``d(i, j) = var(x_i - x_j) / var(x_i)``: the variance over the D entries of an embedding is the
    anchor's signal, what differs is noise. The last term asks for entries of mean 0, for which
    variance is energy. Embeddings ``[N, D]`` need D > 1 and entries that are not all equal.

    Args:
        margin: ``m``; the least ratio of noise to signal between classes.
        zero_mean: ``w``.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: An argument is negative, or D is 1.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, -1.0], [2.0, -2.0], [-1.0, 1.0]])
        >>> round(SNRLoss()(x, torch.tensor([0, 0, 1])).item(), 4)
        0.625

    Reference:
        Yuan, Deng, Tang, Tang & Chen, Signal-to-Noise Ratio: A Robust Distance Metric for Deep
        Metric Learning, CVPR 2019.
    """

    takes_tuples = True
    metric = "l2"

    def __init__(self, margin: float = 1.0, zero_mean: float = 0.005) -> None:
        at_least(0, margin=margin, zero_mean=zero_mean)
        super().__init__(
            metric_learning("losses").SignalToNoiseRatioContrastiveLoss(
                pos_margin=0,
                neg_margin=margin,
                distance=metric_learning("distances").SNRDistance(normalize_embeddings=False),
                embedding_regularizer=metric_learning("regularizers").ZeroMeanRegularizer(),
                embedding_reg_weight=zero_mean,
            )
        )

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Refuse what has no variance at all."""
        if embeddings.shape[1] < 2:
            raise ValueError(
                "SNRLoss needs embeddings [N, D] with D of 2 or more, "
                f"got {tuple(embeddings.shape)}"
            )
        return super().compute(embeddings, labels, tuples)
