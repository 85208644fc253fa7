"""Checkerboards of two aligned pictures: edges that do not meet show errors."""

import numpy as np
from numpy.typing import ArrayLike

from flowmatch.draw.picture import checked_picture
from flowmatch.imaging import Image


def checkerboard(first: ArrayLike, second: ArrayLike, cells: int = 8) -> Image:
    """Show the first picture in every other square and the second in the rest.

    Args:
        first: Picture of the upper left square, uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        second: Picture of the same size.
        cells: Number of squares along the longer side.

    Returns:
        Picture ``[H, W, 3]``.

    Raises:
        ValueError: The sizes differ, or `cells` is below 1.

    Example:
        >>> black, white = np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)
        >>> checkerboard(black, white, cells=2)[..., 0].tolist()
        [[0, 255], [255, 0]]
    """
    a, b = checked_picture(first), checked_picture(second)
    if a.shape != b.shape:
        raise ValueError(f"expected pictures of one size, got {a.shape[:2]} and {b.shape[:2]}")
    if cells < 1:
        raise ValueError(f"cells must be at least 1, got {cells}")
    H, W = a.shape[:2]
    side = max(H, W) / cells
    row, column = (np.floor(np.arange(n) / side).astype(np.intp) for n in (H, W))
    is_odd = (row[:, None] + column) % 2 == 1
    return np.where(is_odd[..., None], b, a)
