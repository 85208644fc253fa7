"""Pairs of images to match: all of a folder, and those that follow each other."""

from collections.abc import Sequence
from itertools import combinations

from flowmatch.matching.pair_list import Pair


def all_pairs(names: Sequence[str]) -> list[Pair]:
    """Return every pair of images: N (N - 1) / 2 pairs.

    Args:
        names: Names of the images.

    Example:
        >>> [tuple(pair) for pair in all_pairs(["a", "b", "c"])]
        [('a', 'b'), ('a', 'c'), ('b', 'c')]
    """
    return [Pair(*pair) for pair in combinations(names, 2)]


def sequential_pairs(names: Sequence[str], count: int) -> list[Pair]:
    """Return the pairs of each image with those that follow it.

    Args:
        names: Names of the images, in the order in which they were taken.
        count: Number of following images with which each is matched.

    Raises:
        ValueError: `count` is not positive.

    Example:
        >>> [tuple(pair) for pair in sequential_pairs(["a", "b", "c", "d"], 2)]
        [('a', 'b'), ('a', 'c'), ('b', 'c'), ('b', 'd'), ('c', 'd')]
    """
    if count < 1:
        raise ValueError(f"count must be positive, got {count}")
    return [
        Pair(first, second)
        for k, first in enumerate(names)
        for second in names[k + 1 : k + 1 + count]
    ]
