"""Base classes of losses, and their argument checks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flowmatch.metric_learning.tuples import Tuples, check_batch, check_tuples
from flowmatch.ops._types import widened
from flowmatch.units import detach_zeros


class EmbeddingLoss(nn.Module):
    """A loss of a batch of labelled embeddings: ``loss(embeddings, labels) -> scalar``.

    Half types are computed in float32, also under autocast, because of exponentials of distances.

    Attributes:
        takes_tuples: Whether a miner may select the pairs or triplets; otherwise the loss compares
            the whole batch.
        metric: Distance to compare its embeddings by, ``"cosine"`` if the loss ignores their
            lengths, else ``"l2"``.
        normalises: Whether the loss scales embeddings to length 1; one of length 0 then has no
            direction, and gets no gradient.
        dimension: Dimension of the embeddings that the loss has parameters for, or None.
    """

    takes_tuples = False
    metric = "cosine"
    normalises = True
    dimension: int | None = None

    def forward(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None = None) -> Tensor:
        """Compute the loss.

        Args:
            embeddings: ``[N, D]`` of any float type.
            labels: Classes, ``[N]`` integers.
            tuples: Selection of a miner; None compares the whole batch.

        Returns:
            A differentiable scalar; 0 if the batch has no pairs to compare, NaN if embeddings are
            not finite.

        Raises:
            ValueError: Shapes, types or `dimension` do not fit, a tuple has an index of no item, or
                `tuples` for a loss that takes none.
        """
        check_batch(embeddings, labels)
        if self.dimension is not None and embeddings.shape[1] != self.dimension:
            raise ValueError(
                f"embeddings must have dimension {self.dimension} as the loss's parameters, "
                f"got {embeddings.shape[1]}"
            )
        tuples = check_tuples(tuples, len(labels))
        if tuples is not None and not self.takes_tuples:
            raise ValueError(
                f"{type(self).__name__} compares the whole batch and takes no tuples, "
                f"got {type(tuples).__name__}"
            )
        embeddings = widened(embeddings)
        if not len(embeddings):
            return embeddings.sum()
        if not embeddings.isfinite().all():  # all losses return NaN, so that training stops
            return embeddings.sum() * torch.nan
        if self.normalises:
            embeddings = detach_zeros(embeddings)
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.compute(embeddings, labels.long(), tuples)

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Compute the loss of checked inputs."""
        raise NotImplementedError

    def remember(self, embeddings: Tensor, labels: Tensor) -> None:
        """Take note of a batch after a training step; most losses keep nothing.

        Args:
            embeddings: ``[N, D]``.
            labels: Classes, ``[N]``.
        """


class WrappedLoss(EmbeddingLoss):
    """A loss of pytorch-metric-learning, with arguments that reproduce the paper.

    Parameters of another type or device than the embeddings are converted for one call; the library
    would convert them for good, while the state of an optimiser keeps its type.
    """

    def __init__(self, wrapped: Any, classes: int | None = None) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.classes = classes

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Delegate to the wrapped loss."""
        if self.classes is not None:
            check_classes(labels, self.classes)
        if tuples is not None and all(len(part) <= 1 for part in tuples):
            # Twice, because losses of pairs of the library ignore a single one.
            tuples = type(tuples)(*(part.repeat(2) for part in tuples))
        parameters = dict(self.wrapped.named_parameters())
        converted = {name: p.to(embeddings) for name, p in parameters.items()}
        if all(converted[name] is p for name, p in parameters.items()):
            value: Tensor = self.wrapped(embeddings, labels, tuples)
        else:
            value = functional_call(self.wrapped, converted, (embeddings, labels, tuples))
        return value


def check_classes(labels: Tensor, classes: int) -> None:
    """Check that the loss has parameters for the classes of all labels.

    Raises:
        ValueError: A label is below 0 or not below `classes`.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels must be in 0..{classes - 1}, got {int(labels.min())}..{int(labels.max())}"
        )


def at_least(least: float, **values: float) -> None:
    """Check that named values are at least `least`.

    Raises:
        ValueError: A value is smaller or NaN.
    """
    for name, value in values.items():
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
