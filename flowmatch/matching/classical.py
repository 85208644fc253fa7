"""OpenCV's descriptors of keypoints: SIFT, RootSIFT and ORB, as arrays and without PyTorch."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import SIFT_SHIFT, cv2
from flowmatch.imaging import as_gray
from flowmatch.matching.keypoints import MAGNIFICATION, ORB_FACTOR, Keypoints, level_scales

CLASSICAL = ("rootsift", "sift", "orb")
"""Names of the descriptors that need no network."""

# OpenCV's constants: blur of SIFT's first layer and layers per octave; side of ORB's patch and
# number of its levels.
_SIFT_SIGMA, _SIFT_LAYERS = 1.6, 3
_ORB_SIDE, _ORB_LEVELS = 31, 8


def describe_classically(image: ArrayLike, keypoints: Keypoints, name: str) -> NDArray[Any]:
    """Describe the keypoints of an image.

    Args:
        image: uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        keypoints: N keypoints of this image.
        name: One of `CLASSICAL`.

    Returns:
        Float32 ``[N, 128]``; for ``"orb"`` uint8 ``[N, 32]``.
    """
    gray = as_gray(image)
    if name == "orb":
        return _orb(gray, keypoints)
    sift = _sift(gray, keypoints)
    return root_sift(sift) if name == "rootsift" else sift


def root_sift(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return SIFT's descriptors ``[N, 128]`` as RootSIFT's.

    The l2 distance of the square roots of l1-normalised vectors is the Hellinger distance.
    """
    total = np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-7)
    return np.asarray(np.sqrt(descriptors / total), np.float32)


def _sift(gray: NDArray[np.uint8], keypoints: Keypoints) -> NDArray[np.float32]:
    # OpenCV's SIFT needs the octave and layer of its pyramid; they follow from the scale.
    steps = np.rint(_SIFT_LAYERS * np.log2(np.maximum(keypoints.scale, 0.5) / _SIFT_SIGMA))
    octave, layer = np.divmod(steps.astype(np.int64) - 1, _SIFT_LAYERS)
    # From the image enlarged twice to the last level that is not empty.
    octave = np.clip(octave, -1, max(-1, min(gray.shape).bit_length() - 3))
    packed = (octave & 255) | (layer + 1) << 8
    xy = keypoints.xy + SIFT_SHIFT
    points = _opencv_keypoints(keypoints, xy, 2 * keypoints.scale, packed)
    if not points:
        return np.empty((0, 128), np.float32)
    _, descriptors = cv2.SIFT.create().compute(gray, points)
    return np.asarray(descriptors, np.float32)


def _orb(gray: NDArray[np.uint8], keypoints: Keypoints) -> NDArray[np.uint8]:
    side = 2 * MAGNIFICATION * keypoints.scale
    level = np.rint(np.log(np.maximum(side, 1) / _ORB_SIDE) / np.log(ORB_FACTOR))
    level = np.clip(level, 0, _ORB_LEVELS - 1).astype(np.int64)
    # ORB skips keypoints close to the border; their descriptors stay zero.
    result = np.zeros((len(level), 32), np.uint8)
    scales, factors = level_scales(gray.shape, level)
    xy = ((keypoints.xy + 0.5) / factors - 0.5) * scales[:, None]
    points = _opencv_keypoints(keypoints, xy, side, level)
    if not points:
        return result
    kept, descriptors = cv2.ORB.create(nlevels=_ORB_LEVELS).compute(gray, points)
    if descriptors is not None:
        result[[point.class_id for point in kept]] = descriptors
    return result


def _opencv_keypoints(
    keypoints: Keypoints, xy: NDArray[Any], size: NDArray[Any], octave: NDArray[np.int64]
) -> list[Any]:
    degrees = np.rad2deg(keypoints.angle) % 360
    columns = (*xy.T, size, degrees, keypoints.score, octave, np.arange(len(octave)))
    return [cv2.KeyPoint(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]
