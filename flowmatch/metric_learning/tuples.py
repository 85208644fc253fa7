"""Pairs and triplets of a batch, as indices."""

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor


class Triplets(NamedTuple):
    """Indices of triplets.

    Attributes:
        anchor: Index of the anchor, ``[T]`` int64.
        positive: Index of another item of its class, ``[T]`` int64.
        negative: Index of an item of another class, ``[T]`` int64.
    """

    anchor: Tensor
    positive: Tensor
    negative: Tensor


class Pairs(NamedTuple):
    """Indices of positive and of negative pairs.

    Attributes:
        anchor: Index of the first item of each positive pair, ``[P]`` int64.
        positive: Index of the second, of the same class, ``[P]`` int64.
        other_anchor: Index of the first item of each negative pair, ``[Q]`` int64.
        negative: Index of the second, of another class, ``[Q]`` int64.
    """

    anchor: Tensor
    positive: Tensor
    other_anchor: Tensor
    negative: Tensor


Tuples: TypeAlias = Triplets | Pairs


def check_batch(embeddings: Tensor, labels: Tensor) -> None:
    """Check that embeddings are ``[N, D]`` and their labels ``[N]``.

    Raises:
        ValueError: Shapes, types or devices do not fit.
    """
    if embeddings.dim() != 2 or not embeddings.is_floating_point():
        raise ValueError(
            f"embeddings must be floats [N, D], got {embeddings.dtype} {tuple(embeddings.shape)}"
        )
    integral = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.shape != embeddings.shape[:1] or not integral:
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
    """Return the masks of pairs of the same class, without the diagonal, and of different classes.

    Args:
        labels: ``[N]``.

    Returns:
        Two masks, ``[N, N]`` bool.

    Example:
        >>> same, different = same_and_different(torch.tensor([0, 0, 1]))
        >>> same.nonzero().tolist(), int(different.sum())
        ([[0, 1], [1, 0]], 4)
    """
    equal = labels[:, None] == labels
    diagonal = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return equal & ~diagonal, ~equal


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
    # A mask [P, N] of the positive pairs is much smaller than one of all triples, [N, N, N].
    anchor, positive = torch.where(same)
    pair, negative = torch.where(different[anchor])
    return Triplets(anchor[pair], positive[pair], negative)


def as_triplets(tuples: Tuples | None, labels: Tensor) -> Triplets:
    """Convert the result of a miner to triplets: None to all, pairs to those that share an anchor.

    Example:
        >>> pairs = Pairs(*(torch.tensor(part) for part in ([0, 1], [1, 0], [0], [2])))
        >>> [part.tolist() for part in as_triplets(pairs, torch.tensor([0, 0, 1]))]
        [[0], [1], [2]]
    """
    if tuples is None:
        return all_triplets(labels)
    if isinstance(tuples, Triplets):
        return tuples
    pair, other = torch.where(tuples.anchor[:, None] == tuples.other_anchor)
    return Triplets(tuples.anchor[pair], tuples.positive[pair], tuples.negative[other])
