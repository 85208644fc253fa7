"""Keypoints of images, by OpenCV's detectors."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import SIFT_SHIFT, cv2
from flowmatch.imaging import as_gray

DETECTORS = ("sift", "orb", "grid")

# Half the side of a patch, in keypoint scales, as for HardNet.
MAGNIFICATION = 6.0
# Half the side of the patches of a grid, and of other keypoints without a scale, pixels.
GRID_RADIUS = 16.0
ORB_FACTOR = 1.2  # ratio of the sides of two levels of ORB's pyramid
_MIN_SIDE = 12  # side of the smallest image in which the detectors can find a keypoint


class Keypoints(NamedTuple):
    """Keypoints of an image: positions with a scale and an orientation.

    Attributes:
        xy: ``[N, 2]`` float32, pixels; the centre of the upper left pixel is (0, 0).
        scale: ``[N]`` float32, pixels: standard deviation of the blur at which the detector
            responds most. A patch extends `MAGNIFICATION` scales to each side.
        angle: ``[N]`` float32, radians: orientation, from x towards y.
        score: ``[N]`` float32, response of the detector; higher is better.
    """

    xy: NDArray[np.float32]
    scale: NDArray[np.float32]
    angle: NDArray[np.float32]
    score: NDArray[np.float32]

    def select(self, index: NDArray[Any] | slice) -> "Keypoints":
        """Return the keypoints at an index array, in a slice, or where a mask is true."""
        return Keypoints(*(array[index] for array in self))

    def inside(self, mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which keypoints are further than their scale from transparent pixels.

        Args:
            mask: ``[H, W]``, 0 where the image is transparent.

        Returns:
            ``[N]``.

        Example:
            >>> ones = np.ones(2, np.float32)
            >>> keypoints = Keypoints(np.float32([(2, 4), (7, 4)]), ones, ones, ones)
            >>> keypoints.inside(np.uint8([[255] * 5 + [0] * 5] * 9)).tolist()
            [True, False]
        """
        distance = np.asarray(cv2.distanceTransform(mask, cv2.DIST_L2, 5))
        x, y = np.round(self.xy).astype(np.intp).T
        at = distance[y.clip(0, mask.shape[0] - 1), x.clip(0, mask.shape[1] - 1)]
        return np.asarray(at > self.scale)


@runtime_checkable
class KeypointDetector(Protocol):
    """Interface of networks that detect keypoints, which another network describes."""

    def detect(self, image: ArrayLike, keypoints: int) -> Keypoints:
        """Detect at most `keypoints` keypoints in a uint8 image, in order of decreasing score."""


def detect_keypoints(
    image: ArrayLike, detector: str | KeypointDetector = "sift", *, keypoints: int = 8000
) -> Keypoints:
    """Detect keypoints, in order of decreasing score.

    Args:
        image: uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        detector: ``"sift"``: blobs of any size, with an orientation; ``"orb"``: corners, with an
            orientation, faster; ``"grid"``: upright patches of 32 pixels, evenly spaced; or a
            network, see `flowmatch.matching.learned.detectors.load_detector`.
        keypoints: Maximum number of keypoints.

    Returns:
        Keypoints, possibly none.

    Raises:
        ValueError: `detector` is unknown, `image` is not an image, or `keypoints` is not positive.

    Example:
        >>> detect_keypoints(np.zeros((64, 96), np.uint8), "grid", keypoints=6).xy[:3].tolist()
        [[25.5, 20.5], [47.5, 20.5], [69.5, 20.5]]

    Reference:
        Lowe, IJCV 2004; Rublee et al., ORB, ICCV 2011; both in OpenCV's implementation.
    """
    gray = as_gray(image)
    if not isinstance(detector, str):
        return detector.detect(image, keypoints)
    if detector not in DETECTORS:
        raise ValueError(f"detector must be one of {', '.join(DETECTORS)}, got {detector!r}")
    if keypoints < 1:
        raise ValueError(f"keypoints must be positive, got {keypoints}")
    if detector == "grid":
        return _grid(gray.shape[0], gray.shape[1], keypoints)
    create = cv2.SIFT.create if detector == "sift" else cv2.ORB.create
    # OpenCV fails if a level of its pyramid is empty; images that small have no keypoints anyway.
    is_large = min(gray.shape) >= _MIN_SIDE
    detected = create(nfeatures=keypoints).detect(gray, None) if is_large else ()
    columns = _columns([detected[k] for k in _by_score(detected)[:keypoints]])
    if detector == "sift":
        return _from_sift(columns)
    xy, (size, angle, score, octave) = columns[:, :2], columns[:, 2:].T
    scales, factors = level_scales(gray.shape, octave)
    xy = ((xy / scales[:, None] + 0.5) * factors - 0.5).astype(np.float32)
    # ORB's size is the side of the patch it describes, 31 pixels at level 0.
    return Keypoints(xy, size / (2 * MAGNIFICATION), np.deg2rad(angle), score)


