"""Motions that many of the given correspondences agree on."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flowmatch.geometry import fit_motion, transform
from flowmatch.registration.keypoints import as_points

_BATCH = 100_000  # triplets drawn at once
_CHUNK = 2**22  # distances held at once
_MOST_TRIPLETS = 8_000  # that fit: where there are so many, more say nothing new
_DISTINCT = 6.0  # in thresholds, how far apart two motions take points on average
_SHORTEST = 4.0  # in thresholds: edges below say little about the rotation


class Hypothesis(NamedTuple):
    """A motion, and the correspondences that agree with it."""

    motion: NDArray[np.float64]
    """``[4, 4]``, source to target."""
    inliers: NDArray[np.bool_]
    """``[M]``."""


def ransac(
    source: ArrayLike,
    target: ArrayLike,
    threshold: float,
    *,
    trials: int = 400_000,
    edge_ratio: float = 0.9,
    hypotheses: int = 1,
    seed: int = 0,
) -> list[Hypothesis]:
    """Find rigid motions by random triplets of correspondences.

    A triplet counts if its triangle has about the same edges on both sides, which a matrix product
    decides for a hundred thousand at once; the motions of those that are left are scored by how
    many correspondences they bring together, and the best fitted again to all of these.

    Args:
        source: Points ``[M, 3]``, metres.
        target: What each corresponds to, ``[M, 3]``; many may be wrong.
        threshold: Distance within which a correspondence agrees, metres.
        trials: Triplets drawn: with a share w of right ones, w^3 of them are right.
        edge_ratio: Least that the shorter of two corresponding edges is of the longer.
        hypotheses: How many different motions to return at most.
        seed: Of the draw; the same seed gives the same motions.

    Returns:
        Motions, the one with most inliers first; none without three correspondences, or where no
        triplet agrees.

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
    if len(first) < 3:
        return []
    # Around their middles: coordinates far from the origin would cost digits.
    middle = first.mean(0), second.mean(0)
    a, b = torch.from_numpy(first - middle[0]), torch.from_numpy(second - middle[1])
    triplets = _draw(first, second, trials, edge_ratio, _SHORTEST * threshold, seed)
    if len(triplets) == 0:
        return []
    motions = fit_motion(a[triplets], b[triplets])
    scores = _scores(motions, a, b, threshold)
    best = []
    for found in _distinct(motions, scores, a, threshold, hypotheses):
        refitted, inliers = _refit(found, a, b, threshold)
        if inliers.sum() >= 3:
            best.append(Hypothesis(_around(refitted.numpy(), *middle), inliers.numpy()))
    return sorted(best, key=lambda found: -int(found.inliers.sum()))


def _distinct(
    motions: Tensor, scores: Tensor, a: Tensor, threshold: float, most: int
) -> list[Tensor]:
    """Take the best motion, drop those that move points about the same way, and so on."""
    order = scores.argsort(descending=True, stable=True)
    probes = a[:: max(1, len(a) // 32)]
    moved = transform(motions[order], probes)
    left = torch.ones(len(order), dtype=torch.bool)
    taken: list[Tensor] = []
    while left.any() and len(taken) < most:
        k = int(left.long().argmax())
        taken.append(motions[order[k]])
        apart = torch.linalg.vector_norm(moved - moved[k], dim=-1).mean(-1)
        left &= apart > _DISTINCT * threshold
    return taken


def _draw(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    trials: int,
    edge_ratio: float,
    shortest: float,
    seed: int,
) -> Tensor:
    """Draw triplets whose edges fit, [S, 3]."""
    rng = np.random.default_rng(seed)
    kept = []
    for start in range(0, trials, _BATCH):
        triplets = rng.integers(0, len(first), (min(_BATCH, trials - start), 3))
        for i, j in ((0, 1), (1, 2), (2, 0)):
            ends = triplets[:, i], triplets[:, j]
            edges = [np.linalg.norm(p[ends[0]] - p[ends[1]], axis=1) for p in (first, second)]
            low, high = np.minimum(*edges), np.maximum(*edges)
            triplets = triplets[(low >= edge_ratio * high) & (low >= shortest)]
        kept.append(triplets)
        if sum(map(len, kept)) >= _MOST_TRIPLETS:
            break
    return torch.from_numpy(np.concatenate(kept)[:_MOST_TRIPLETS])


def _scores(motions: Tensor, a: Tensor, b: Tensor, threshold: float) -> Tensor:
    """Sum up, for each motion, how far within the threshold correspondences come, [S]."""
    step = max(1, _CHUNK // len(a))
    parts = []
    for start in range(0, len(motions), step):
        moved = transform(motions[start : start + step].float(), a.float())
        square = (moved - b.float()).square().sum(-1) / threshold**2
        parts.append((1 - square).clamp(min=0).sum(-1))
    return torch.cat(parts)


def _refit(motion: Tensor, a: Tensor, b: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Fit to the inliers until they stay the same."""
    inliers = torch.zeros(len(a), dtype=torch.bool)
    for _ in range(10):
        now = torch.linalg.vector_norm(transform(motion, a) - b, dim=-1) < threshold
        if now.sum() < 3 or torch.equal(now, inliers):
            return motion, now
        inliers = now
        motion = fit_motion(a[inliers], b[inliers])
    return motion, torch.linalg.vector_norm(transform(motion, a) - b, dim=-1) < threshold


def _around(
    motion: NDArray[np.float64], source: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Turn a motion between clouds about their middles into one between the clouds."""
    found = motion.copy()
    found[:3, 3] += target - motion[:3, :3] @ source
    return found
