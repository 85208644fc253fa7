"""Contrastive losses of pairs."""

import torch
from torch import Tensor

from flowmatch.metric_learning._extras import metric_learning
from flowmatch.metric_learning.losses._base import EmbeddingLoss, WrappedLoss, at_least
from flowmatch.metric_learning.tuples import Tuples, as_pairs
from flowmatch.ops import pairwise_distance


class ContrastiveLoss(WrappedLoss):
    r"""Contrastive loss of squared distances with a squared margin.

    ``mean_same d^2 + mean_different max(0, m^2 - d^2)``, with ``d = |x_i - x_j|`` over the ordered
    pairs of ``[N, D]``, not normalised. Negative pairs beyond the margin have no gradient. The two
    kinds of pairs have the same weight although negative pairs are more numerous.

    Args:
        margin: Distance margin ``m``.

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
        2006; this common variant has the hinge on the squared distance, see `HadsellLoss`.
    """

    takes_tuples = True
    metric = "l2"
    normalises = False

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


class HadsellLoss(EmbeddingLoss):
    r"""Contrastive loss of the original paper, with a squared hinge on the distance.

    ``1/2 mean_same d^2 + 1/2 mean_different max(0, m - d)^2``, with ``d = |x_i - x_j|`` over the
    ordered pairs of ``[N, D]``. Unlike in `ContrastiveLoss`, the gradient of negative pairs fades
    towards the margin and grows towards distance 0, where it is undefined and set to 0.

    Args:
        margin: Distance margin ``m``.

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
    normalises = False

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        at_least(0, margin=margin)
        self.margin = margin

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Average positive and negative pairs separately."""
        distances = pairwise_distance(embeddings, embeddings)
        a, p, b, n = as_pairs(tuples, labels)
        total = 0 * embeddings.sum()
        for terms in (distances[a, p].square(), (self.margin - distances[b, n]).relu().square()):
            if terms.numel():
                total = total + terms.mean() / 2
        return total


class SNRLoss(EmbeddingLoss):
    r"""Contrastive loss of the signal-to-noise distance.

    ``mean_{same, d > 0} d + mean_{different, d < m} (m - d) + w mean_i |sum(x_i)|`` with
    ``d(i, j) = var(x_i - x_j) / var(x_i)``: the variance over the D entries of an anchor is its
    signal, the variance of the difference is noise. The last term makes entries zero-mean, so that
    variance equals energy. Embeddings ``[N, D]`` need D > 1. An embedding whose entries are all
    equal, up to rounding, has no signal and is no anchor.

    Args:
        margin: Least ratio ``m`` of noise to signal between classes.
        zero_mean: Weight ``w`` of the last term.

    Raises:
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
    normalises = False

    def __init__(self, margin: float = 1.0, zero_mean: float = 0.005) -> None:
        super().__init__()
        at_least(0, margin=margin, zero_mean=zero_mean)
        self.margin, self.zero_mean = margin, zero_mean

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Average the pairs whose anchor has a signal, positive and negative ones separately."""
        if embeddings.shape[1] < 2:
            raise ValueError(
                "SNRLoss needs embeddings [N, D] with D of 2 or more, "
                f"got {tuple(embeddings.shape)}"
            )
        signal = embeddings.var(1)
        # A smaller variance is a rounding error, or its square, in the derivative, is subnormal.
        limits = torch.finfo(signal.dtype)
        least = (4 * limits.eps * embeddings.detach().abs().max()).square()
        has_signal = signal > least.clamp(min=limits.tiny**0.5)
        noise = (embeddings[:, None] - embeddings).var(2)
        ratio = noise / torch.where(has_signal, signal, 1)[:, None]
        a, p, b, n = as_pairs(tuples, labels)
        near = ratio[a, p][has_signal[a]]
        far = (self.margin - ratio[b, n])[has_signal[b]]
        total = 0 * embeddings.sum()
        for terms in (near[near > 0], far[far > 0]):
            if len(terms):
                total = total + terms.mean()
        return total + self.zero_mean * embeddings.sum(1).abs().mean()
