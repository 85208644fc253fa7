"""How good matches are, where the homography between the images is known."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def project(xy: ArrayLike, homography: ArrayLike) -> NDArray[np.float64]:
    """Map points by a homography.

    Args:
        xy: ``[N, 2]`` in pixels of the first image.
        homography: ``[3, 3]``, from the first image to the second.

    Returns:
        ``[N, 2]`` in pixels of the second image; inf for what is behind its camera.

    Example:
        >>> project([(1, 2)], [[2, 0, 5], [0, 2, 0], [0, 0, 1]]).tolist()
        [[7.0, 4.0]]
    """
    points = np.asarray(xy, np.float64).reshape(-1, 2)
    H = np.asarray(homography, np.float64)
    # The sign of a homography is arbitrary; the image's origin is in front.
    x, y, depth = (np.concatenate([points, np.ones((len(points), 1))], axis=1) @ H.T).T
    front = depth * (H[2, 2] if H[2, 2] else 1.0) > 0
    safe = np.where(front, depth, 1.0)
    return np.where(front[:, None], np.stack([x / safe, y / safe], axis=1), np.inf)


def corner_error(estimate: ArrayLike | None, truth: ArrayLike, size: tuple[int, int]) -> float:
    """Return how far an estimated homography moves the corners of an image, the mean in pixels.

    Args:
        estimate: ``[3, 3]``; None counts as infinitely wrong.
        truth: ``[3, 3]``.
        size: Height and width of the first image.

    Example:
        >>> corner_error([[1, 0, 3], [0, 1, 4], [0, 0, 1]], np.eye(3), (40, 60))
        5.0
    """
    if estimate is None:
        return math.inf
    H, W = size
    corners = np.array([(0, 0), (W - 1, 0), (0, H - 1), (W - 1, H - 1)], np.float64)
    there, wanted = project(corners, estimate), project(corners, truth)
    if not (np.isfinite(there).all() and np.isfinite(wanted).all()):
        return math.inf
    return float(np.linalg.norm(there - wanted, axis=1).mean())


def area_under_recall(errors: Sequence[float], threshold: float) -> float:
    """Return the area under the share of pairs with at most an error, up to a threshold.

    The share rises linearly from one error to the next, and the area is in [0, 1].

    Args:
        errors: One for each pair, inf where nothing was found.
        threshold: Of the errors, in their unit.

    Returns:
        The area; NaN without pairs.

    Example:
        >>> area_under_recall([0.0, 10.0], threshold=5)
        0.5

    Reference:
        As in Sarlin et al., SuperGlue, CVPR 2020, section 5.1.
    """
    if not len(errors):
        return math.nan
    known = np.sort(np.asarray(errors, np.float64))
    known = known[known <= threshold]
    share = np.arange(1, len(known) + 1) / len(errors)
    x = np.concatenate([[0.0], known, [threshold]])
    y = np.concatenate([[0.0], share, [share[-1] if len(share) else 0.0]])
    return float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2 / threshold)


def average_precision(correct: ArrayLike, possible: int) -> float:
    """Return the average precision of ranked matches.

    Args:
        correct: ``[K]`` bool, the most certain match first.
        possible: How many could have been correct, found or not.

    Returns:
        The mean, over all that are possible, of the precision at each that was found; NaN if none
        is possible.

    Example:
        >>> average_precision([True, False, True, True], possible=4)
        0.6041666666666666

    Reference:
        Balntas et al., HPatches, CVPR 2017, section 5.2.
    """
    if possible == 0:
        return math.nan
    marks = np.asarray(correct, np.bool_)
    precision = np.cumsum(marks) / np.arange(1, len(marks) + 1)
    # Several keypoints may lie within reach of one place.
    return min(1.0, float(precision[marks].sum() / possible))


def area_under_precision(correct: ArrayLike, possible: int | None = None) -> float:
    """Return the area under precision over recall, straight between its points.

    Args:
        correct: ``[K]`` bool, the most certain first.
        possible: How many could have been correct; None takes those that are.

    Returns:
        The area, of a curve that begins with a precision of 1; NaN if none is possible.

    Example:
        >>> area_under_precision([True, False, True])
        0.7916666666666666

    Reference:
        Balntas et al., HPatches, CVPR 2017, as in their benchmark.
    """
    marks = np.asarray(correct, np.bool_)
    count = int(marks.sum()) if possible is None else possible
    if count == 0:
        return math.nan
    true = np.cumsum(marks)
    precision = np.concatenate([[1.0], true / np.arange(1, len(marks) + 1)])
    recall = np.concatenate([[0], true]) / count
    return float((np.diff(recall) * (precision[1:] + precision[:-1])).sum() / 2)


def area_under_roc(correct: ArrayLike) -> float:
    """Return the area under the receiver operating characteristic.

    Args:
        correct: ``[K]`` bool, the most certain first.

    Returns:
        The share of pairs of a correct and a wrong one whose order is right; NaN without any.

    Example:
        >>> area_under_roc([True, False, True, False])
        0.75
    """
    marks = np.asarray(correct, np.bool_)
    right, wrong = int(marks.sum()), int((~marks).sum())
    if not right or not wrong:
        return math.nan
    return float(np.cumsum(marks)[~marks].sum() / (right * wrong))


def false_positive_rate(alike: ArrayLike, different: ArrayLike, *, recall: float = 0.95) -> float:
    """Return which share of different pairs is accepted where 95 % of the true ones are: FPR95.

    Args:
        alike: Similarities ``[N]`` of patches of one point; more is closer.
        different: Similarities ``[M]`` of patches of two points.
        recall: Share of the true pairs that has to be accepted.

    Returns:
        In [0, 1], less is better; NaN if either is empty.

    Example:
        >>> false_positive_rate([3, 2, 1], [0, 1, 0.5, 2])
        0.5

    Reference:
        Brown, Hua and Winder, Discriminative Learning of Local Image Descriptors, PAMI 2011.
    """
    true, false = np.sort(np.asarray(alike, np.float64)), np.asarray(different, np.float64)
    if not true.size or not false.size:
        return math.nan
    # The highest threshold that still accepts enough.
    threshold = true[true.size - math.ceil(recall * true.size)]
    return float((false >= threshold).mean())
