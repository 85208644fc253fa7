"""RANSAC: rigid motions from correspondences with many outliers."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flowmatch.geometry import fit_motion, transform
from flowmatch.registration.keypoints import as_points

_BATCH = 100_000  # triplets sampled at once
_CHUNK = 2**22  # distances in memory at once
_MAX_TRIPLETS = 8_000  # consistent triplets after which sampling stops
_DISTINCT = 6.0  # thresholds between the points of two distinct motions, on average
_MIN_EDGE = 4.0  # thresholds: shorter edges determine the rotation poorly


class Hypothesis(NamedTuple):
    """A motion and its inliers.

    Attributes:
        motion: ``[4, 4]``, source to target.
        inliers: ``[M]``: which correspondences agree with the motion.
    """

    motion: NDArray[np.float64]
    inliers: NDArray[np.bool_]


def ransac(
    source: ArrayLike,
    target: ArrayLike,
    threshold: float,
    *,
    trials: int = 400_000,
    edge_ratio: float = 0.9,
    hypotheses: int = 1,
    max_scale: float = 1.0,
    seed: int = 0,
) -> list[Hypothesis]:
    """Estimate rigid motions from random triplets of correspondences.

    A triplet is consistent if its triangle has about the same edges on both sides, which is
    tested for a hundred thousand triplets at once. The motions of consistent triplets are scored
    by their inliers, and the best ones are refitted to all inliers.

    Args:
        source: Points ``[M, 3]``, metres.
        target: Corresponding points, ``[M, 3]``; many may be wrong.
        threshold: Maximum distance of an inlier, metres.
        trials: Number of triplets to sample: with an inlier ratio w, w^3 of them are correct.
        edge_ratio: Minimum ratio of the shorter to the longer of two corresponding edges.
        hypotheses: Maximum number of distinct motions to return.
        max_scale: Maximum factor by which the source is scaled, up or down; 1 gives rigid motions.
        seed: Random seed; the same seed gives the same motions.

    Returns:
        Motions, the one with most inliers first; empty with fewer than three correspondences or
        without a consistent triplet.

    Raises:
        ValueError: Shapes do not fit, or an argument is out of range.

    Example:
        >>> points = np.random.default_rng(0).normal(size=(20, 3))
        >>> ransac(points, points + [0, 0, 5], threshold=0.01)[0].motion[2, 3].round(6).item()
        5.0

    Reference:
        Fischler and Bolles, CACM 1981; the edges: Buch et al., Pose Estimation using Local
        Structure-Specific Shape and Appearance Context, ICRA 2013.
    """
    first, second = as_points(source, "source"), as_points(target, "target")
    if first.shape != second.shape:
        raise ValueError(
            f"source and target must correspond, got {list(first.shape)} and {list(second.shape)}"
        )
    if not (threshold > 0 and trials > 0 and 0 < edge_ratio <= 1 and hypotheses > 0):
        raise ValueError(
            "threshold, trials and hypotheses must be positive and edge_ratio in (0, 1], "
            f"got {threshold}, {trials}, {hypotheses} and {edge_ratio}"
        )
    if not max_scale >= 1:
        raise ValueError(f"max_scale must be 1 or more, got {max_scale}")
    if len(first) < 3:
        return []
    # Relative to the centroids: coordinates far from the origin would cost precision.
    centroids = first.mean(0), second.mean(0)
    a, b = (torch.from_numpy(p - c) for p, c in zip((first, second), centroids, strict=True))
    triplets = _sample_triplets(
        first, second, trials, edge_ratio, _MIN_EDGE * threshold, max_scale, seed
    )
    if len(triplets) == 0:
        return []
    fit = fit_motion if max_scale == 1 else fit_similarity
    motions = fit(a[triplets], b[triplets])
    scores = _scores(motions, a, b, threshold)
    results = []
    for candidate in _select_distinct(motions, scores, a, threshold, hypotheses):
        refitted, inliers = _refit(candidate, a, b, threshold, fit)
        if inliers.sum() >= 3:
            motion = _undo_centring(refitted.numpy(), *centroids)
            results.append(Hypothesis(motion, inliers.numpy()))
    return sorted(results, key=lambda result: -int(result.inliers.sum()))


def _select_distinct(
    motions: Tensor, scores: Tensor, a: Tensor, threshold: float, limit: int
) -> list[Tensor]:
    """Select the best motion, drop those that move points to about the same places, and repeat."""
    order = scores.argsort(descending=True, stable=True)
    probes = a[:: max(1, len(a) // 32)]
    moved = transform(motions[order], probes)
    remaining = torch.ones(len(order), dtype=torch.bool)
    selected: list[Tensor] = []
    while remaining.any() and len(selected) < limit:
        k = int(remaining.long().argmax())
        selected.append(motions[order[k]])
        distance = torch.linalg.vector_norm(moved - moved[k], dim=-1).mean(-1)
        remaining &= distance > _DISTINCT * threshold
    return selected


def _sample_triplets(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    trials: int,
    edge_ratio: float,
    min_edge: float,
    max_scale: float,
    seed: int,
) -> Tensor:
    """Sample triplets with consistent edges, ``[S, 3]``."""
    rng = np.random.default_rng(seed)
    kept = []
    for start in range(0, trials, _BATCH):
        triplets = rng.integers(0, len(first), (min(_BATCH, trials - start), 3))
        if max_scale > 1:
            kept.append(_select_similar(triplets, first, second, edge_ratio, min_edge, max_scale))
        else:
            kept.append(_select_equal(triplets, first, second, edge_ratio, min_edge))
        if sum(map(len, kept)) >= _MAX_TRIPLETS:
            break
    return torch.from_numpy(np.concatenate(kept)[:_MAX_TRIPLETS])


_EDGES = ((0, 1), (1, 2), (2, 0))


def _select_equal(
    triplets: NDArray[np.int64],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    edge_ratio: float,
    min_edge: float,
) -> NDArray[np.int64]:
    """Return the triplets whose edges are about as long in both clouds."""
    for i, j in _EDGES:
        edges = _edge_lengths(triplets, i, j, first, second)
        low, high = np.minimum(*edges), np.maximum(*edges)
        triplets = triplets[(low >= edge_ratio * high) & (low >= min_edge)]
    return triplets


def _select_similar(
    triplets: NDArray[np.int64],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    edge_ratio: float,
    min_edge: float,
    max_scale: float,
) -> NDArray[np.int64]:
    """Return the triplets whose edges have about the same ratio."""
    lows, highs = np.full(len(triplets), np.inf), np.zeros(len(triplets))
    for i, j in _EDGES:
        edges = _edge_lengths(triplets, i, j, first, second)
        ratio = edges[1] / np.maximum(edges[0], np.finfo(float).tiny)
        ratio[np.minimum(*edges) < min_edge] = np.nan
        lows, highs = np.minimum(lows, ratio), np.maximum(highs, ratio)
    good = (lows >= edge_ratio * highs) & (highs <= max_scale) & (lows >= 1 / max_scale)
    return triplets[good]


def _edge_lengths(
    triplets: NDArray[np.int64], i: int, j: int, *clouds: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    return [np.linalg.norm(p[triplets[:, i]] - p[triplets[:, j]], axis=1) for p in clouds]


def fit_similarity(source: Tensor, target: Tensor) -> Tensor:
    """Fit a scale and a motion between corresponding points by least squares.

    Args:
        source: ``[..., N, 3]``.
        target: Corresponding points, ``[..., N, 3]``.

    Returns:
        ``[..., 4, 4]``: the rotation times the scale, and the translation.

    Example:
        >>> points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
        >>> row = fit_similarity(points, 2 * points + 1)[0]
        >>> torch.allclose(row, torch.tensor([2.0, 0, 0, 1]), atol=1e-5)
        True

    Reference:
        Umeyama, Least-Squares Estimation of Transformation Parameters, PAMI 1991; the scale: Horn,
        JOSA A 1987, symmetric in both sides.
    """
    centres = [points.mean(-2, keepdim=True) for points in (source, target)]
    sizes = [
        (points - centre).square().sum((-2, -1))
        for points, centre in zip((source, target), centres, strict=True)
    ]
    scale = (sizes[1] / sizes[0].clamp(min=torch.finfo(source.dtype).tiny)).sqrt()
    matrix = fit_motion(source, target)
    linear = matrix[..., :3, :3] * scale[..., None, None]
    result = matrix.clone()
    result[..., :3, :3] = linear
    result[..., :3, 3] = (centres[1] - centres[0] @ linear.mT)[..., 0, :]
    return result


def _scores(motions: Tensor, a: Tensor, b: Tensor, threshold: float) -> Tensor:
    """Return the truncated quadratic score of each motion, ``[S]``."""
    step = max(1, _CHUNK // len(a))
    parts = []
    for start in range(0, len(motions), step):
        moved = transform(motions[start : start + step].float(), a.float())
        square = (moved - b.float()).square().sum(-1) / threshold**2
        parts.append((1 - square).clamp(min=0).sum(-1))
    return torch.cat(parts)


def _refit(
    motion: Tensor,
    a: Tensor,
    b: Tensor,
    threshold: float,
    fit: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Refit to the inliers until they no longer change."""
    inliers = torch.zeros(len(a), dtype=torch.bool)
    for _ in range(10):
        updated = torch.linalg.vector_norm(transform(motion, a) - b, dim=-1) < threshold
        if updated.sum() < 3 or torch.equal(updated, inliers):
            return motion, updated
        inliers = updated
        motion = fit(a[inliers], b[inliers])
    return motion, torch.linalg.vector_norm(transform(motion, a) - b, dim=-1) < threshold


def _undo_centring(
    motion: NDArray[np.float64], source: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Convert a motion between centred clouds into one between the clouds."""
    result = motion.copy()
    result[:3, 3] += target - motion[:3, :3] @ source
    return result
