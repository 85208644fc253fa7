"""Parallax: whether photos were taken from one place, by what rotating cameras leave over."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.stitch.matching import Pair, View

Array = NDArray[np.float64]

FAR = 0.0125
"""Distance of matched points that is visible as a ghost, in diagonals of a photo."""
MANY = 0.1
"""Share of such points above which photos were not taken from one place."""
_MAX_PAIRS = 60
_THRESHOLD = 1.5  # of the epipolar geometry, pixels of the reduced photos
_MIN_MATCHES = 30


def measure_parallax(
    views: Sequence[View],
    pairs: Sequence[Pair],
    intrinsics: Sequence[Array],
    rotations: Sequence[Array],
) -> float:
    """Return the share of matched points that cameras at one place bring more than `FAR` apart.

    Inliers of a homography are near each other by construction. So the points are those that agree
    on an epipolar geometry, as all points do that do not move, wherever the cameras are.

    Args:
        views: Views of one group.
        pairs: Confident pairs of them.
        intrinsics: Camera matrices, ``[3, 3]`` each, for the reduced photos.
        rotations: Rotations, ``[3, 3]`` each.

    Returns:
        A share of all points; 0 if no pair has enough of them.
    """
    far, count = 0, 0
    for pair in pairs[:: max(1, len(pairs) // _MAX_PAIRS)]:
        a, b = (points.astype(np.float64) for points in pair.matches.points())
        if len(a) < _MIN_MATCHES:
            continue
        agrees = pair.matches.inliers.copy()
        try:
            _, mask = cv2.findFundamentalMat(a, b, cv2.USAC_MAGSAC, _THRESHOLD, 0.999, 2000)
        except cv2.error:  # "!model.empty()": photos of one place determine no epipolar geometry
            mask = None
        if mask is not None:
            agrees |= np.asarray(mask).ravel() != 0
        i, j = pair.first, pair.second
        moved = intrinsics[j] @ rotations[j].T @ rotations[i] @ np.linalg.inv(intrinsics[i])
        there = np.column_stack([a, np.ones(len(a))]) @ moved.T
        behind = there[:, 2] <= 0
        distance = np.hypot(*(there[:, :2] / there[:, 2:] - b).T)
        limit = FAR * np.hypot(*views[j].size)
        far += int(((distance > limit) | behind)[agrees].sum())
        count += int(agrees.sum())
    return far / max(1, count)
