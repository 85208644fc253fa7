"""Cross-batch memory: a contrastive loss whose negatives include those of earlier batches."""

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.metric_learning.losses._base import EmbeddingLoss, at_least
from flowmatch.metric_learning.tuples import Tuples


class CrossBatchMemoryLoss(EmbeddingLoss):
    r"""Contrastive loss of a batch with itself and with the embeddings of the last batches.

    ``1/N sum_i (sum_p (1 - c_ip) + sum_n max(0, c_in - m))``, ``c`` the cosines between ``[N, D]``
    and both the batch itself and a queue of earlier embeddings, p and n the positives and negatives
    of i among them. Embeddings of the queue have no gradient. The loss itself does not change the
    queue: `remember`, which training calls after each step, does. The queue is part of the state,
    so that a resumed run continues with it.

    Args:
        dimension: Dimension of the embeddings.
        size: Number of embeddings in the queue.
        margin: Cosine ``m`` up to which negatives have no loss.

    Raises:
        ValueError: An argument is out of range, or embeddings have another dimension.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> loss = CrossBatchMemoryLoss(dimension=2)
        >>> before = loss(x, torch.tensor([0, 1])).item()
        >>> loss.remember(x, torch.tensor([1, 0]))
        >>> before, loss(x, torch.tensor([0, 1])).item()
        (0.0, 1.5)

    Reference:
        Wang, Zhang, Huang & Scott, Cross-Batch Memory for Embedding Learning, CVPR 2020, section
        3.3; the queue is like that of He et al., Momentum Contrast, CVPR 2020, without its second
        network.
    """

    queue: Tensor
    queue_labels: Tensor
    place: Tensor

    def __init__(self, dimension: int, size: int = 1024, margin: float = 0.5) -> None:
        super().__init__()
        at_least(1, dimension=dimension, size=size)
        at_least(-1, margin=margin)
        self.margin = margin
        self.register_buffer("queue", torch.zeros(size, dimension))
        self.register_buffer("queue_labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Sum the losses of pairs with the batch and with the queue, and divide by the batch."""
        self._check(embeddings)
        units = F.normalize(embeddings, dim=1)
        count = min(int(self.place), len(self.queue))
        others = torch.cat([units, self.queue[:count].to(units)])
        cosines = units @ others.T
        same = labels[:, None] == torch.cat([labels, self.queue_labels[:count]])
        # Not the item itself, which the first columns have.
        itself = torch.eye(*same.shape, dtype=torch.bool, device=same.device)
        positive = ((1 - cosines) * (same & ~itself)).sum()
        negative = ((cosines - self.margin).clamp(min=0) * ~same).sum()
        return (positive + negative) / len(units)

    @torch.no_grad()
    def remember(self, embeddings: Tensor, labels: Tensor) -> None:
        """Append a batch to the queue, where it replaces the oldest embeddings.

        Args:
            embeddings: ``[N, D]``; of more than the queue has, the last are kept.
            labels: Classes, ``[N]``.
        """
        self._check(embeddings)
        size = len(self.queue)
        start = int(self.place) + max(0, len(labels) - size)
        rows = F.normalize(embeddings[-size:].to(self.queue), dim=1)
        at = (start + torch.arange(len(rows), device=rows.device)) % size
        self.queue[at], self.queue_labels[at] = rows, labels[-size:].long()
        self.place += len(labels)

    def _check(self, embeddings: Tensor) -> None:
        if embeddings.shape[1] != self.queue.shape[1]:
            raise ValueError(
                f"embeddings must have the memory's dimension {self.queue.shape[1]}, "
                f"got {embeddings.shape[1]}"
            )
