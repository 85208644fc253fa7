"""Pairs to learn from, without labels: pictures whose points agree are of the same thing."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]
from torch import Tensor

from flowmatch.matching.match import Features
from flowmatch.ops import nearest
from flowmatch.retrieval.describe import VladDescriber
from flowmatch.retrieval.verify import ENOUGH, count_inliers
from flowmatch.retrieval.vocabulary import vlad

# More than a search asks for: a wrong pair is learnt from again and again.
SURE = 2 * ENOUGH
_WORDS = 32


class Pair(NamedTuple):
    """Two pictures of the same thing, by place, and how many points agree."""

    first: int
    second: int
    inliers: int


class Tuple(NamedTuple):
    """What is learnt from at once: a query, a picture of the same thing, and some of others."""

    query: int
    positive: int
    negatives: tuple[int, ...]


def verified_pairs(
    features: Sequence[Features],
    *,
    candidates: int = 5,
    enough: int = SURE,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Pair]:
    """Find pictures of the same thing: similar by VLAD, and their points agree on a homography.

    Args:
        features: Of each picture, such as `local_features` gives.
        candidates: How many of the most similar pictures to verify for each.
        enough: Points that have to agree.
        seed: Of the visual words.
        progress: Called with the number of pictures done.

    Returns:
        Pairs, the smaller place first, in order.

    Raises:
        ValueError: There are no two pictures, or next to nothing in them.

    Reference:
        Instead of reconstructions in 3D: Radenovic et al., PAMI 2019, section 4.
    """
    if len(features) < 2:
        raise ValueError(f"pairs need two pictures at least, got {len(features)}")
    words = VladDescriber(words=_WORDS, seed=seed).vocabulary_of([f.descriptors for f in features])
    described = torch.stack([vlad(some.descriptors, words) for some in features])
    found = nearest(described, described, min(candidates + 1, len(features)), "dot").index
    pairs: dict[tuple[int, int], int] = {}
    for place, row in enumerate(found.tolist()):
        for other in row:
            key = min(place, other), max(place, other)
            if other >= 0 and other != place and key not in pairs:
                pairs[key] = count_inliers(features[key[0]], features[key[1]])
        progress(place + 1)
    return [Pair(*key, count) for key, count in sorted(pairs.items()) if count >= enough]


def clusters(count: int, pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """Number the things: pictures that pairs connect, over any number of steps, are of one.

    Args:
        count: How many pictures there are.
        pairs: Between them.

    Returns:
        ``[count]``, from 0.

    Example:
        >>> clusters(4, [Pair(0, 2, 30), Pair(2, 3, 30)]).tolist()
        [0, 1, 0, 0]
    """
    rows, columns = ([pair[k] for pair in pairs] for k in (0, 1))
    graph = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def hard_tuples(
    descriptors: Tensor, pairs: Sequence[Pair], things: NDArray[np.int64], negatives: int = 5
) -> list[Tuple]:
    """Put to each pair, both ways round, the pictures of other things most like its query.

    Args:
        descriptors: Of all pictures by the network as it is now, ``[N, D]`` of length 1.
        pairs: Of the same things.
        things: `clusters`.
        negatives: How many, at most one of each thing.

    Returns:
        Two for each pair; with fewer negatives where there are fewer other things.

    Raises:
        ValueError: All pictures are of one thing.

    Example:
        >>> like = torch.eye(3)[[0, 0, 0, 1]]
        >>> hard_tuples(like, [Pair(0, 1, 30)], np.array([0, 0, 1, 2]), 1)
        [Tuple(query=0, positive=1, negatives=(2,)), Tuple(query=1, positive=0, negatives=(2,))]

    Reference:
        Radenovic et al., PAMI 2019, section 4.2.
    """
    if len(np.unique(things)) < 2:
        raise ValueError("all pictures are of one thing: there is nothing to tell it from")
    similarity = descriptors @ descriptors.T
    found = []
    for pair in pairs:
        for query, positive in ((pair.first, pair.second), (pair.second, pair.first)):
            hard: dict[int, int] = {}  # thing -> its picture most like the query
            for other in similarity[query].argsort(descending=True, stable=True).tolist():
                thing = int(things[other])
                if thing != things[query] and thing not in hard:
                    hard[thing] = other
                if len(hard) == negatives:
                    break
            found.append(Tuple(query, positive, tuple(hard.values())))
    return found
