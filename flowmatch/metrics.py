"""Metrics of rankings and of classifiers by a threshold, for all tasks."""

import math

import numpy as np
from numpy.typing import ArrayLike


def fpr_at_recall(positives: ArrayLike, negatives: ArrayLike, *, recall: float = 0.95) -> float:
    """Return the false positive rate at a recall; FPR95 by default.

    The threshold is the highest that still accepts the recall's share of the positives.

    Args:
        positives: Scores ``[N]`` of positive pairs; higher is more similar. Negate distances.
        negatives: Scores ``[M]`` of negative pairs.
        recall: Share of the positives that must be accepted, in (0, 1].

    Returns:
        Share of the negatives that are accepted, in [0, 1]; NaN without positives or negatives.

    Raises:
        ValueError: `recall` is out of range.

    Example:
        >>> fpr_at_recall([3, 2, 1], [0, 1, 0.5, 2])
        0.5

    Reference:
        Brown, Hua and Winder, Discriminative Learning of Local Image Descriptors, PAMI 2011; Zeng
        et al., 3DMatch, CVPR 2017, section 5.1.
    """
    if not 0 < recall <= 1:
        raise ValueError(f"expected 0 < recall <= 1, got {recall}")
    true, false = (np.asarray(scores, np.float64).ravel() for scores in (positives, negatives))
    if not true.size or not false.size:
        return math.nan
    threshold = np.sort(true)[true.size - math.ceil(recall * true.size)]
    return float((false >= threshold).mean())


def average_precision(
    correct: ArrayLike, positives: int | None = None, *, trapezoids: bool = False
) -> float:
    """Return the average precision of a ranking.

    Args:
        correct: ``[K]`` bool, whether the result at each rank is correct, best first.
        positives: Number of results that could be correct, retrieved or not; None takes those in
            `correct`.
        trapezoids: Interpolate the precision linearly between ranks, from 1 at rank 0, as the
            programs of Oxford and HPatches do. By default it is a mean of precisions.

    Returns:
        The area under precision over recall, in [0, 1]; NaN without positives.

    Raises:
        ValueError: `positives` is negative.

    Example:
        >>> average_precision([True, False, True, True], positives=4)
        0.6041666666666666
        >>> average_precision([True, False, True], trapezoids=True)
        0.7916666666666666

    Reference:
        Balntas et al., HPatches, CVPR 2017, section 5.2; Philbin et al., Object Retrieval with
        Large Vocabularies and Fast Spatial Matching, CVPR 2007.
    """
    marks = np.asarray(correct, np.bool_).ravel()
    count = int(marks.sum()) if positives is None else positives
    if count < 0:
        raise ValueError(f"positives must not be negative, got {positives}")
    if count == 0:
        return math.nan
    precision = np.cumsum(marks) / np.arange(1, len(marks) + 1)
    if trapezoids:
        precision = (precision + np.concatenate([[1.0], precision[:-1]])[: len(marks)]) / 2
    # Two correct results may count for one positive, so that the sum may exceed 1.
    return min(1.0, float(precision[marks].sum() / count))


def area_under_roc(correct: ArrayLike) -> float:
    """Return the area under the receiver operating characteristic of a ranking.

    Args:
        correct: ``[K]`` bool, whether the result at each rank is correct, best first.

    Returns:
        Share of pairs of a correct and a wrong result that are in the right order, in [0, 1]; NaN
        without such pairs.

    Example:
        >>> area_under_roc([True, False, True, False])
        0.75
    """
    marks = np.asarray(correct, np.bool_).ravel()
    right, wrong = int(marks.sum()), int((~marks).sum())
    if not right or not wrong:
        return math.nan
    return float(np.cumsum(marks)[~marks].sum() / (right * wrong))
