"""Similarity of photos, by one vector for each: which pairs are worth matching."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmatch.matching.features import Features

_STRONGEST = 1000  # descriptors of a photo; weaker ones are found again less often
_WORDS = 64
_SAMPLE = 16_000  # descriptors from which the words are learned
_ROUNDS = 8


def similarities(features: Sequence[Features]) -> NDArray[np.float32] | None:
    """Return how similar photos are, ``[N, N]``: cosines of VLAD vectors.

    The words are learned from the photos themselves, which show the same place. All photos need
    memory for their vectors only: 64 words of 128 numbers.

    Args:
        features: Features of each photo, sorted by score.

    Returns:
        Cosines, or None if the photos have no descriptors, as for LoFTR.

    Reference:
        Jegou et al., Aggregating Local Descriptors into a Compact Image Representation, CVPR 2010;
        normalisation within words: Arandjelovic and Zisserman, All About VLAD, CVPR 2013.
    """
    strongest = [_as_floats(item.descriptors)[:_STRONGEST] for item in features]
    if not any(item.size for item in strongest):
        return None
    pool = np.concatenate([item for item in strongest if item.size])
    words = _learn_words(pool[:: max(1, len(pool) // _SAMPLE)])
    vectors = np.stack([_vlad(item, words) for item in strongest])
    return np.asarray(vectors @ vectors.T, np.float32)


def _as_floats(descriptors: Any) -> NDArray[np.float32]:
    if not isinstance(descriptors, np.ndarray):  # a tensor
        descriptors = descriptors.cpu().numpy()
    if descriptors.dtype == np.uint8:
        descriptors = np.unpackbits(descriptors, axis=1)
    return np.asarray(descriptors, np.float32)


def _learn_words(pool: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the centres of k-means, ``[K, D]``."""
    words = pool[:: max(1, len(pool) // _WORDS)][:_WORDS].copy()
    for _ in range(_ROUNDS):
        nearest = _nearest(pool, words)
        sums = np.zeros_like(words)
        np.add.at(sums, nearest, pool)
        count = np.bincount(nearest, minlength=len(words))
        words[count > 0] = (sums / np.maximum(count, 1)[:, None])[count > 0]
    return words


def _nearest(vectors: NDArray[np.float32], words: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.asarray(np.argmin(np.square(words).sum(axis=1) - 2 * vectors @ words.T, axis=1))


def _vlad(descriptors: NDArray[np.float32], words: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sums of residuals of each word, ``[K * D]``, of unit length; 0 without any."""
    sums = np.zeros_like(words)
    if len(descriptors):
        nearest = _nearest(descriptors, words)
        np.add.at(sums, nearest, descriptors - words[nearest])
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    vector = sums.ravel()
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)
