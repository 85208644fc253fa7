"""Boxes: checks, overlap, and the crops around them that a network sees.

A box is ``(x, y, width, height)`` in pixels; (0, 0) is the upper left corner of the picture, so a
pixel covers one unit.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import Image, resize

Boxes = NDArray[np.float64]
"""Boxes, ``[..., 4]``: x, y, width, height."""
CONTEXT = 2.0
"""Side of a crop in sides of its box (Held et al., section 3.2)."""
SMALLEST = 4.0
"""Least side of a box that can be tracked, in pixels."""


class Region(NamedTuple):
    """A rectangle of whole pixels; it may reach outside the picture.

    Attributes:
        left: First column.
        top: First row.
        right: Column after the last.
        bottom: Row after the last.
    """

    left: int
    top: int
    right: int
    bottom: int


def check_boxes(boxes: ArrayLike, size: tuple[int, int]) -> Boxes:
    """Return boxes ``[N, 4]`` as float64.

    Args:
        boxes: One box or several, ``[4]`` or ``[N, 4]``.
        size: Height and width of the picture.

    Raises:
        ValueError: A box is not four finite numbers, is smaller than `SMALLEST`, or reaches outside
            the picture.

    Example:
        >>> check_boxes((10, 20, 30, 40), (100, 100)).tolist()
        [[10.0, 20.0, 30.0, 40.0]]
    """
    try:
        array = np.array(boxes, np.float64)
    except (TypeError, ValueError):
        raise ValueError("boxes must be numbers [N, 4]: x, y, width, height") from None
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] != 4 or not len(array):
        raise ValueError(f"boxes must be [N, 4]: x, y, width, height; got {list(array.shape)}")
    height, width = size
    for box in array:
        x, y, w, h = box.tolist()
        text = ",".join(f"{value:g}" for value in box)
        if not np.isfinite(box).all():
            raise ValueError(f"a box must be four finite numbers, got {text}")
        if min(w, h) < SMALLEST:
            raise ValueError(f"a box must be at least {SMALLEST:g} pixels to a side, got {text}")
        if x < 0 or y < 0 or x + w > width or y + h > height:
            raise ValueError(
                f"a box must lie in the frame of {width} x {height} pixels, got {text}"
            )
    return array


def box_iou(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Return the intersection over union of boxes ``[..., 4]``, NaN where a number is NaN.

    Example:
        >>> round(float(box_iou((0, 0, 2, 1), (1, 0, 2, 1))), 3)
        0.333
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    shared = (high - low).clip(0).prod(-1)
    return np.asarray(shared / (a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - shared), np.float64)


def inside_share(boxes: ArrayLike, size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the share of each box ``[..., 4]`` that lies in a picture of height and width `size`.

    Example:
        >>> inside_share([(-5, 0, 10, 10)], (20, 20)).tolist()
        [0.5]
    """
    array = np.asarray(boxes, np.float64)
    limit = np.array(size[::-1], np.float64)
    low = array[..., :2].clip(0, limit)
    high = (array[..., :2] + array[..., 2:]).clip(0, limit)
    return np.asarray((high - low).prod(-1) / array[..., 2:].prod(-1), np.float64)


def region_around(box: ArrayLike, context: float = CONTEXT) -> Region:
    """Return the region that a network sees for a box: the same centre, `context` times its sides.

    Its sides are whole pixels, so that a reduced crop averages over all of them; `encode_box` and
    `decode_box` therefore refer to the region and not to the box.

    Example:
        >>> region_around((10, 10, 8, 4))
        Region(left=6, top=8, right=22, bottom=16)
    """
    x, y, width, height = np.asarray(box, np.float64).tolist()
    columns = max(2, round(width * context))
    rows = max(2, round(height * context))
    left = round(x + width / 2 - columns / 2)
    top = round(y + height / 2 - rows / 2)
    return Region(left, top, left + columns, top + rows)


def crop_region(picture: Image, region: Region, size: int) -> Image:
    """Crop a region and stretch it to a square, repeating the border of the picture outside it.

    Args:
        picture: ``[H, W, 3]``.
        region: Region of the picture.
        size: Side of the square in pixels.

    Returns:
        ``[size, size, 3]``.

    Example:
        >>> crop_region(np.zeros((20, 30, 3), np.uint8), Region(-4, 2, 6, 12), 8).shape
        (8, 8, 3)
    """
    height, width = picture.shape[:2]
    columns = np.arange(region.left, region.right).clip(0, width - 1)
    rows = np.arange(region.top, region.bottom).clip(0, height - 1)
    crop = np.ascontiguousarray(picture[rows[:, None], columns])
    shrinks = min(crop.shape[:2]) >= size
    return resize(crop, (size, size), cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def encode_box(box: ArrayLike, region: Region) -> NDArray[np.float32]:
    """Return a box relative to a region: shift of its centre and logarithms of its sides, ``[4]``.

    The unit is half a side of the region: the side of the box that the region was made for, up to
    rounding.

    Example:
        >>> encode_box((12, 10, 8, 4), Region(6, 8, 22, 16)).tolist()
        [0.25, 0.0, 0.0, 0.0]
    """
    x, y, width, height = np.asarray(box, np.float64).tolist()
    unit = (region.right - region.left) / 2, (region.bottom - region.top) / 2
    shift = x + width / 2 - region.left - unit[0], y + height / 2 - region.top - unit[1]
    code = [shift[0] / unit[0], shift[1] / unit[1]]
    return np.array([*code, np.log(width / unit[0]), np.log(height / unit[1])], np.float32)


def decode_box(code: ArrayLike, region: Region) -> Boxes:
    """Return the box of numbers that `encode_box` gave.

    Example:
        >>> decode_box((0.25, 0, 0, 0), Region(6, 8, 22, 16)).tolist()
        [12.0, 10.0, 8.0, 4.0]
    """
    dx, dy, log_width, log_height = np.asarray(code, np.float64).tolist()
    unit = (region.right - region.left) / 2, (region.bottom - region.top) / 2
    width, height = unit[0] * np.exp(log_width), unit[1] * np.exp(log_height)
    centre = region.left + unit[0] * (1 + dx), region.top + unit[1] * (1 + dy)
    return np.array([centre[0] - width / 2, centre[1] - height / 2, width, height])
