"""Losses of similarities over a temperature: supervised contrastive, NT-Xent, Circle."""

import torch.nn.functional as F
from torch import Tensor

from flowmatch.metric_learning._extras import metric_learning
from flowmatch.metric_learning.losses._base import EmbeddingLoss, WrappedLoss, at_least
from flowmatch.metric_learning.tuples import Tuples, same_and_different


class SupConLoss(WrappedLoss):
    r"""Supervised contrastive loss: cross-entropy of each positive among all other items.

    ``mean_i mean_(p in P_i) -log(e^(c_ip / T) / sum_(k != i) e^(c_ik / T))``, ``c`` the cosines of
    ``[N, D]``, ``P_i`` the other items of the class of i. Items without others of their class do
    not count.

    Args:
        temperature: Temperature ``T``.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: `temperature` is not positive.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> round(SupConLoss(temperature=1.0)(x, torch.tensor([0, 0, 1])).item(), 4)
        0.3133

    Reference:
        Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, equation 2.
    """

    takes_tuples = True

    def __init__(self, temperature: float = 0.1) -> None:
        at_least(1e-6, temperature=temperature)
        super().__init__(metric_learning("losses").SupConLoss(temperature=temperature))


class NTXentLoss(EmbeddingLoss):
    r"""NT-Xent: cross-entropy of each positive pair against the negatives of its anchor.

    ``mean_(i, p) -log(e^(c_ip / T) / (e^(c_ip / T) + sum_n e^(c_in / T)))`` over the ordered
    positive pairs of ``[N, D]``, ``c`` the cosines, n the items of other classes. Unlike in
    `SupConLoss`, other positives are not in the denominator. With two views of each picture and a
    label for each picture, this is the loss of SimCLR. pytorch-metric-learning has it, too, but
    needs memory for all positive by all negative pairs.

    Args:
        temperature: Temperature ``T``.

    Raises:
        ValueError: `temperature` is not positive.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> round(NTXentLoss(temperature=1.0)(x, torch.tensor([0, 0, 1])).item(), 4)
        0.3133

    Reference:
        Chen, Kornblith, Norouzi & Hinton, A Simple Framework for Contrastive Learning of Visual
        Representations, ICML 2020, equation 1.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        at_least(1e-6, temperature=temperature)
        self.temperature = temperature

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Average over positive pairs the logarithm of one plus the negatives' share."""
        units = F.normalize(embeddings, dim=1)
        logits = units @ units.T / self.temperature
        same, different = same_and_different(labels)
        # Rows without negatives have a loss of 0, and without a pair there is none.
        pairs = same & different.any(1, keepdim=True)
        rows = pairs.any(1)
        if not rows.any():
            return 0 * embeddings.sum()
        negatives = logits[rows].masked_fill(~different[rows], -float("inf")).logsumexp(1)
        losses = F.softplus(negatives[:, None] - logits[rows])
        return (losses * pairs[rows]).sum() / same.sum()


class CircleLoss(WrappedLoss):
    r"""Circle loss: a softplus of positives and negatives, each weighted by its own error.

    ``mean_i log(1 + sum_n e^(g a_n (c_in - m)) sum_p e^(-g a_p (c_ip - 1 + m)))`` with
    ``a_p = max(0, 1 + m - c_ip)`` and ``a_n = max(0, c_in + m)``, which have no gradient; ``c`` the
    cosines of ``[N, D]``, p and n the positives and negatives of i.

    Args:
        margin: Margin ``m``.
        scale: Scale ``g``; 80 for fine-grained retrieval in the paper, 256 for faces.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: An argument is negative.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> round(CircleLoss(scale=1.0)(x, torch.tensor([0, 0, 1])).item(), 4)
        0.5459

    Reference:
        Sun et al., Circle Loss: A Unified Perspective of Pair Similarity Optimization, CVPR 2020,
        equation 6.
    """

    takes_tuples = True

    def __init__(self, margin: float = 0.4, scale: float = 80.0) -> None:
        at_least(0, margin=margin, scale=scale)
        super().__init__(metric_learning("losses").CircleLoss(m=margin, gamma=scale))
