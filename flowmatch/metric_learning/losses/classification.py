"""Classification losses: a softmax over cosines to one learned direction per class."""

import math

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


class NormalisedSoftmaxLoss(WrappedLoss):
    r"""Normalised softmax: cross-entropy of cosines over a temperature.

    ``mean_i -log(e^(c_iy / T) / sum_k e^(c_ik / T))``, ``c_ik`` the cosine between ``x_i``,
    ``[N, D]``, and the direction of class k.

    Args:
        classes: Number of classes; labels are ``0..classes - 1``.
        dimension: Dimension of the embeddings.
        temperature: Temperature ``T``.

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
        self.dimension = dimension


class CosFaceLoss(WrappedLoss):
    r"""CosFace: softmax of cosines with a margin on the cosine of the true class.

    ``mean_i -log(e^(s (c_iy - m)) / (e^(s (c_iy - m)) + sum_{k != y} e^(s c_ik)))``, ``c_ik`` the
    cosine between ``x_i``, ``[N, D]``, and the direction of class k.

    Args:
        classes: Number of classes; labels are ``0..classes - 1``.
        dimension: Dimension of the embeddings.
        margin: Cosine margin ``m``.
        scale: Scale ``s`` of the logits; 64 suits face recognition, 16 to 32 about 100 classes.

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
        self.dimension = dimension


class ArcFaceLoss(EmbeddingLoss):
    r"""ArcFace: softmax of cosines with a margin on the angle of the true class.

    ``mean_i -log(e^(s cos(a_iy + m)) / (e^(s cos(a_iy + m)) + sum_{k != y} e^(s cos(a_ik))))``,
    ``a_ik`` the angle between ``x_i``, ``[N, D]``, and the direction of class k. For ``a + m``
    beyond 180 degrees, the cosine continues as ``cos(a) - m sin(m)``. Other implementations use an
    arc cosine, whose gradient is infinite if an embedding coincides with its direction; this one
    does not.

    Args:
        classes: Number of classes; labels are ``0..classes - 1``.
        dimension: Dimension of the embeddings.
        degrees: Angular margin ``m``; 28.6 is the paper's 0.5 radians.
        scale: Scale ``s`` of the logits; 64 suits face recognition, 16 to 32 about 100 classes.

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
        self.dimension = dimension
        at_least(1, classes=classes, dimension=dimension)
        at_least(0, scale=scale)
        if not 0 <= degrees <= 90:
            raise ValueError(f"degrees must be in 0..90, got {degrees}")
        self.classes, self.margin, self.scale = classes, math.radians(degrees), scale
        self.directions = nn.Parameter(torch.randn(classes, dimension) / dimension**0.5)

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Compute the cross-entropy of cosines, the true class's angle increased by the margin."""
        check_classes(labels, self.classes)
        cosines = self.cosines(embeddings)
        if not len(labels):
            return cosines.sum()
        true = cosines.gather(1, labels[:, None])
        # Clamped, so that the gradient of the root is 0 where it would be infinite.
        sines = (1 - true.square()).clamp(min=torch.finfo(true.dtype).eps).sqrt()
        rotated = true * math.cos(self.margin) - sines * math.sin(self.margin)
        beyond = true - self.margin * math.sin(self.margin)
        rotated = torch.where(true >= -math.cos(self.margin), rotated, beyond)
        logits = cosines.scatter(1, labels[:, None], rotated)
        return F.cross_entropy(self.scale * logits, labels)

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Compute the cosines between embeddings and the directions of classes.

        Args:
            embeddings: ``[N, D]``.

        Returns:
            ``[N, classes]``.
        """
        directions = F.normalize(self.directions.to(embeddings), dim=1)
        return F.normalize(embeddings, dim=1) @ directions.T


class SubCentreArcFaceLoss(ArcFaceLoss):
    r"""Sub-centre ArcFace: several directions for each class, of which the nearest one counts.

    As `ArcFaceLoss`, with ``a_ik`` the smallest of the angles between ``x_i``, ``[N, D]``, and the
    directions of class k. A class may thus have a few mislabelled or unusual items apart.

    Args:
        classes: Number of classes; labels are ``0..classes - 1``.
        dimension: Dimension of the embeddings.
        centres: Number of directions of each class.
        degrees: Angular margin ``m``; 28.6 is the paper's 0.5 radians.
        scale: Scale ``s`` of the logits; 64 suits face recognition, 16 to 32 about 100 classes.

    Raises:
        ValueError: An argument is out of range, or a label.

    Example:
        >>> loss = SubCentreArcFaceLoss(classes=2, dimension=2, centres=1, scale=1.0)
        >>> _ = loss.directions.data.copy_(torch.eye(2))
        >>> round(loss(torch.eye(2), torch.tensor([0, 1])).item(), 2)
        0.35

    Reference:
        Deng, Guo, Liu, Gong & Zafeiriou, Sub-center ArcFace: Boosting Face Recognition by
        Large-Scale Noisy Web Faces, ECCV 2020, section 3.2.
    """

    def __init__(
        self,
        classes: int,
        dimension: int,
        centres: int = 3,
        degrees: float = 28.6,
        scale: float = 64.0,
    ) -> None:
        super().__init__(classes, dimension, degrees, scale)
        at_least(1, centres=centres)
        self.directions = nn.Parameter(torch.randn(classes * centres, dimension) / dimension**0.5)

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Compute the cosines between embeddings and the nearest direction of each class.

        Args:
            embeddings: ``[N, D]``.

        Returns:
            ``[N, classes]``.
        """
        cosines = super().cosines(embeddings)
        return cosines.view(len(embeddings), self.classes, -1).amax(2)
