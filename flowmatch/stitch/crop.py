"""Largest axis-parallel rectangle without holes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Rectangle(NamedTuple):
    """A rectangle of pixels.

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

    @property
    def area(self) -> int:
        """Number of pixels."""
        return (self.right - self.left) * (self.bottom - self.top)

    def cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a copy of this part of an image."""
        return np.ascontiguousarray(image[self.top : self.bottom, self.left : self.right])


def largest_rectangle(mask: ArrayLike) -> Rectangle:
    """Find the largest rectangle that is true everywhere, in time proportional to the pixels.

    Args:
        mask: ``[H, W]``, false or 0 outside the picture.

    Returns:
        The rectangle: of several of the same area, the one that ends first, then the leftmost;
        of area 0 if the mask is false everywhere.

    Raises:
        ValueError: `mask` does not have two dimensions.

    Example:
        >>> mask = np.ones((4, 6), bool)
        >>> mask[0, :2] = mask[3, 5] = False
        >>> largest_rectangle(mask)
        Rectangle(left=0, top=1, right=5, bottom=4)
    """
    inside = np.asarray(mask) != 0
    if inside.ndim != 2:
        raise ValueError(f"mask must be [H, W], got {list(inside.shape)}")
    W = inside.shape[1]
    best = Rectangle(0, 0, 0, 0)
    columns = np.arange(W)
    # For each pixel of the row: the height of the column of true pixels that ends there, and how
    # far a rectangle of that height extends. It extends no further than in the row above, and no
    # further than the run of true pixels in this row.
    height, left, right = np.zeros(W, np.int64), np.zeros(W, np.int64), np.full(W, W)
    for y, row in enumerate(inside):
        if not row.any():
            height[:], left[:], right[:] = 0, 0, W
            continue
        start = np.maximum.accumulate(np.where(row, 0, columns + 1))
        end = np.minimum.accumulate(np.where(row, W, columns)[::-1])[::-1]
        height = np.where(row, height + 1, 0)
        left = np.where(row, np.maximum(left, start), 0)
        right = np.where(row, np.minimum(right, end), W)
        area = height * (right - left)
        x = int(area.argmax())
        if area[x] > best.area:
            best = Rectangle(int(left[x]), y + 1 - int(height[x]), int(right[x]), y + 1)
    return best