def detect_and_describe_sift(
    image: ArrayLike, keypoints: int
) -> tuple[Keypoints, NDArray[np.float32]]:
    """Detect SIFT's keypoints and describe them by SIFT on the same pyramid.

    Args:
        image: uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        keypoints: Maximum number of keypoints.

    Returns:
        Keypoints as of `detect_keypoints`, and their descriptors, ``[N, 128]``, as of
        `describe_keypoints` with ``"sift"`` but for rounding.

    Raises:
        ValueError: `image` is not an image, or `keypoints` is not positive.
    """
    gray = as_gray(image)
    if keypoints < 1:
        raise ValueError(f"keypoints must be positive, got {keypoints}")
    detected: Any = ()
    if min(gray.shape) >= _MIN_SIDE:
        detected, described = cv2.SIFT.create(nfeatures=keypoints).detectAndCompute(gray, None)
    if not detected:
        return _from_sift(_columns([])), np.empty((0, 128), np.float32)
    order = _by_score(detected)[:keypoints]
    return _from_sift(_columns([detected[k] for k in order])), np.asarray(described[order])


def _by_score(detected: Sequence[Any]) -> list[int]:
    """Return the order of decreasing score; equal scores are in reading order: results repeat."""

    def key(k: int) -> tuple[float, ...]:
        point = detected[k]
        return (-point.response, point.pt[1], point.pt[0], point.size, point.angle)

    return sorted(range(len(detected)), key=key)


def _columns(detected: Sequence[Any]) -> NDArray[np.float32]:
    """Return x, y, size, angle, response and octave of OpenCV's keypoints, ``[N, 6]``."""
    rows = [(*k.pt, k.size, k.angle, k.response, k.octave) for k in detected]
    return np.array(rows, np.float32).reshape(-1, 6)


def _from_sift(columns: NDArray[np.float32]) -> Keypoints:
    size, angle, score = columns[:, 2:5].T
    # SIFT's size is two scales.
    return Keypoints(columns[:, :2] - np.float32(SIFT_SHIFT), size / 2, np.deg2rad(angle), score)


def level_scales(
    shape: tuple[int, ...], level: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the two scales of levels of ORB's pyramid.

    OpenCV multiplies the positions in a level by a power of `ORB_FACTOR`, as if the centre of the
    upper left pixel were a fixed point. What is fixed is that pixel's corner; and the sides of a
    level are whole numbers.

    Args:
        shape: Height and width of the image.
        level: ``[N]``, level of each keypoint, from 0.

    Returns:
        The powers by which OpenCV multiplies, ``[N]``, and the true ratios of the widths and
        heights of image and level, ``[N, 2]``.
    """
    scales = ORB_FACTOR ** level.astype(np.float64)
    sides = np.array([shape[1], shape[0]], np.float64)
    return scales, sides / np.rint(sides / scales[:, None])


def _grid(H: int, W: int, keypoints: int) -> Keypoints:
    """Return the densest grid of at most that many keypoints, a whole number of pixels apart."""
    inner_h, inner_w = (max(0, side - round(2 * GRID_RADIUS)) for side in (H, W))

    def points(step: int) -> tuple[int, int]:
        return inner_h // step + 1, inner_w // step + 1

    step = 4
    while math.prod(points(step)) > keypoints:
        step += 1
    rows, columns = points(step)
    # Centred: opposite margins are equal.
    top = ((H - 1) - (rows - 1) * step) / 2
    left = ((W - 1) - (columns - 1) * step) / 2
    y, x = np.mgrid[:rows, :columns].astype(np.float32) * np.float32(step)
    xy = np.stack([x + np.float32(left), y + np.float32(top)], axis=-1).reshape(-1, 2)
    N = len(xy)
    scale = np.full(N, GRID_RADIUS / MAGNIFICATION, np.float32)
    return Keypoints(xy, scale, np.zeros(N, np.float32), np.ones(N, np.float32))
