"""Metrics of matches for images with a known homography."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def project(xy: ArrayLike, homography: ArrayLike) -> NDArray[np.float64]:
    """Map points by a homography.

    Args:
        xy: Points ``[N, 2]`` in pixels of the first image.
        homography: Homography ``[3, 3]`` from the first image to the second.

    Returns:
        Points ``[N, 2]`` in pixels of the second image; inf for points behind its camera.

    Example:
        >>> project([(1, 2)], [[2, 0, 5], [0, 2, 0], [0, 0, 1]]).tolist()
        [[7.0, 4.0]]
    """
    points = np.asarray(xy, np.float64).reshape(-1, 2)
    H = np.asarray(homography, np.float64)
    # The sign of a homography is arbitrary; the image's origin is taken to be in front.
    x, y, depth = (np.concatenate([points, np.ones((len(points), 1))], axis=1) @ H.T).T
    front = depth * (H[2, 2] if H[2, 2] else 1.0) > 0
    safe = np.where(front, depth, 1.0)
    return np.where(front[:, None], np.stack([x / safe, y / safe], axis=1), np.inf)


def corner_error(estimate: ArrayLike | None, truth: ArrayLike, size: tuple[int, int]) -> float:
    """Return the mean distance of the corners of an image under two homographies, pixels.

    Args:
        estimate: Estimated homography ``[3, 3]``; None gives inf.
        truth: True homography ``[3, 3]``.
        size: Height and width of the first image.

    Example:
        >>> corner_error([[1, 0, 3], [0, 1, 4], [0, 0, 1]], np.eye(3), (40, 60))
        5.0
    """
    if estimate is None:
        return math.inf
    H, W = size
    corners = np.array([(0, 0), (W - 1, 0), (0, H - 1), (W - 1, H - 1)], np.float64)
    ours, expected = project(corners, estimate), project(corners, truth)
    if not (np.isfinite(ours).all() and np.isfinite(expected).all()):
        return math.inf
    return float(np.linalg.norm(ours - expected, axis=1).mean())


def area_under_recall(errors: Sequence[float], threshold: float) -> float:
    """Return the area under the recall over the error, up to a threshold (AUC).

    The recall is the share of pairs with at most an error, linear between the errors.

    Args:
        errors: Error of each pair; inf for a failure.
        threshold: Largest error, in the unit of `errors`.

    Returns:
        Area divided by `threshold`, in [0, 1]; NaN without pairs.

    Example:
        >>> area_under_recall([0.0, 10.0], threshold=5)
        0.5

    Reference:
        Sarlin et al., SuperGlue, CVPR 2020, section 5.1.
    """
    if not len(errors):
        return math.nan
    known = np.sort(np.asarray(errors, np.float64))
    known = known[known <= threshold]
    share = np.arange(1, len(known) + 1) / len(errors)
    x = np.concatenate([[0.0], known, [threshold]])
    y = np.concatenate([[0.0], share, [share[-1] if len(share) else 0.0]])
    return float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2 / threshold)
