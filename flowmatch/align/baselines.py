"""What an alignment network is compared with: doing nothing, and keypoints with an affine fit."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmatch._opencv import cv2
from flowmatch.align.transforms import AFFINE, identity

Image = NDArray[np.uint8]

_KEYPOINTS = 4000
_LEAST_INLIERS = 6  # three pairs fit any affine transform; as many again say that it is one


def sift_affine(
    first: Image, second: Image, *, ratio: float = 0.8, threshold: float = 3.0
) -> tuple[Tensor, bool]:
    """Fit an affine transform to SIFT matches by RANSAC.

    Args:
        first: RGB ``[H, W, 3]``.
        second: RGB, any size.
        ratio: Of Lowe's test.
        threshold: Error of an inlier, pixels of the second picture.

    Returns:
        The transform from points of the first picture to points of the second, ``[1, 6]``, and
        whether one was found; else it is the identity.

    Example:
        >>> flat = np.zeros((40, 40, 3), np.uint8)
        >>> sift_affine(flat, flat)
        (tensor([[1., 0., 0., 0., 1., 0.]]), False)

    Reference:
        Lowe, IJCV 2004; Fischler & Bolles, CACM 1981.
    """
    sift = cv2.SIFT.create(_KEYPOINTS)
    found = [
        sift.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)
        for image in (first, second)
    ]
    (points, words), (other_points, other_words) = found
    still = identity(AFFINE), False
    if words is None or other_words is None or len(words) < 2 or len(other_words) < 2:
        return still
    nearest = cv2.BFMatcher().knnMatch(words, other_words, k=2)
    good = [one for one, two in nearest if one.distance < ratio * two.distance]
    if len(good) < _LEAST_INLIERS:
        return still
    start = np.array([points[match.queryIdx].pt for match in good])
    end = np.array([other_points[match.trainIdx].pt for match in good])
    cv2.setRNGSeed(0)  # the same pictures, the same transform
    matrix, inlier = cv2.estimateAffine2D(
        start, end, method=cv2.RANSAC, ransacReprojThreshold=threshold, maxIters=5000
    )
    if matrix is None or inlier.sum() < _LEAST_INLIERS:
        return still
    return _in_half_pictures(
        np.asarray(matrix, np.float64), first.shape[:2], second.shape[:2]
    ), True


def _in_half_pictures(
    matrix: NDArray[np.float64], first: tuple[int, ...], second: tuple[int, ...]
) -> Tensor:
    """Turn a transform of pixels, ``[2, 3]``, into one of half pictures, ``[1, 6]``."""

    def to_pixels(size: tuple[int, ...]) -> NDArray[np.float64]:
        H, W = size
        return np.array([[W / 2, 0, (W - 1) / 2], [0, H / 2, (H - 1) / 2], [0, 0, 1]])

    whole = np.vstack([matrix, [0, 0, 1]])
    turned = np.linalg.inv(to_pixels(second)) @ whole @ to_pixels(first)
    return torch.from_numpy(turned[:2].reshape(1, AFFINE)).float()
