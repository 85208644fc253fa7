"""Losses of a batch that is shared among processes of ``torch.distributed``."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from flowmatch.metric_learning.losses._base import EmbeddingLoss
from flowmatch.metric_learning.tuples import check_batch


class _Gather(torch.autograd.Function):
    """All processes' rows; the gradient of a row is the sum over the losses of all processes."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather_batch(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Gather the parts of a batch from all processes, with gradients.

    Args:
        embeddings: This process's part, ``[N, D]``, of the same shape in each process.
        labels: Classes, ``[N]``.

    Returns:
        Embeddings ``[processes * N, D]`` and labels, the same in each process; the arguments if
        there is one process.

    Raises:
        ValueError: Shapes or types do not fit, or differ among processes.
    """
    check_batch(embeddings, labels)
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return embeddings, labels
    shapes: list[tuple[int, ...]] = [() for _ in range(dist.get_world_size())]
    dist.all_gather_object(shapes, tuple(embeddings.shape))
    if len(set(shapes)) > 1:
        raise ValueError(f"each process needs embeddings of the same shape, got {shapes}")
    gathered: Tensor = _Gather.apply(embeddings)  # type: ignore[no-untyped-call]
    parts = [torch.empty_like(labels) for _ in shapes]
    dist.all_gather(parts, labels.contiguous())
    return gathered, torch.cat(parts)


class GatheredLoss(nn.Module):
    """A loss of the whole batch, of which each process has embedded a part.

    Losses of metric learning compare all pairs of a batch, so that the mean of the losses of parts
    is another loss. With the network in ``DistributedDataParallel``, which averages the gradients
    of processes, those of the network are exactly the gradients of one process with the whole
    batch. A loss with parameters gets the same gradients in each process, and must start from the
    same values; a loss that is random, such as `GroupLoss`, from the same seed. Batch
    normalisation is another matter: see ``torch.nn.SyncBatchNorm``.

    Args:
        loss: Loss of the whole batch.

    Example:
        >>> from flowmatch.metric_learning import make_loss
        >>> loss = GatheredLoss(make_loss("hadsell", classes=2, dimension=2))
        >>> loss(torch.eye(2), torch.tensor([0, 1])).item()  # one process: the loss itself
        0.0
    """

    def __init__(self, loss: EmbeddingLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of the whole batch, the same value in each process.

        Args:
            embeddings: This process's part, ``[N, D]``, of the same shape in each process.
            labels: Classes, ``[N]``.

        Raises:
            ValueError: Shapes or types do not fit, or differ among processes.
        """
        value: Tensor = self.loss(*gather_batch(embeddings, labels))
        return value

    def remember(self, embeddings: Tensor, labels: Tensor) -> None:
        """Let the loss take note of the whole batch after a step, see `EmbeddingLoss.remember`.

        Args:
            embeddings: This process's part, ``[N, D]``.
            labels: Classes, ``[N]``.
        """
        with torch.no_grad():
            self.loss.remember(*gather_batch(embeddings, labels))
