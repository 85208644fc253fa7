"""Pairs and triplets within a batch, as indices."""

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor


class Triplets(NamedTuple):
    """Indices of triplets: an anchor, one of its class, one of another; ``[T]`` int64 each."""

    anchor: Tensor
    positive: Tensor
    negative: Tensor


class Pairs(NamedTuple):
    """Indices of pairs: ``[P]`` of the same class, ``[Q]`` of different ones, int64 each."""

    anchor: Tensor
    positive: Tensor
    other_anchor: Tensor
    negative: Tensor


Tuples: TypeAlias = Triplets | Pairs


def check_batch(embeddings: Tensor, labels: Tensor) -> None:
    """Insist on embeddings ``[N, D]`` and labels ``[N]`` of them.

    Raises:
        ValueError: Shapes, types or devices do not fit.
    """
    if embeddings.dim() != 2 or not embeddings.is_floating_point():
        raise ValueError(
            f"embeddings must be floats [N, D], got {embeddings.dtype} {tuple(embeddings.shape)}"
        )
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.shape != embeddings.shape[:1] or not whole:
        raise ValueError(
            f"labels must be whole numbers [{embeddings.shape[0]}], "
            f"got {labels.dtype} {tuple(labels.shape)}"
        )
    if labels.device != embeddings.device:
        raise ValueError(
            "embeddings and labels must be on the same device, "
            f"got {embeddings.device} and {labels.device}"
        )


def same_and_different(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Say which pairs are of the same class, an item and itself left out, and which are not.

    Args:
        labels: ``[N]``.

    Returns:
        Two masks ``[N, N]``.

    Example:
        >>> same, different = same_and_different(torch.tensor([0, 0, 1]))
        >>> same.nonzero().tolist(), int(different.sum())
        ([[0, 1], [1, 0]], 4)
    """
    equal = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return equal & ~itself, ~equal


def all_pairs(labels: Tensor) -> Pairs:
    """List all ordered pairs of a batch.

    Example:
        >>> [len(part) for part in all_pairs(torch.tensor([0, 0, 1]))]
        [2, 2, 4, 4]
    """
    same, different = same_and_different(labels)
    return Pairs(*torch.where(same), *torch.where(different))


def all_triplets(labels: Tensor) -> Triplets:
    """List all triplets of a batch.

    Example:
        >>> [part.tolist() for part in all_triplets(torch.tensor([0, 0, 1]))]
        [[0, 1], [1, 0], [2, 2]]
    """
    same, different = same_and_different(labels)
    # Pair by pair, [P, N], rather than [N, N, N]: most of that would be of different classes.
    anchor, positive = torch.where(same)
    pair, negative = torch.where(different[anchor])
    return Triplets(anchor[pair], positive[pair], negative)


def triplets_of(tuples: Tuples | None, labels: Tensor) -> Triplets:
    """Return triplets whatever a miner gave: of nothing all, of pairs those with a common anchor.

    Example:
        >>> pairs = Pairs(*(torch.tensor(part) for part in ([0, 1], [1, 0], [0], [2])))
        >>> [part.tolist() for part in triplets_of(pairs, torch.tensor([0, 0, 1]))]
        [[0], [1], [2]]
    """
    if tuples is None:
        return all_triplets(labels)
    if isinstance(tuples, Triplets):
        return tuples
    pair, other = torch.where(tuples.anchor[:, None] == tuples.other_anchor)
    return Triplets(tuples.anchor[pair], tuples.positive[pair], tuples.negative[other])
