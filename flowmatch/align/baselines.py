"""Baseline of image alignment: SIFT matches and an affine fit."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmatch._opencv import SIFT_SHIFT, cv2
from flowmatch.align.transforms import AFFINE, identity
from flowmatch.imaging import Image, as_gray

_KEYPOINTS = 4000
_MIN_INLIERS = 6  # three matches fit any affine transform; three more confirm it


class AffineFit(NamedTuple):
    """An affine transform that was fitted to matches.

    Attributes:
        theta: Transform from points of the first image to points of the second, ``[1, 6]``; the
            identity if none was found.
        found: Whether enough matches agree.
        error: Median residual of the matches that agree, in pixels; None without.
        inliers: Share of the matches that agree; None without matches.
    """

    theta: Tensor
    found: bool
    error: float | None = None
    inliers: float | None = None


def sift_affine(
    first: Image, second: Image, *, ratio: float = 0.8, threshold: float = 3.0
) -> AffineFit:
    """Fit an affine transform to SIFT matches by RANSAC.

    Args:
        first: RGB ``[H, W, 3]``.
        second: RGB, any size.
        ratio: Threshold of Lowe's ratio test.
        threshold: Maximum error of an inlier, pixels of the second image.

    Example:
        >>> flat = np.zeros((40, 40, 3), np.uint8)
        >>> sift_affine(flat, flat)[:2]
        (tensor([[1., 0., 0., 0., 1., 0.]]), False)

    Reference:
        Lowe, IJCV 2004; Fischler & Bolles, CACM 1981.
    """
    sift = cv2.SIFT.create(_KEYPOINTS)
    (points0, descriptors0), (points1, descriptors1) = (
        sift.detectAndCompute(as_gray(image), None) for image in (first, second)
    )
    failure = AffineFit(identity(AFFINE), False)
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
    agree = np.asarray(inlier).ravel().astype(bool)
    share = float(agree.mean())
    if matrix is None or agree.sum() < _MIN_INLIERS:
        return failure._replace(inliers=share)
    residuals = np.linalg.norm(start @ matrix[:, :2].T + matrix[:, 2] - end, axis=1)
    theta = _in_half_images(np.asarray(matrix, np.float64), first.shape[:2], second.shape[:2])
    return AffineFit(theta, True, float(np.median(residuals[agree])), share)


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
