"""Nearest neighbours of descriptors in arrays: what `flowmatch.ops.nearest` finds, in NumPy."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2

_BLOCK = 512  # queries compared at once; the whole matrix is never stored
_EPSILON = float(np.finfo(np.float32).eps)


def match_arrays(
    queries: NDArray[Any],
    references: NDArray[Any],
    *,
    ratio: float | None = 0.8,
    mutual: bool = True,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Match descriptors by distance: l2, or hamming for packed bits.

    Args:
        queries: Descriptors ``[N, D]``, float32, or bits packed into uint8.
        references: Descriptors ``[M, D]`` of the same type.
        ratio: Threshold of the ratio test; None turns the test off.
        mutual: Accept mutual nearest neighbours only.

    Returns:
        Index pairs ``[K, 2]``, by increasing distance, and their distances ``[K]``: those of
        `flowmatch.ops.nearest`.

    Raises:
        ValueError: The descriptors differ in length or type, or `ratio` is out of range.

    Example:
        >>> a, b = np.float32([[0, 0], [9, 0]]), np.float32([[1, 0], [0, 40]])
        >>> pairs, distances = match_arrays(a, b, ratio=None)
        >>> pairs.tolist(), distances.tolist()
        ([[0, 0]], [1.0])
    """
    if queries.shape[1:] != references.shape[1:] or queries.dtype != references.dtype:
        raise ValueError(
            f"descriptors must have one length and type, got {queries.dtype} "
            f"{list(queries.shape)} and {references.dtype} {list(references.shape)}"
        )
    if ratio is not None and not 0 < ratio <= 1:
        raise ValueError(f"expected 0 < ratio <= 1, or None, got {ratio}")
    index, distance = _two_nearest(queries, references)
    accepted = index[:, 0] >= 0
    if ratio is not None:
        first, second = distance.T
        accepted &= (index[:, 1] >= 0) & (first <= ratio * second) & (second > 0)
    chosen = accepted.nonzero()[0]
    if mutual and len(chosen):
        targets, place = np.unique(index[chosen, 0], return_inverse=True)
        back, _ = _two_nearest(references[targets], queries)
        chosen = chosen[back[place, 0] == chosen]
    chosen = chosen[distance[chosen, 0].argsort(kind="stable")]
    return np.stack([chosen, index[chosen, 0]], axis=1), distance[chosen, 0]


def _two_nearest(
    queries: NDArray[Any], references: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return indices and distances of the two nearest references, ``[N, 2]``; -1 if missing."""
    N, M = len(queries), len(references)
    index, distance = np.full((N, 2), -1, np.int64), np.full((N, 2), np.inf, np.float32)
    if M == 0:
        return index, distance
    if queries.dtype == np.uint8:
        found = cv2.batchDistance(
            queries, references, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=min(2, M)
        )
        distance[:, : min(2, M)], index[:, : min(2, M)] = found
        return index, distance
    for start, values, slack in _squared(queries, references):
        rows, part = np.arange(len(values)), slice(start, start + len(values))
        index[part, 0] = values.argmin(axis=1)
        if M > 1:
            values[rows, index[part, 0]] = np.inf
            index[part, 1] = values.argmin(axis=1)
        block = queries[part]
        _recompute(block, references, index[part], distance[part])
        if M < 3:
            continue
        # The products are rounded: where others may be as near, they are computed as well.
        close = values <= (values[rows, index[part, 1]] + slack)[:, None]
        for row in np.flatnonzero(close.sum(axis=1) > 1).tolist():
            candidates = np.union1d(np.flatnonzero(close[row]), index[start + row])
            exact = _distances(block[row], references[candidates])
            order = exact.argsort(kind="stable")[:2]
            index[start + row], distance[start + row] = candidates[order], exact[order]
    if M == 1:
        distance[:, 1] = np.inf
    return index, distance


def _squared(
    queries: NDArray[np.float32], references: NDArray[np.float32]
) -> Iterator[tuple[int, NDArray[np.float32], float]]:
    """Yield blocks of squared distances but for a term of each query, and a bound of the error."""
    norms = np.einsum("kd,kd->k", references, references)
    # One product gives |r|^2 - 2 q r.
    right = np.concatenate([-2 * references, norms[:, None]], axis=1).T
    longest = float(np.sqrt(norms.max(initial=0)))
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        left = np.concatenate([block, np.ones((len(block), 1), np.float32)], axis=1)
        length = float(np.linalg.norm(block, axis=1).max(initial=0))
        scale = longest * (2 * length + longest)
        # Twice the largest error of a sum of products in any order, and of the norms.
        yield start, left @ right, 1.5 * block.shape[1] * _EPSILON * scale + 1e-30


def _recompute(
    queries: NDArray[np.float32],
    references: NDArray[np.float32],
    index: NDArray[np.int64],
    distance: NDArray[np.float32],
) -> None:
    """Compute distances without cancellation, and order both neighbours by them, in place."""
    for column in range(2):
        distance[:, column] = _distances(queries, references[index[:, column]])
    swapped = (distance[:, 1] < distance[:, 0]) | (
        (distance[:, 1] == distance[:, 0]) & (index[:, 1] < index[:, 0]) & (index[:, 1] >= 0)
    )
    index[swapped], distance[swapped] = index[swapped, ::-1], distance[swapped, ::-1]


def _distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.sqrt(np.square(a - b).sum(axis=-1)), np.float32)
