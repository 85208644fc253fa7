"""Proxy losses, which compare embeddings with learned points of the classes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.metric_learning._extras import metric_learning
from flowmatch.metric_learning.losses._base import (
    EmbeddingLoss,
    WrappedLoss,
    at_least,
    check_classes,
)
from flowmatch.metric_learning.tuples import Tuples


class ProxyNCALoss(EmbeddingLoss):
    r"""ProxyNCA: softmax over distances to class proxies, without the true class in the sum.

    ``mean_i -log(e^(-s d(x_i, p_y)) / sum_{c != y} e^(-s d(x_i, p_c)))`` with
    ``d = |x / |x| - p / |p||^2``, over ``[N, D]``. Because the true proxy is not in the
    denominator, the loss is bounded only by ``-4 s`` and does not saturate like a probability.

    Args:
        classes: Number of classes, at least 2; labels are ``0..classes - 1``.
        dimension: Dimension of the embeddings.
        scale: Scale ``s`` of distances; 9 as in the paper, whose vectors have length 3.

    Raises:
        ValueError: An argument is out of range, or a label.

    Example:
        >>> loss = ProxyNCALoss(classes=2, dimension=2)
        >>> _ = loss.proxies.data.copy_(torch.eye(2))
        >>> round(loss(torch.eye(2), torch.tensor([0, 1])).item(), 4)
        -18.0

    Reference:
        Movshovitz-Attias, Toshev, Leung, Ioffe & Singh, No Fuss Distance Metric Learning using
        Proxies, ICCV 2017, equation 4.
    """

    def __init__(self, classes: int, dimension: int, scale: float = 9.0) -> None:
        super().__init__()
        self.dimension = dimension
        at_least(2, classes=classes)
        at_least(1, dimension=dimension)
        at_least(0, scale=scale)
        self.classes, self.scale = classes, scale
        self.proxies = nn.Parameter(torch.randn(classes, dimension) / dimension**0.5)

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Compare embeddings with all proxies."""
        check_classes(labels, self.classes)
        cosines = F.normalize(embeddings, dim=1) @ F.normalize(self.proxies.to(embeddings), dim=1).T
        logits = -self.scale * (2 - 2 * cosines)
        own = F.one_hot(labels, self.classes).bool()
        others = logits.masked_fill(own, -torch.inf).logsumexp(1)
        return (others - logits[own]).mean() if len(labels) else cosines.sum()


class ProxyNCAPlusPlusLoss(WrappedLoss):
    r"""ProxyNCA++: softmax over distances to class proxies, with a temperature.

    ``mean_i -log(e^(-d(x_i, p_y) / T) / sum_c e^(-d(x_i, p_c) / T))`` with
    ``d = |x / |x| - p / |p||^2``, over ``[N, D]``. The paper's other changes are not part of the
    loss: global max pooling, layer normalisation, a much higher learning rate of proxies, batches
    of 4 items per class.

    Args:
        classes: Number of classes; labels are ``0..classes - 1``.
        dimension: Dimension of the embeddings.
        temperature: Temperature ``T``.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: An argument is out of range, or a label.

    Example:
        >>> loss = ProxyNCAPlusPlusLoss(classes=2, dimension=2)
        >>> _ = loss.wrapped.proxies.data.copy_(torch.eye(2))
        >>> round(loss(torch.ones(2, 2), torch.tensor([0, 1])).item(), 4)
        0.6931

    Reference:
        Teh, DeVries & Taylor, ProxyNCA++: Revisiting and Revitalizing Proxy Neighborhood Component
        Analysis, ECCV 2020, equation 6.
    """

    def __init__(self, classes: int, dimension: int, temperature: float = 1 / 9) -> None:
        at_least(1, classes=classes, dimension=dimension)
        at_least(1e-6, temperature=temperature)
        super().__init__(
            metric_learning("losses").ProxyNCALoss(
                num_classes=classes, embedding_size=dimension, softmax_scale=1 / temperature
            ),
            classes,
        )
        self.dimension = dimension


