"""Measures of how well a confidence tells right pixels from wrong ones."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

STEPS = 100
"""Number of steps in which pixels are removed."""
EDGES = (0.0, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.0)
"""Edges of the ranges of confidence in which `reliability` counts."""


def sparsification_error(errors: ArrayLike, doubt: ArrayLike) -> float:
    """Return the area under the sparsification error (AUSE), relative to the mean error.

    The doubtful pixels are removed first, and the mean error of the others is drawn over the share
    of removed pixels: the sparsification curve. Removing the pixels of largest error first gives
    the lowest curve possible. AUSE is the area between both curves, divided by the mean error of
    all pixels: 0 is perfect, and a random order has about 1 minus the area of the lowest curve.

    Args:
        errors: Endpoint errors, any shape; NaN where unknown.
        doubt: Doubt about each pixel, of the same shape: only its order matters.

    Returns:
        The area; NaN without a known error, 0 if all errors are 0.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> errors = np.arange(100.0)
        >>> sparsification_error(errors, errors)
        0.0
        >>> 0.4 < sparsification_error(errors, -errors) < 1.1
        True

    Reference:
        Ilg et al., Uncertainty Estimates and Multi-Hypotheses Networks for Optical Flow, ECCV 2018,
        section 5.1.
    """
    values, doubts = np.asarray(errors, np.float64), np.asarray(doubt, np.float64)
    if values.shape != doubts.shape:
        raise ValueError(
            f"errors and doubt must have one shape, got {values.shape}, {doubts.shape}"
        )
    known = np.isfinite(values)
    values, doubts = values[known], doubts[known]
    if not values.size:
        return float("nan")
    mean = values.mean()
    if mean == 0:
        return 0.0
    by_doubt = _curve(values[np.argsort(doubts, kind="stable")])
    by_error = _curve(np.sort(values))
    return float(np.mean(by_doubt - by_error) / mean)


def _curve(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the first share of the errors, for shares from all down to a hundredth."""
    counts = np.maximum(1, np.round(len(ordered) * np.arange(STEPS, 0, -1) / STEPS)).astype(int)
    means: NDArray[np.float64] = np.cumsum(ordered)[counts - 1] / counts
    return means


class Reliability(NamedTuple):
    """Share of right pixels among those of similar confidence.

    Attributes:
        low: Lowest confidence.
        high: Highest confidence.
        pixels: Number of pixels whose confidence is in this range.
        within: Share of them, 0 to 1, with an endpoint error below 1 px; NaN without pixels.
    """

    low: float
    high: float
    pixels: int
    within: float


def count_reliability(errors: ArrayLike, confidence: ArrayLike) -> NDArray[np.int64]:
    """Count the pixels of each range of confidence, and those within 1 px, ``[2, ranges]``.

    Args:
        errors: Endpoint errors; NaN where unknown.
        confidence: Probability of an error below 1 px, of the same shape.
    """
    values, sure = np.asarray(errors, np.float64), np.asarray(confidence, np.float64)
    known = np.isfinite(values)
    values, sure = values[known], sure[known]
    return np.stack([np.histogram(part, EDGES)[0] for part in (sure, sure[values < 1])])


def reliability(counts: Sequence[NDArray[np.int64]]) -> tuple[Reliability, ...]:
    """Return the reliability of several pairs, all pixels together.

    Args:
        counts: Counts of each pair, from `count_reliability`.

    Example:
        >>> counts = count_reliability([0.1, 3.0, 0.2, np.nan], [0.9, 0.1, 0.9, 0.9])
        >>> [(row.pixels, row.within) for row in reliability([counts]) if row.pixels]
        [(1, 0.0), (2, 1.0)]
    """
    pixels, right = np.sum(counts, axis=0)
    return tuple(
        Reliability(low, high, int(n), float(k / n) if n else float("nan"))
        for low, high, n, k in zip(EDGES[:-1], EDGES[1:], pixels, right, strict=True)
    )
