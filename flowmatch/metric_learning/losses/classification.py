"""Classification as training of an embedding: a softmax of cosines to one direction a class."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.metric_learning._extras import metric_learning
from flowmatch.metric_learning.losses._base import (
    SimilarityLoss,
    WrappedLoss,
    at_least,
    check_classes,
)
from flowmatch.metric_learning.tuples import Tuples


class NormalisedSoftmaxLoss(WrappedLoss):
    r"""Normalised softmax: cross-entropy of cosines over a temperature.

    ``mean_i -log(e^(c_iy / T) / sum_k e^(c_ik / T))``, ``c_ik`` the cosine of ``x_i``, ``[N, D]``,
    and the direction of class k.

    Args:
        classes: How many; labels are ``0..classes - 1``.
        dimension: D.
        temperature: ``T``.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: An argument is out of range, or a label.

    Example:
        >>> import torch
        >>> loss = NormalisedSoftmaxLoss(classes=2, dimension=2)
        >>> _ = loss.wrapped.W.data.copy_(torch.eye(2))
        >>> round(loss(torch.ones(2, 2), torch.tensor([0, 1])).item(), 4)
        0.6931

    Reference:
        Zhai & Wu, Classification is a Strong Baseline for Deep Metric Learning, BMVC 2019.
    """

    def __init__(self, classes: int, dimension: int, temperature: float = 0.05) -> None:
        at_least(1, classes=classes, dimension=dimension)
        at_least(1e-6, temperature=temperature)
        super().__init__(
            metric_learning("losses").NormalizedSoftmaxLoss(
                num_classes=classes,
                embedding_size=dimension,
                temperature=temperature,
                distance=metric_learning("distances").CosineSimilarity(),
            ),
            classes,
        )


class CosFaceLoss(WrappedLoss):
    r"""CosFace: the own class's cosine has to win by a margin.

    ``mean_i -log(e^(s (c_iy - m)) / (e^(s (c_iy - m)) + sum_{k != y} e^(s c_ik)))``, ``c_ik`` the
    cosine of ``x_i``, ``[N, D]``, and the direction of class k.

    Args:
        classes: How many; labels are ``0..classes - 1``.
        dimension: D.
        margin: ``m``.
        scale: ``s``; for some 100 classes 16 to 32 suit better than a face recogniser's 64.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: An argument is out of range, or a label.

    Example:
        >>> import torch
        >>> loss = CosFaceLoss(classes=2, dimension=2, scale=1.0)
        >>> _ = loss.wrapped.W.data.copy_(torch.eye(2))
        >>> round(loss(torch.eye(2), torch.tensor([0, 1])).item(), 4)
        0.4201

    Reference:
        Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition, CVPR 2018,
        equation 4.
    """

    def __init__(
        self, classes: int, dimension: int, margin: float = 0.35, scale: float = 64.0
    ) -> None:
        at_least(1, classes=classes, dimension=dimension)
        at_least(0, margin=margin, scale=scale)
        super().__init__(
            metric_learning("losses").CosFaceLoss(classes, dimension, margin=margin, scale=scale),
            classes,
        )


class ArcFaceLoss(SimilarityLoss):
    r"""ArcFace: the own class's angle has to win by a margin.

    ``mean_i -log(e^(s cos(a_iy + m)) / (e^(s cos(a_iy + m)) + sum_{k != y} e^(s cos(a_ik))))``,
    ``a_ik`` the angle of ``x_i``, ``[N, D]``, and the direction of class k. Where ``a + m`` is past
    180 degrees, the cosine goes on downwards as ``cos(a) - m sin(m)``. Written here because through
    an arc cosine, as elsewhere, the gradient is infinite where an embedding meets its direction.

    Args:
        classes: How many; labels are ``0..classes - 1``.
        dimension: D.
        degrees: ``m``; 28.6 is the paper's 0.5 radians.
        scale: ``s``; for some 100 classes 16 to 32 suit better than a face recogniser's 64.

    Raises:
        ValueError: An argument is out of range, or a label.

    Example:
        >>> loss = ArcFaceLoss(classes=2, dimension=2, scale=1.0)
        >>> _ = loss.directions.data.copy_(torch.eye(2))
        >>> round(loss(torch.eye(2), torch.tensor([0, 1])).item(), 2)
        0.35

    Reference:
        Deng, Guo, Xue & Zafeiriou, ArcFace: Additive Angular Margin Loss for Deep Face Recognition,
        CVPR 2019, equation 3.
    """

    def __init__(
        self, classes: int, dimension: int, degrees: float = 28.6, scale: float = 64.0
    ) -> None:
        super().__init__()
        at_least(1, classes=classes, dimension=dimension)
        at_least(0, scale=scale)
        if not 0 <= degrees <= 90:
            raise ValueError(f"degrees must be in 0..90, got {degrees}")
        self.classes, self.margin, self.scale = classes, math.radians(degrees), scale
        self.directions = nn.Parameter(torch.randn(classes, dimension) / dimension**0.5)

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Turn the own class's angle by the margin, then classify."""
        check_classes(labels, self.classes)
        directions = F.normalize(self.directions.to(embeddings), dim=1)
        cosines = F.normalize(embeddings, dim=1) @ directions.T
        if not len(labels):
            return cosines.sum()
        own = cosines.gather(1, labels[:, None])
        # Clamped, the root has no gradient where it would be infinite.
        sines = (1 - own.square()).clamp(min=torch.finfo(own.dtype).eps).sqrt()
        turned = own * math.cos(self.margin) - sines * math.sin(self.margin)
        past = own - self.margin * math.sin(self.margin)
        turned = torch.where(own >= -math.cos(self.margin), turned, past)
        logits = cosines.scatter(1, labels[:, None], turned)
        return F.cross_entropy(self.scale * logits, labels)
