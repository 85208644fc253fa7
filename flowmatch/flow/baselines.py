"""Classical optical flow from OpenCV: what a network has to beat, and no motion at all."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.flow.refine import refine_flow

Image = NDArray[np.uint8]
Flow = NDArray[np.float32]

# Two of its patches. OpenCV 5.0 checks for less, and then some sizes end the process (12 x 40).
_SMALLEST_FOR_DIS = 16


def zero(first: Image, second: Image) -> Flow:
    """Claim that nothing moves: its error is the mean length of the true flow.

    Args:
        first: Picture ``[H, W, 3]``, RGB.
        second: Picture of the same size.

    Returns:
        Flow ``[H, W, 2]`` of zeros.

    Raises:
        ValueError: The pictures are not uint8 RGB of one size.

    Example:
        >>> picture = np.zeros((16, 24, 3), np.uint8)
        >>> zero(picture, picture).shape
        (16, 24, 2)
    """
    _check(first, second)
    return np.zeros((*first.shape[:2], 2), np.float32)


def farneback(first: Image, second: Image) -> Flow:
    """Estimate flow by expanding neighbourhoods into polynomials.

    A pyramid of 5 levels by 0.5, windows of 15 pixels, 3 iterations, polynomials over 5 pixels
    with sigma 1.2: OpenCV's usual parameters with two more levels, for larger motion.

    Args:
        first: Picture ``[H, W, 3]``, RGB.
        second: Picture of the same size.

    Returns:
        Flow ``[H, W, 2]``, in pixels.

    Raises:
        ValueError: The pictures are not uint8 RGB of one size.

    Example:
        >>> picture = np.zeros((16, 24, 3), np.uint8)
        >>> float(farneback(picture, picture).max())
        0.0

    Reference:
        Farnebäck, Two-Frame Motion Estimation Based on Polynomial Expansion, SCIA 2003.
    """
    grays = _to_gray(first, second)
    unused = zero(first, second)  # an initial flow, which flags = 0 ignores
    flow = cv2.calcOpticalFlowFarneback(*grays, unused, 0.5, 5, 15, 3, 5, 1.2, 0)
    return np.asarray(flow, np.float32)


def dis(first: Image, second: Image) -> Flow:
    """Estimate flow by dense inverse search, OpenCV's medium preset.

    Args:
        first: Picture ``[H, W, 3]``, RGB.
        second: Picture of the same size.

    Returns:
        Flow ``[H, W, 2]``, in pixels.

    Raises:
        ValueError: The pictures are not uint8 RGB of one size, or are too small for it.

    Example:
        >>> picture = np.zeros((16, 24, 3), np.uint8)
        >>> float(dis(picture, picture).max())
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
    """Estimate flow by `dis`, and refine it as `refine_flow` does a network's.

    Example:
        >>> picture = np.zeros((16, 24, 3), np.uint8)
        >>> float(dis_refined(picture, picture).max())
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
    return (
        np.asarray(cv2.cvtColor(first, cv2.COLOR_RGB2GRAY), np.uint8),
        np.asarray(cv2.cvtColor(second, cv2.COLOR_RGB2GRAY), np.uint8),
    )


def _check(first: Image, second: Image) -> None:
    for picture in (first, second):
        right = picture.ndim == 3 and picture.shape == first.shape and picture.shape[2] == 3
        if not right or picture.dtype != np.uint8:
            raise ValueError(
                f"first and second must be uint8 [H, W, 3] of one size, got "
                f"{first.dtype} {list(first.shape)} and {second.dtype} {list(second.shape)}"
            )
