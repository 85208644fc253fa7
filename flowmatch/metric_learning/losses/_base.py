"""What all losses share: one way to be called, and what they refuse."""

from typing import Any

import torch
from torch import Tensor, nn

from flowmatch.metric_learning.tuples import Tuples, check_batch
from flowmatch.ops._types import widened


class SimilarityLoss(nn.Module):
    """A loss of a batch of embeddings with classes: ``loss(embeddings, labels) -> scalar``.

    Half types are computed in float32, also under autocast: exponentials of distances need it.

    Attributes:
        takes_tuples: Whether a miner may choose the pairs or triplets; otherwise the loss looks at
            the whole batch by itself.
        metric: What its embeddings are to be compared by: ``"cosine"`` where the loss sees
            directions only, ``"l2"`` where lengths count.
    """

    takes_tuples = False
    metric = "cosine"

    def forward(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None = None) -> Tensor:
        """Compute the loss.

        Args:
            embeddings: ``[N, D]``, any float type.
            labels: Classes, ``[N]`` whole numbers.
            tuples: What a miner chose; None takes everything in the batch.

        Returns:
            A scalar that can be differentiated; 0 where a batch has nothing to compare,
            NaN where embeddings are not finite.

        Raises:
            ValueError: Shapes or types do not fit, or `tuples` for a loss that takes none.
        """
        check_batch(embeddings, labels)
        if tuples is not None and not self.takes_tuples:
            raise ValueError(
                f"{type(self).__name__} compares the whole batch and takes no tuples, "
                f"got {type(tuples).__name__}"
            )
        embeddings = widened(embeddings)
        if not len(embeddings):
            return embeddings.sum()
        if not embeddings.isfinite().all():  # said alike by all, for training to notice
            return embeddings.sum() * torch.nan
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.compute(embeddings, labels.long(), tuples)

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Compute the loss of inputs that have been checked."""
        raise NotImplementedError


class WrappedLoss(SimilarityLoss):
    """A loss of pytorch-metric-learning, with the arguments that make it the paper's."""

    def __init__(self, wrapped: Any, classes: int | None = None) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.classes = classes

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Call what is wrapped."""
        if self.classes is not None:
            check_classes(labels, self.classes)
        value: Tensor = self.wrapped(embeddings, labels, tuples)
        return value


def check_classes(labels: Tensor, classes: int) -> None:
    """Insist on labels of the classes that there are parameters for.

    Raises:
        ValueError: A label is below 0 or not below `classes`.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels must be in 0..{classes - 1}, got {int(labels.min())}..{int(labels.max())}"
        )


def at_least(least: float, **values: float) -> None:
    """Insist that named values are not below `least`.

    Raises:
        ValueError: One is.
    """
    for name, value in values.items():
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
