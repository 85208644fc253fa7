"""Boxes of moving objects: found around shapes, moved by flow, compared, cropped."""

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import Image, resize

Box = tuple[float, float, float, float]
"""A box ``(x, y, width, height)`` in pixels."""
RELIABLE = 0.6  # least share of a box's pixels with consistent forward and backward flow


def shape_boxes(shapes: NDArray[np.int32]) -> list[Box]:
    """Return the boxes of all shapes that do not touch the border of the picture.

    Args:
        shapes: Number of each pixel's shape, from 1, ``[H, W]``.

    Example:
        >>> shape_boxes(np.pad(np.ones((2, 4), np.int32), 3))
        [(3.0, 3.0, 4.0, 2.0)]
    """
    height, width = shapes.shape
    boxes = []
    for i in range(1, int(shapes.max()) + 1):
        y, x = np.nonzero(shapes == i)
        left, top, right, bottom = x.min(), y.min(), x.max() + 1, y.max() + 1
        if left > 0 and top > 0 and right < width and bottom < height:
            boxes.append((float(left), float(top), float(right - left), float(bottom - top)))
    return boxes


def propagate_box(
    box: Box,
    flow: NDArray[np.float32],
    reliable: NDArray[np.bool_],
    speed: NDArray[np.float32],
) -> Box | None:
    """Move a box by the median flow of the faster half of its pixels.

    Args:
        box: Box in the first frame.
        flow: Flow from the first frame to the second, ``[H, W, 2]``.
        reliable: Pixels with consistent forward and backward flow, ``[H, W]`` bool.
        speed: Speed relative to the background, ``[H, W]``.

    Returns:
        The box in the second frame; None if it leaves the picture or too few of its pixels are
        reliable.

    Example:
        >>> flow = np.full((40, 40, 2), 3, np.float32)
        >>> propagate_box((10, 10, 8, 8), flow, np.ones((40, 40), bool), flow[..., 0])
        (13.0, 13.0, 8, 8)
    """
    x, y, width, height = box
    # An eighth is left out at each side, because the corners of a box show the background.
    columns = slice(round(x + width / 8), max(round(x + 7 * width / 8), round(x + width / 8) + 1))
    rows = slice(round(y + height / 8), max(round(y + 7 * height / 8), round(y + height / 8) + 1))
    inliers = reliable[rows, columns]
    if inliers.mean() < RELIABLE:
        return None
    motions, speeds = flow[rows, columns][inliers], speed[rows, columns][inliers]
    step = np.median(motions[speeds >= np.median(speeds)], axis=0)
    x, y = x + float(step[0]), y + float(step[1])
    H, W = flow.shape[:2]
    return (x, y, width, height) if 0 <= x <= W - width and 0 <= y <= H - height else None


def box_iou(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes.

    Example:
        >>> box_iou((0, 0, 2, 1), (1, 0, 2, 1))
        0.3333333333333333
    """
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(w, 0.0) * max(h, 0.0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def crop_box(picture: Image, box: Box, size: int) -> Image:
    """Crop a box and stretch it to a square, repeating the border of the picture outside it.

    Args:
        picture: ``[H, W, 3]``.
        box: Box ``(x, y, width, height)`` in pixels.
        size: Side of the square in pixels.

    Returns:
        ``[size, size, 3]``.

    Example:
        >>> crop_box(np.zeros((20, 30, 3), np.uint8), (2.5, 3.0, 10.0, 20.0), 8).shape
        (8, 8, 3)
    """
    x, y, width, height = box
    # The box is rounded to whole pixels, so that reduction averages over all of them.
    left, top, right, bottom = (round(v) for v in (x, y, x + width, y + height))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    columns = np.clip(np.arange(left, right), 0, picture.shape[1] - 1)
    rows = np.clip(np.arange(top, bottom), 0, picture.shape[0] - 1)
    crop = np.ascontiguousarray(picture[rows[:, None], columns])
    interpolation = cv2.INTER_AREA if min(crop.shape[:2]) >= size else cv2.INTER_LINEAR
    return resize(crop, (size, size), interpolation)