class ProxyAnchorLoss(WrappedLoss):
    r"""Proxy-Anchor: each proxy compares the whole batch with itself, weighted by its hardness.

    ``mean_(p in P) log(1 + sum_(x of p) e^(-a (c_xp - m)))
    + mean_p log(1 + sum_(x of others) e^(a (c_xp + m)))``, ``c`` the cosines of ``[N, D]`` and the
    proxies, ``P`` the proxies of classes in the batch.

    Args:
        classes: Number of classes; labels are ``0..classes - 1``.
        dimension: Dimension of the embeddings.
        margin: Margin ``m``.
        scale: Scale ``a``.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: An argument is out of range, or a label.

    Example:
        >>> loss = ProxyAnchorLoss(classes=2, dimension=2, margin=0.0, scale=1.0)
        >>> _ = loss.wrapped.proxies.data.copy_(torch.eye(2))
        >>> round(loss(torch.eye(2), torch.tensor([0, 1])).item(), 4)
        1.0064

    Reference:
        Kim, Kim, Cho & Kwak, Proxy Anchor Loss for Deep Metric Learning, CVPR 2020, equation 4.
    """

    def __init__(
        self, classes: int, dimension: int, margin: float = 0.1, scale: float = 32.0
    ) -> None:
        at_least(1, classes=classes, dimension=dimension)
        at_least(0, margin=margin, scale=scale)
        super().__init__(
            metric_learning("losses").ProxyAnchorLoss(
                classes, dimension, margin=margin, alpha=scale
            ),
            classes,
        )
        self.dimension = dimension


class SoftTripleLoss(WrappedLoss):
    r"""SoftTriple: softmax over soft-nearest centres, several for each class.

    With cosines ``s_ck`` to centre k of class c, ``S_c = sum_k softmax_k(s_ck / g) s_ck``:
    ``mean_i -log(e^(l (S_y - m)) / (e^(l (S_y - m)) + sum_{c != y} e^(l S_c)))
    + t mean sqrt(2 - 2 w_cj . w_ck) / 2`` over ``[N, D]``; the second term, over the pairs of
    centres of a class, merges redundant centres.

    Args:
        classes: Number of classes; labels are ``0..classes - 1``.
        dimension: Dimension of the embeddings.
        centres: Number of centres of each class, at least 2.
        scale: Scale ``l`` of the logits.
        gamma: Temperature ``g`` of the choice among centres.
        margin: Margin ``m``.
        merge: Weight ``t`` of the merging term.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: An argument is out of range, or a label.

    Example:
        >>> loss = SoftTripleLoss(classes=2, dimension=2)
        >>> loss(torch.eye(2), torch.tensor([0, 1])).isfinite().item()
        True

    Reference:
        Qian, Shang, Sun, Hu, Li & Jin, SoftTriple Loss: Deep Metric Learning Without Triplet
        Sampling, ICCV 2019, equations 6 to 8.
    """

    def __init__(
        self,
        classes: int,
        dimension: int,
        centres: int = 10,
        scale: float = 20.0,
        gamma: float = 0.1,
        margin: float = 0.01,
        merge: float = 0.2,
    ) -> None:
        at_least(1, classes=classes, dimension=dimension)
        at_least(2, centres=centres)
        at_least(0, scale=scale, margin=margin, merge=merge)
        at_least(1e-6, gamma=gamma)
        super().__init__(
            metric_learning("losses").SoftTripleLoss(
                num_classes=classes,
                embedding_size=dimension,
                centers_per_class=centres,
                la=scale,
                gamma=gamma,
                margin=margin,
            ),
            classes,
        )
        self.dimension = dimension
        self.centres, self.merge = centres, merge

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Add the merging term; the library's has an infinite gradient between merged centres."""
        value = super().compute(embeddings, labels, tuples)
        centres = F.normalize(self.wrapped.fc.to(embeddings).T, dim=1).view(
            self.wrapped.num_classes, self.centres, -1
        )
        first, second = torch.triu_indices(self.centres, self.centres, 1, device=centres.device)
        square = 2 - 2 * (centres @ centres.transpose(1, 2))[:, first, second]
        gaps = square.clamp(min=torch.finfo(square.dtype).eps).sqrt()
        total: Tensor = value + self.merge * gaps.mean() / 2
        return total
