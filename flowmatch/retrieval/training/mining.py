"""Training pairs without labels: images whose matched points agree on a homography."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmatch.matching.features import Features
from flowmatch.ops import nearest
from flowmatch.progress import ProgressCallback
from flowmatch.retrieval.verify import MIN_INLIERS, count_inliers
from flowmatch.retrieval.vlad_describer import VladOptions, learn_vocabulary
from flowmatch.retrieval.vocabulary import vlad

MIN_PAIR_INLIERS = 2 * MIN_INLIERS
"""Smallest number of inliers of a training pair: more than a search needs, because a wrong pair
is used in every round."""
_WORDS = 32


class VerifiedPair(NamedTuple):
    """Two images of the same object.

    Attributes:
        first: Index of the first image.
        second: Index of the second image.
        inliers: Number of matched points that agree on a homography.
    """

    first: int
    second: int
    inliers: int


class TrainingTuple(NamedTuple):
    """Images of one training sample.

    Attributes:
        query: Index of the query.
        positive: Index of an image of the same object.
        negatives: Indices of images of other objects.
    """

    query: int
    positive: int
    negatives: tuple[int, ...]


def find_verified_pairs(
    features: Sequence[Features],
    *,
    candidates: int = 5,
    min_inliers: int = MIN_PAIR_INLIERS,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> list[VerifiedPair]:
    """Find images of the same object: similar by VLAD, and verified by a homography.

    Args:
        features: Features of each image, from `local_features`.
        candidates: Number of most similar images that are verified for each image.
        min_inliers: Smallest number of inliers of a pair.
        seed: Random seed of the visual words.
        progress: Called after each image.

    Returns:
        Pairs in order, the smaller index first.

    Raises:
        ValueError: There are fewer than two images, or fewer keypoints than visual words.

    Reference:
        Radenovic et al., PAMI 2019, section 4, use 3-D reconstructions instead.
    """
    if len(features) < 2:
        raise ValueError(f"pairs need at least two images, got {len(features)}")
    options = VladOptions(words=_WORDS, seed=seed)
    words = learn_vocabulary([torch.as_tensor(f.descriptors) for f in features], options)
    described = torch.stack([vlad(torch.as_tensor(image.descriptors), words) for image in features])
    neighbours = nearest(described, described, min(candidates + 1, len(features)), "dot").index
    pairs: dict[tuple[int, int], int] = {}
    for k, row in enumerate(neighbours.tolist()):
        for other in row:
            key = min(k, other), max(k, other)
            if other >= 0 and other != k and key not in pairs:
                pairs[key] = count_inliers(features[key[0]], features[key[1]])
        if progress:
            progress("verifying", k + 1, len(features))
    return [
        VerifiedPair(*key, count) for key, count in sorted(pairs.items()) if count >= min_inliers
    ]


def object_labels(count: int, pairs: Sequence[VerifiedPair]) -> NDArray[np.int64]:
    """Label images by object: images that are connected by pairs show the same one.

    Args:
        count: Number of images.
        pairs: Pairs of images of the same object.

    Returns:
        Labels ``[count]``, from 0.

    Example:
        >>> object_labels(4, [VerifiedPair(0, 2, 30), VerifiedPair(2, 3, 30)]).tolist()
        [0, 1, 0, 0]
    """
    # Imported here, because it takes a while and a search never needs it.
    from scipy.sparse import coo_array  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    rows, columns = ([pair[k] for pair in pairs] for k in (0, 1))
    graph = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def mine_tuples(
    descriptors: Tensor,
    pairs: Sequence[VerifiedPair],
    labels: NDArray[np.int64],
    negatives: int = 5,
) -> list[TrainingTuple]:
    """Add hard negatives to each pair, in both directions: images of other objects like the query.

    Args:
        descriptors: Descriptors of all images by the current network, ``[N, D]`` of unit length.
        pairs: Pairs of images of the same object.
        labels: Objects of the images, from `object_labels`.
        negatives: Number of negatives, at most one of each object.

    Returns:
        Two tuples for each pair; with fewer negatives if there are fewer other objects.

    Raises:
        ValueError: All images show one object.

    Example:
        >>> descriptors = torch.eye(3)[[0, 0, 0, 1]]
        >>> pairs, labels = [VerifiedPair(0, 1, 30)], np.array([0, 0, 1, 2])
        >>> mine_tuples(descriptors, pairs, labels, 1)[0]
        TrainingTuple(query=0, positive=1, negatives=(2,))

    Reference:
        Radenovic et al., PAMI 2019, section 4.2.
    """
    if len(np.unique(labels)) < 2:
        raise ValueError("all images show one object: there are no negatives")
    similarity = descriptors @ descriptors.T
    tuples = []
    for pair in pairs:
        for query, positive in ((pair.first, pair.second), (pair.second, pair.first)):
            hardest: dict[int, int] = {}  # object -> its image that is most similar to the query
            for other in similarity[query].argsort(descending=True, stable=True).tolist():
                label = int(labels[other])
                if label != labels[query] and label not in hardest:
                    hardest[label] = other
                if len(hardest) == negatives:
                    break
            tuples.append(TrainingTuple(query, positive, tuple(hardest.values())))
    return tuples
