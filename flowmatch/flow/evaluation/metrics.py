"""Error metrics of optical flow, as flow papers report them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.flow.evaluation.sparsification import sparsification_error


class FlowScores(NamedTuple):
    """Errors of one flow, or their means over several; NaN if no pixel is measured.

    The endpoint error (EPE) of a pixel is the length of estimated minus true flow, in pixels.

    Attributes:
        epe: Mean EPE.
        fl_all: KITTI's outliers, in percent: EPE above 3 px *and* above 5 % of the true length.
        px1: Percent of the pixels with an EPE above 1 px.
        px3: Percent of the pixels with an EPE above 3 px.
        px5: Percent of the pixels with an EPE above 5 px.
        s0_10: Mean EPE where the true flow is shorter than 10 px.
        s10_40: Mean EPE where the true flow is at least 10 and shorter than 40 px.
        s40_plus: Mean EPE where the true flow is 40 px or longer.
        matched: Mean EPE of points that are visible in the second frame.
        unmatched: Mean EPE of points that are occluded in the second frame.
        pixels: Number of compared pixels.
        ause: Area under the sparsification error of the confidence (`sparsification_error`), 0 is
            perfect; NaN without a confidence.
        ause_consistency: The same of the distance by which the backward flow misses the pixel.

    Reference:
        Baker et al., IJCV 2011 (EPE); Menze & Geiger, Object Scene Flow, CVPR 2015, and the KITTI
        2015 development kit (Fl); Butler et al., MPI-Sintel, ECCV 2012 (speeds, matched and
        unmatched).
    """

    epe: float
    fl_all: float
    px1: float
    px3: float
    px5: float
    s0_10: float
    s10_40: float
    s40_plus: float
    matched: float
    unmatched: float
    pixels: int
    ause: float = float("nan")
    ause_consistency: float = float("nan")


def epe_map(flow: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return the endpoint error of every pixel, NaN where the truth is unknown.

    Args:
        flow: Estimated flow, ``[H, W, 2]``, in pixels.
        truth: True flow of the same shape; not finite in either component means unknown.

    Returns:
        Errors ``[H, W]``, in pixels.

    Raises:
        ValueError: The shapes differ or are not ``[H, W, 2]``, or `flow` is not finite: an estimate
            of only the easy pixels cannot be compared with others.

    Example:
        >>> epe_map([[[3.0, 4.0], [1.0, 1.0]]], [[[0.0, 0.0], [np.nan, np.nan]]])
        array([[ 5., nan]])

    Reference:
        Baker et al., A Database and Evaluation Methodology for Optical Flow, IJCV 2011.
    """
    estimate, true = _checked(flow, truth)
    return np.asarray(np.hypot(*np.moveaxis(estimate - true, 2, 0)), np.float64)


def score(
    flow: ArrayLike,
    truth: ArrayLike,
    valid: ArrayLike | None = None,
    occluded: ArrayLike | None = None,
    confidence: ArrayLike | None = None,
    inconsistency: ArrayLike | None = None,
) -> FlowScores:
    """Compare a flow with the truth at the pixels where the truth is known.

    Args:
        flow: Estimated flow, ``[H, W, 2]``, in pixels.
        truth: True flow of the same shape; not finite in either component means unknown.
        valid: Bool ``[H, W]``, False where the truth is not evaluated; None evaluates all.
        occluded: Bool ``[H, W]``, True where the point is hidden in the second frame. Without it,
            `matched` and `unmatched` are NaN.
        confidence: Confidence of each pixel, ``[H, W]``; without it, `ause` is NaN.
        inconsistency: Distance by which the backward flow misses each pixel; without it,
            `ause_consistency` is NaN.

    Raises:
        ValueError: For the reasons of `epe_map`, or a mask has another size, or no pixel is left.

    Example:
        >>> result = score(np.zeros((1, 2, 2)), [[[0.0, 4.0], [0.0, 0.0]]])
        >>> result.epe, result.fl_all, result.px5
        (2.0, 50.0, 0.0)
    """
    errors = epe_map(flow, truth)
    speeds = np.linalg.norm(np.asarray(truth, np.float64), axis=2)
    known = np.isfinite(errors)
    if valid is not None:
        known &= _mask("valid", valid, errors.shape)
    if not known.any():
        raise ValueError(f"no pixel of {list(errors.shape)} has a known flow, so none to compare")
    measured = np.where(known, errors, np.nan)
    areas = [
        float("nan") if doubt is None else sparsification_error(measured, doubt)
        for doubt in (None if confidence is None else -np.asarray(confidence), inconsistency)
    ]
    hidden = None if occluded is None else _mask("occluded", occluded, errors.shape)[known]
    errors, speeds = errors[known], speeds[known]

    def percent(outlier: NDArray[np.bool_]) -> float:
        return 100 * float(outlier.mean())

    return FlowScores(
        epe=float(errors.mean()),
        fl_all=percent((errors > 3) & (errors > 0.05 * speeds)),
        px1=percent(errors > 1),
        px3=percent(errors > 3),
        px5=percent(errors > 5),
        s0_10=_mean(errors[speeds < 10]),
        s10_40=_mean(errors[(speeds >= 10) & (speeds < 40)]),
        s40_plus=_mean(errors[speeds >= 40]),
        matched=float("nan") if hidden is None else _mean(errors[~hidden]),
        unmatched=float("nan") if hidden is None else _mean(errors[hidden]),
        pixels=errors.size,
        ause=areas[0],
        ause_consistency=areas[1],
    )


