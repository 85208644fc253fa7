"""Draw matches: two images side by side, and lines between them."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2
from flowmatch.draw.picture import checked_picture
from flowmatch.imaging import Image

_INLIER, _OUTLIER = (64, 220, 90), (235, 60, 50)
_OPACITY = 0.55  # of lines
_BITS = 4  # fractional bits of coordinates for OpenCV: sixteenths of a pixel


def draw_matches(
    first: ArrayLike,
    second: ArrayLike,
    first_points: ArrayLike,
    second_points: ArrayLike,
    inlier: ArrayLike | None = None,
    *,
    most: int = 1000,
) -> Image:
    """Draw two images side by side and a line for each match: green inliers, red outliers.

    Inliers are drawn over outliers. Images keep their size; the area below the smaller one is
    white.

    Args:
        first: Left image, uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        second: Right image, of any size.
        first_points: Points ``[K, 2]`` in pixels of the first image.
        second_points: Points ``[K, 2]`` in pixels of the second image.
        inlier: Mask ``[K]`` of inliers; None means all.
        most: Maximum number of lines of either colour; of more, an evenly spaced selection.

    Returns:
        Picture ``[max H, W1 + gap + W2, 3]``; the gap is a hundredth of the width.

    Raises:
        ValueError: Shapes do not match, or points are not finite.

    Example:
        >>> image = np.zeros((40, 60, 3), np.uint8)
        >>> draw_matches(image, image, [(10, 10)], [(30, 20)]).shape
        (40, 124, 3)
    """
    left, right = checked_picture(first), checked_picture(second)
    points = [_checked_points(xy) for xy in (first_points, second_points)]
    K = len(points[0])
    is_inlier = np.ones(K, np.bool_) if inlier is None else np.asarray(inlier, np.bool_)
    if len(points[1]) != K or is_inlier.shape != (K,):
        raise ValueError(
            "expected the same number of points in both images, and of inlier marks, "
            f"got {K} and {len(points[1])} points and marks {list(is_inlier.shape)}"
        )
    gap = max(4, (left.shape[1] + right.shape[1]) // 100)
    size = (max(left.shape[0], right.shape[0]), left.shape[1] + gap + right.shape[1], 3)
    page = np.full(size, 255, np.uint8)
    page[: left.shape[0], : left.shape[1]] = left
    page[: right.shape[0], left.shape[1] + gap :] = right
    starts, ends = points[0], points[1] + (left.shape[1] + gap, 0)
    for mask, colour in ((~is_inlier, _OUTLIER), (is_inlier, _INLIER)):
        chosen = np.flatnonzero(mask)
        if len(chosen) > most:
            chosen = chosen[np.linspace(0, len(chosen) - 1, most).astype(np.intp)]
        _lines(page, starts[chosen], ends[chosen], colour)
    return page


def _checked_points(points: ArrayLike) -> NDArray[np.float64]:
    xy = np.asarray(points, np.float64)
    if xy.size == 0:
        return xy.reshape(0, 2)
    if xy.ndim != 2 or xy.shape[1] != 2 or not np.isfinite(xy).all():
        raise ValueError(f"points must be finite [K, 2], got {list(xy.shape)}")
    # Within the range of OpenCV's integers; points far outside are invisible anyway.
    return np.clip(xy, -1e5, 1e5)


def _lines(
    page: Image, starts: NDArray[np.float64], ends: NDArray[np.float64], colour: tuple[int, ...]
) -> None:
    """Draw translucent lines and opaque dots."""
    if not len(starts):
        return
    thick = 1 + max(page.shape) // 3000
    # Many lines are fainter, so that the pictures remain visible.
    opacity = _OPACITY / max(1.0, len(starts) / 250) ** 0.5
    both = np.rint(np.stack([starts, ends], axis=1) * 2**_BITS).astype(np.int32)
    drawn = page.copy()
    cv2.polylines(drawn, list(both), False, colour, thick, cv2.LINE_AA, _BITS)
    blended: Any = cv2.addWeighted(drawn, opacity, page, 1 - opacity, 0)
    radius = round((1.5 + 0.6 * thick) * 2**_BITS)
    for x, y in both.reshape(-1, 2).tolist():
        cv2.circle(blended, (x, y), radius, colour, -1, cv2.LINE_AA, _BITS)
    page[...] = blended
