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


def check_tensors(**values: object) -> None:
    """Check that named values are tensors.

    Raises:
        ValueError: A value has another type, such as a list or a NumPy array.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a tensor, got {type(value).__name__}")


def check_batch(embeddings: Tensor, labels: Tensor) -> None:
    """Check that embeddings are ``[N, D]`` and their labels ``[N]``.

    Raises:
        ValueError: Shapes, types or devices do not fit.
    """
    check_tensors(embeddings=embeddings, labels=labels)
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

    Raises:
        ValueError: `labels` is not a tensor ``[N]``.

    Example:
        >>> same, different = same_and_different(torch.tensor([0, 0, 1]))
        >>> same.nonzero().tolist(), int(different.sum())
        ([[0, 1], [1, 0]], 4)
    """
    check_tensors(labels=labels)
    if labels.dim() != 1:
        raise ValueError(f"labels must be [N], got {tuple(labels.shape)}")
    equal = labels[:, None] == labels
    diagonal = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return equal & ~diagonal, ~equal


def all_pairs(labels: Tensor) -> Pairs:
    """List all ordered pairs of a batch.

    Raises:
        ValueError: `labels` is not a tensor ``[N]``.

    Example:
        >>> [len(part) for part in all_pairs(torch.tensor([0, 0, 1]))]
        [2, 2, 4, 4]
    """
    same, different = same_and_different(labels)
    return Pairs(*torch.where(same), *torch.where(different))


def all_triplets(labels: Tensor) -> Triplets:
    """List all triplets of a batch.

    Raises:
        ValueError: `labels` is not a tensor ``[N]``.

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
    # Without a mask of positive by negative pairs, which has N^4 entries for all pairs of N items.
    order = torch.argsort(tuples.other_anchor, stable=True)
    count = torch.bincount(tuples.other_anchor, minlength=len(labels))
    first = (count.cumsum(0) - count)[tuples.anchor]  # place of the first negative in `order`
    count = count[tuples.anchor]
    place = torch.arange(len(count), device=count.device)
    pair = place.repeat_interleave(count)
    step = torch.arange(len(pair), device=pair.device) - (count.cumsum(0) - count)[pair]
    negative = tuples.negative[order[first[pair] + step]]
    return Triplets(tuples.anchor[pair], tuples.positive[pair], negative)


def as_pairs(tuples: Tuples | None, labels: Tensor) -> Pairs:
    """Convert the result of a miner to pairs: None to all, triplets to a pair of each kind.

    Example:
        >>> triplets = Triplets(*(torch.tensor([item]) for item in (0, 1, 2)))
        >>> [part.tolist() for part in as_pairs(triplets, torch.tensor([0, 0, 1]))]
        [[0], [1], [0], [2]]
    """
    if tuples is None:
        return all_pairs(labels)
    if isinstance(tuples, Pairs):
        return tuples
    return Pairs(tuples.anchor, tuples.positive, tuples.anchor, tuples.negative)


def check_tuples(tuples: Tuples | tuple[Tensor, ...] | None, size: int) -> Tuples | None:
    """Check the tuples of a miner, and name the plain ones that other libraries return.

    Args:
        tuples: Indices of three or four kinds.
        size: Number of items of the batch.

    Returns:
        The same indices as `Triplets` or `Pairs`, int64.

    Raises:
        ValueError: There are not three or four of them, lengths do not fit, or an index is not one
            of an item.

    Example:
        >>> check_tuples((torch.tensor([0]), torch.tensor([1]), torch.tensor([2])), 3).negative
        tensor([2])
    """
    if tuples is None:
        return None
    if not isinstance(tuples, tuple) or len(tuples) not in (3, 4):
        raise ValueError(
            f"tuples must be triplets or pairs of a miner, got {type(tuples).__name__}"
        )
    named = Triplets(*tuples) if len(tuples) == 3 else Pairs(*tuples)
    check_tensors(**named._asdict())
    lengths = [part.numel() for part in named]
    if lengths[0] != lengths[1] or lengths[2] != lengths[3 if len(named) == 4 else 0]:
        raise ValueError(f"the indices of tuples must have equal lengths, got {lengths}")
    for name, part in named._asdict().items():
        integral = part.dtype in (torch.int64, torch.int32) or not part.numel()
        if part.dim() != 1 or not integral:
            raise ValueError(f"{name} must be int64 [T], got {part.dtype} {tuple(part.shape)}")
        if len(part) and not 0 <= int(part.min()) <= int(part.max()) < size:
            raise ValueError(
                f"{name} must be in 0..{size - 1}, got {int(part.min())}..{int(part.max())}"
            )
    return type(named)(*(part.long() for part in named))