def mean_scores(scores: Sequence[FlowScores]) -> FlowScores:
    """Average the scores of several pairs, with equal weights whatever their sizes.

    Middlebury's numbers are averaged so; for dense flow of equal sizes, EPE and the percentages are
    then those of all pixels together. KITTI's own Fl-all pools the pixels of all pairs first, and
    so do Sintel's speeds: expect small differences from their tables. A score that is NaN for some
    pairs is averaged over the others.

    Args:
        scores: Scores of at least one pair.

    Returns:
        Means; `pixels` is the sum.

    Raises:
        ValueError: No scores are given.

    Example:
        >>> near = score(np.ones((1, 1, 2)), np.ones((1, 1, 2)))
        >>> far = score(np.zeros((1, 1, 2)), [[[0.0, 4.0]]])
        >>> mean_scores([near, far]).epe
        2.0
    """
    if not scores:
        raise ValueError("at least one score is needed for a mean, got none")
    table = np.array(scores, np.float64)  # [pairs, scores]
    means = FlowScores._make(_mean(column[np.isfinite(column)]) for column in table.T)
    return means._replace(pixels=sum(values.pixels for values in scores))


def _checked(flow: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    estimate, true = np.asarray(flow, np.float64), np.asarray(truth, np.float64)
    if estimate.shape != true.shape or estimate.ndim != 3 or estimate.shape[2] != 2:
        raise ValueError(
            f"flow and truth must have the same shape [H, W, 2], "
            f"got {list(estimate.shape)} and {list(true.shape)}"
        )
    missing = int((~np.isfinite(estimate)).any(axis=2).sum())
    if missing:
        raise ValueError(
            f"flow must be finite everywhere, got {missing} pixels that are NaN or infinite"
        )
    # An unknown truth may have one finite component or infinite ones; it becomes NaN.
    known = np.isfinite(true).all(axis=2, keepdims=True)
    return estimate, np.where(known, true, np.nan)


def _mask(name: str, mask: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    values = np.asarray(mask)
    if values.shape != shape or values.dtype != np.bool_:
        raise ValueError(
            f"{name} must be bool {list(shape)}, got {values.dtype} {list(values.shape)}"
        )
    return values


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")


def bootstrap_interval(
    values: Sequence[float], level: float = 0.95, rounds: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the interval that holds the mean with a confidence, by resampling the values.

    Args:
        values: One value per pair; NaN is left out.
        level: Confidence, 0 to 1.
        rounds: Number of resamplings.
        seed: Random seed.

    Returns:
        Lower and upper end; NaN for fewer than two values.

    Example:
        >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0])
        >>> 1 <= low < 2.5 < high <= 4
        True

    Reference:
        Efron, Bootstrap Methods: Another Look at the Jackknife, Annals of Statistics 1979.
    """
    known = np.array([value for value in values if np.isfinite(value)], np.float64)
    if len(known) < 2:
        return (np.nan, np.nan)
    rng = np.random.default_rng(seed)
    means = rng.choice(known, (rounds, len(known))).mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
