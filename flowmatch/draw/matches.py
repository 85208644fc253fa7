"""Pictures of matches: two images side by side, and lines between them."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2
from flowmatch.draw.picture import Picture, checked_picture

_INLIER, _OUTLIER = (64, 220, 90), (235, 60, 50)
_SHARE = 0.55  # of a line's colour; the rest is the picture below
_BITS = 4  # OpenCV takes sixteenths of a pixel when it is told to shift by 4 bits


def draw_matches(
    first: ArrayLike,
    second: ArrayLike,
    first_points: ArrayLike,
    second_points: ArrayLike,
    inlier: ArrayLike | None = None,
    *,
    most: int = 1000,
) -> Picture:
    """Draw two images side by side and a line for each match: green inliers, red outliers.

    The inliers are above the outliers. Images keep their size; white is below the lower one.

    Args:
        first: uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``; on the left.
        second: The same, of any size.
        first_points: ``[K, 2]`` in pixels of the first image.
        second_points: ``[K, 2]`` in pixels of the second.
        inlier: ``[K]`` bool; None takes all for inliers.
        most: How many lines to draw of either colour; of more, an even choice.

    Returns:
        Picture ``[max H, W1 + gap + W2, 3]``; the gap is a hundredth of the width.

    Raises:
        ValueError: Shapes do not fit, or points are not finite.

    Example:
        >>> image = np.zeros((40, 60, 3), np.uint8)
        >>> draw_matches(image, image, [(10, 10)], [(30, 20)]).shape
        (40, 124, 3)
    """
    left, right = checked_picture(first), checked_picture(second)
    points = [_checked_points(some) for some in (first_points, second_points)]
    K = len(points[0])
    kept = np.ones(K, np.bool_) if inlier is None else np.asarray(inlier, np.bool_)
    if len(points[1]) != K or kept.shape != (K,):
        came = f"{K} and {len(points[1])} points and {list(kept.shape)}"
        raise ValueError(f"expected as many points in both images, and as many marks, got {came}")
    gap = max(4, (left.shape[1] + right.shape[1]) // 100)
    size = (max(left.shape[0], right.shape[0]), left.shape[1] + gap + right.shape[1], 3)
    page = np.full(size, 255, np.uint8)
    page[: left.shape[0], : left.shape[1]] = left
    page[: right.shape[0], left.shape[1] + gap :] = right
    starts, ends = points[0], points[1] + (left.shape[1] + gap, 0)
    for mask, colour in ((~kept, _OUTLIER), (kept, _INLIER)):
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
    # OpenCV's integers end somewhere; nothing far outside can be seen.
    return np.clip(xy, -1e5, 1e5)


def _lines(
    page: Picture, starts: NDArray[np.float64], ends: NDArray[np.float64], colour: tuple[int, ...]
) -> None:
    """Draw lines that let the picture through, and dots that do not."""
    if not len(starts):
        return
    thick = 1 + max(page.shape) // 3000
    # More lines are fainter, or nothing would be left of the pictures.
    share = _SHARE / max(1.0, len(starts) / 250) ** 0.5
    both = np.rint(np.stack([starts, ends], axis=1) * 2**_BITS).astype(np.int32)
    drawn = page.copy()
    cv2.polylines(drawn, list(both), False, colour, thick, cv2.LINE_AA, _BITS)
    blended: Any = cv2.addWeighted(drawn, share, page, 1 - share, 0)
    radius = round((1.5 + 0.6 * thick) * 2**_BITS)
    for x, y in both.reshape(-1, 2).tolist():
        cv2.circle(blended, (x, y), radius, colour, -1, cv2.LINE_AA, _BITS)
    page[...] = blended
