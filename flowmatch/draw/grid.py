"""Grids of labelled pictures."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from flowmatch._opencv import cv2
from flowmatch.draw.picture import checked_picture, draw_text, text_width
from flowmatch.imaging import Image


def side_by_side(
    *pictures: ArrayLike, labels: Sequence[str] | None = None, columns: int | None = None
) -> Image:
    """Arrange pictures in a grid on white, scaled to the height of the tallest, labels above.

    Args:
        *pictures: Pictures, uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        labels: Text for each picture.
        columns: Number of pictures in a row; None puts all into one row.

    Returns:
        Picture ``[H, W, 3]``.

    Raises:
        ValueError: No picture, wrong shape or type, or a different number of labels.

    Example:
        >>> black = np.zeros((40, 60), np.uint8)
        >>> side_by_side(black, black).shape
        (48, 132, 3)
    """
    texts = [""] * len(pictures) if labels is None else list(labels)
    columns = len(pictures) if columns is None else columns
    if not pictures or len(texts) != len(pictures) or columns < 1:
        raise ValueError(
            "expected pictures, as many labels, and columns, "
            f"got {len(pictures)} pictures, {len(texts)} labels and {columns} columns"
        )
    columns = min(columns, len(pictures))
    checked = [checked_picture(picture) for picture in pictures]
    height = max(picture.shape[0] for picture in checked)
    shown = [_with_height(picture, height) for picture in checked]
    widths = [max(picture.shape[1] for picture in shown[k::columns]) for k in range(columns)]
    margin = max(4, height // 40)
    # The longest label determines the size of all.
    fitting = min(
        pic.shape[1] / text_width(text, 1) for pic, text in zip(shown, texts, strict=True)
    )
    letters = max(8, min(int(fitting), max(12, height // 16), 48))
    head = round(1.4 * letters) if labels is not None else 0
    lefts = list(itertools.accumulate((width + margin for width in widths), initial=margin))
    rows = math.ceil(len(shown) / columns)
    page = np.full((rows * (head + height + margin) + margin, lefts[-1], 3), 255, np.uint8)
    for k, (text, picture) in enumerate(zip(texts, shown, strict=True)):
        row, column = divmod(k, columns)
        top = margin + row * (head + height + margin) + head
        left = lefts[column] + (widths[column] - picture.shape[1]) // 2
        page[top : top + height, left : left + picture.shape[1]] = picture
        middle = left + (picture.shape[1] - text_width(text, letters)) / 2
        draw_text(page, text, middle, top - 0.5 * letters, letters)
    return page


def _with_height(picture: Image, height: int) -> Image:
    size = (max(1, round(height * picture.shape[1] / picture.shape[0])), height)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), np.uint8)
