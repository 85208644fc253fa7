"""Guided matching: a second pass over the keypoints without an inlier, near a homography."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from flowmatch.matching.features import Features, Matches

_BAND = 2 / 3  # error of a guided match, as a share of the threshold of inliers
_FAR = 1e9  # where points behind the second camera are mapped to


def guided_matches(
    first: Features, second: Features, matches: Matches, *, threshold: float = 3.0
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Match keypoints without an inlier to those that lie where a homography expects them.

    A match is a mutual nearest neighbour among the pairs whose error is at most two thirds of the
    threshold, and its distance is at most the largest of an inlier. There is no ratio test: the
    homography tells apart what looks alike.

    Args:
        first: Features of the first image.
        second: Features of the second image.
        matches: Matches of these features, with a homography.
        threshold: Maximum error of an inlier, pixels.

    Returns:
        New matches ``[K, 2]``, by increasing distance, and their distances ``[K]``; none without a
        homography.

    Reference:
        Hartley & Zisserman, Multiple View Geometry, algorithm 4.6, guided matching.
    """
    none = np.empty((0, 2), np.int64), np.empty(0, np.float32)
    inliers = matches.matches[matches.inliers]
    if matches.geometry != "homography" or matches.matrix is None or not len(inliers):
        return none
    free0, free1 = (
        np.setdiff1d(np.arange(len(features.keypoints.xy)), used)
        for features, used in zip((first, second), inliers.T, strict=True)
    )
    if not len(free0) or not len(free1):
        return none
    expected = _mapped(matches.matrix, first.keypoints.xy[free0])
    near = cKDTree(expected).sparse_distance_matrix(
        cKDTree(second.keypoints.xy[free1]), _BAND * threshold, output_type="ndarray"
    )
    pairs = np.stack([free0[near["i"]], free1[near["j"]]], axis=1)
    distances = _distances(first, second, pairs)
    order = np.argsort(distances, kind="stable")
    order = order[distances[order] <= matches.distances[matches.inliers].max()]
    pairs, distances = pairs[order], distances[order]
    nearest = [np.zeros(len(pairs), np.bool_) for _ in range(2)]
    for side in (0, 1):
        nearest[side][np.unique(pairs[:, side], return_index=True)[1]] = True
    mutual = nearest[0] & nearest[1]
    return pairs[mutual], distances[mutual]


def _mapped(matrix: NDArray[np.float64], xy: NDArray[np.float32]) -> NDArray[np.float64]:
    mapped = np.column_stack([xy, np.ones(len(xy))]) @ matrix.T
    in_front = mapped[:, 2] > 0
    points = mapped[:, :2] / np.where(in_front, mapped[:, 2], 1)[:, None]
    return np.where(in_front[:, None] & (np.abs(points) < _FAR), points, _FAR)


def _distances(first: Features, second: Features, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the descriptor distance of each pair, as `match_features` measures it."""
    a, b = (
        torch.as_tensor(features.descriptors).cpu()[torch.from_numpy(index)]
        for features, index in zip((first, second), pairs.T, strict=True)
    )
    if a.dtype == torch.uint8:
        bits = np.unpackbits(np.bitwise_xor(a.numpy(), b.numpy()), axis=1)
        return np.asarray(bits.sum(axis=1), np.float32)
    return np.asarray((a.float() - b.float()).norm(dim=1).numpy())
