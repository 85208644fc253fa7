"""Images as arrays: the type aliases, the checks and the conversions that every task shares."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2

Image = NDArray[np.uint8]
"""A picture, ``[H, W, 3]`` RGB or ``[H, W]`` gray."""
Generator = np.random.Generator
"""A source of random numbers."""


def check_image(image: ArrayLike, name: str = "image") -> Image:
    """Return an image as an array, not copied.

    Args:
        image: Picture, uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``, not empty.
        name: Name of the argument in the error message.

    Raises:
        ValueError: The image has another type or shape.

    Example:
        >>> check_image(np.zeros((4, 6), np.uint8)).shape
        (4, 6)
    """
    pixels: NDArray[Any] = np.asarray(image)
    is_rgb = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (is_rgb or pixels.ndim == 2) or pixels.size == 0:
        raise ValueError(
            f"{name} must be uint8 RGB [H, W, 3] or gray [H, W], "
            f"got {pixels.dtype} {list(pixels.shape)}"
        )
    return pixels


def as_rgb(image: ArrayLike, name: str = "image") -> Image:
    """Return an image as contiguous RGB ``[H, W, 3]``; gray is repeated.

    Raises:
        ValueError: The image is not uint8 RGB or gray.

    Example:
        >>> as_rgb(np.zeros((4, 6), np.uint8)).shape
        (4, 6, 3)
    """
    pixels = check_image(image, name)
    return np.ascontiguousarray(
        pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    )


def as_gray(image: ArrayLike, name: str = "image") -> Image:
    """Return an image as contiguous gray ``[H, W]``, the luma of Rec. 601.

    Raises:
        ValueError: The image is not uint8 RGB or gray.

    Example:
        >>> as_gray(np.full((4, 6, 3), 9, np.uint8))[0, 0].item()
        9
    """
    pixels = check_image(image, name)
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else pixels
    return np.ascontiguousarray(gray, np.uint8)


def resize(image: Image, size: tuple[int, int], interpolation: int = cv2.INTER_AREA) -> Image:
    """Return an image resized to a width and height.

    Args:
        image: Picture of any number of channels.
        size: Width and height in pixels.
        interpolation: A constant of OpenCV; the default averages over each new pixel, so that
            fine texture does not alias in a smaller image.

    Example:
        >>> resize(np.zeros((4, 6, 3), np.uint8), (3, 2)).shape
        (2, 3, 3)
    """
    return np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8)


def resize_within(image: Image, longest: int) -> Image:
    """Return an image reduced so that its longer side is at most `longest`; never enlarged.

    Example:
        >>> resize_within(np.zeros((40, 60, 3), np.uint8), 30).shape
        (20, 30, 3)
    """
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    return resize(image, (max(1, round(width * scale)), max(1, round(height * scale))))
