"""Baseline of image alignment: SIFT matches and an affine fit."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmatch._opencv import SIFT_SHIFT, cv2
from flowmatch.align.transforms import AFFINE, identity
from flowmatch.imaging import Image, as_gray

_KEYPOINTS = 4000
_MIN_INLIERS = 6  # three matches fit any affine transform; three more confirm it


def sift_affine(
    first: Image, second: Image, *, ratio: float = 0.8, threshold: float = 3.0
) -> tuple[Tensor, bool]:
    """Fit an affine transform to SIFT matches by RANSAC.

    Args:
        first: RGB ``[H, W, 3]``.
        second: RGB, any size.
        ratio: Threshold of Lowe's ratio test.
        threshold: Maximum error of an inlier, pixels of the second image.

    Returns:
        The transform from points of the first image to points of the second, ``[1, 6]``, and
        whether it was found; else it is the identity.

    Example:
        >>> flat = np.zeros((40, 40, 3), np.uint8)
        >>> sift_affine(flat, flat)
        (tensor([[1., 0., 0., 0., 1., 0.]]), False)

    Reference:
        Lowe, IJCV 2004; Fischler & Bolles, CACM 1981.
    """
    sift = cv2.SIFT.create(_KEYPOINTS)
    (points0, descriptors0), (points1, descriptors1) = (
        sift.detectAndCompute(as_gray(image), None) for image in (first, second)
    )
    failure = identity(AFFINE), False
    if descriptors0 is None or descriptors1 is None:
        return failure
    if min(len(descriptors0), len(descriptors1)) < 2:
        return failure
    nearest = cv2.BFMatcher().knnMatch(descriptors0, descriptors1, k=2)
    matches = [best for best, other in nearest if best.distance < ratio * other.distance]
    if len(matches) < _MIN_INLIERS:
        return failure
    start = np.array([points0[match.queryIdx].pt for match in matches]) - SIFT_SHIFT
    end = np.array([points1[match.trainIdx].pt for match in matches]) - SIFT_SHIFT
    cv2.setRNGSeed(0)  # for reproducible results
    matrix, inlier = cv2.estimateAffine2D(
        start, end, method=cv2.RANSAC, ransacReprojThreshold=threshold, maxIters=5000
    )
    if matrix is None or inlier.sum() < _MIN_INLIERS:
        return failure
    return _in_half_images(np.asarray(matrix, np.float64), first.shape[:2], second.shape[:2]), True


def _in_half_images(
    matrix: NDArray[np.float64], first: tuple[int, ...], second: tuple[int, ...]
) -> Tensor:
    """Convert a transform of pixels, ``[2, 3]``, into one of half images, ``[1, 6]``."""

    def to_pixels(size: tuple[int, ...]) -> NDArray[np.float64]:
        H, W = size
        return np.array([[W / 2, 0, (W - 1) / 2], [0, H / 2, (H - 1) / 2], [0, 0, 1]])

    homogeneous = np.vstack([matrix, [0, 0, 1]])
    normalised = np.linalg.inv(to_pixels(second)) @ homogeneous @ to_pixels(first)
    return torch.from_numpy(normalised[:2].reshape(1, AFFINE)).float()
