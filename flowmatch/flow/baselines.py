"""Classical optical flow from OpenCV, and zero flow, for comparison with networks."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.flow.refine import refine_flow
from flowmatch.imaging import Image, as_gray

Flow = NDArray[np.float32]

# The side of two patches of DIS. OpenCV 5.0 accepts less, and aborts at some sizes (12 x 40).
_SMALLEST_FOR_DIS = 16


def zero(first: Image, second: Image) -> Flow:
    """Return zero flow, whose error is the mean length of the true flow.

    Args:
        first: Image ``[H, W, 3]``, RGB.
        second: The later image, of the same size.

    Returns:
        Flow ``[H, W, 2]`` of zeros.

    Raises:
        ValueError: The images are not uint8 RGB of one size.

    Example:
        >>> image = np.zeros((16, 24, 3), np.uint8)
        >>> zero(image, image).shape
        (16, 24, 2)
    """
    _check(first, second)
    return np.zeros((*first.shape[:2], 2), np.float32)


def farneback(first: Image, second: Image) -> Flow:
    """Estimate flow by polynomial expansion of neighbourhoods.

    Parameters are OpenCV's usual ones with two more levels, for larger motion: a pyramid of 5
    levels by 0.5, windows of 15 pixels, 3 iterations, polynomials over 5 pixels with sigma 1.2.

    Args:
        first: Image ``[H, W, 3]``, RGB.
        second: The later image, of the same size.

    Returns:
        Flow ``[H, W, 2]``, in pixels.

    Raises:
        ValueError: The images are not uint8 RGB of one size.

    Example:
        >>> image = np.zeros((16, 24, 3), np.uint8)
        >>> float(farneback(image, image).max())
        0.0

    Reference:
        Farnebäck, Two-Frame Motion Estimation Based on Polynomial Expansion, SCIA 2003.
    """
    grays = _to_gray(first, second)
    unused = np.zeros((*first.shape[:2], 2), np.float32)  # initial flow, ignored with flags = 0
    flow = cv2.calcOpticalFlowFarneback(*grays, unused, 0.5, 5, 15, 3, 5, 1.2, 0)
    return np.asarray(flow, np.float32)


def dis(first: Image, second: Image) -> Flow:
    """Estimate flow by dense inverse search, OpenCV's medium preset.

    Args:
        first: Image ``[H, W, 3]``, RGB.
        second: The later image, of the same size.

    Returns:
        Flow ``[H, W, 2]``, in pixels.

    Raises:
        ValueError: The images are not uint8 RGB of one size, or are smaller than 16 pixels to a
            side.

    Example:
        >>> image = np.zeros((16, 24, 3), np.uint8)
        >>> float(dis(image, image).max())
        0.0

    Reference:
        Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016.
    """
    grays = _to_gray(first, second)
    if min(first.shape[:2]) < _SMALLEST_FOR_DIS:
        raise ValueError(
            f"DIS needs at least {_SMALLEST_FOR_DIS} pixels to a side, got {list(first.shape[:2])}"
        )
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.asarray(search.calc(*grays, None), np.float32)  # type: ignore[call-overload]


def dis_refined(first: Image, second: Image) -> Flow:
    """Estimate flow by `dis`, refined by `refine_flow`.

    Example:
        >>> image = np.zeros((16, 24, 3), np.uint8)
        >>> float(dis_refined(image, image).max())
        0.0
    """
    return refine_flow(first, second, dis(first, second))


BASELINES: dict[str, Callable[[Image, Image], Flow]] = {
    "dis": dis,
    "dis+refine": dis_refined,
    "farneback": farneback,
    "zero": zero,
}


def _to_gray(first: Image, second: Image) -> tuple[Image, Image]:
    _check(first, second)
    return as_gray(first), as_gray(second)


def _check(first: Image, second: Image) -> None:
    for image in (first, second):
        fits = image.ndim == 3 and image.shape == first.shape and image.shape[2] == 3
        if not fits or image.dtype != np.uint8:
            raise ValueError(
                f"first and second must be uint8 [H, W, 3] of one size, got "
                f"{first.dtype} {list(first.shape)} and {second.dtype} {list(second.shape)}"
            )
