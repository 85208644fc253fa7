"""Contact sheets: pictures in a grid, each with a caption below."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from flowmatch._opencv import cv2
from flowmatch.draw.picture import checked_picture, draw_text, text_width
from flowmatch.imaging import Image, resize_within

_GAP, _LINE, _LETTERS = 8, 18, 13.0
_FRAME = (64, 160, 90)


def contact_sheet(
    pictures: Sequence[ArrayLike],
    captions: Sequence[str],
    *,
    columns: int = 4,
    side: int = 240,
    framed: Sequence[bool] | None = None,
) -> Image:
    """Arrange pictures in a grid, each reduced to fit a square, with a line of text below.

    Args:
        pictures: Pictures, uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``, of any size.
        captions: Caption of each picture; long ones are cut in the middle.
        columns: Maximum number of pictures in a row.
        side: Side of a square, pixels. Smaller pictures are not enlarged.
        framed: Whether a picture gets a green frame, for each picture.

    Returns:
        Picture ``[H, W, 3]``.

    Raises:
        ValueError: No picture, a different number of captions, or a size out of range.

    Example:
        >>> contact_sheet([np.zeros((40, 60), np.uint8)] * 3, ["a", "b", "c"], side=64).shape
        (98, 224, 3)
    """
    count = len(pictures)
    marks = [False] * count if framed is None else list(framed)
    if count == 0 or len(captions) != count or len(marks) != count:
        raise ValueError(
            f"expected pictures and as many captions, got {count} and {len(captions)} "
            f"and {len(marks)} marks"
        )
    if columns < 1 or side < 16:
        raise ValueError(f"columns must be positive and side 16 or more, got {columns}, {side}")
    columns = min(columns, count)
    rows = -(-count // columns)
    width, height = side + _GAP, side + _LINE + _GAP
    page = np.full((rows * height + _GAP, columns * width + _GAP, 3), 255, np.uint8)
    for k, (picture, caption, mark) in enumerate(zip(pictures, captions, marks, strict=True)):
        small = resize_within(checked_picture(picture), side)
        h, w = small.shape[:2]
        corner_y, corner_x = _GAP + k // columns * height, _GAP + k % columns * width
        top, left = corner_y + (side - h) // 2, corner_x + (side - w) // 2
        page[top : top + h, left : left + w] = small
        if mark:
            corners = (left - 3, top - 3), (left + w + 2, top + h + 2)
            cv2.rectangle(page, *corners, _FRAME, 3)
        draw_text(page, _shortened(caption, side), corner_x, corner_y + side + _LINE - 4, _LETTERS)
    return page


def _shortened(text: str, width: float) -> str:
    """Return a text with letters cut out of the middle so that it fits; OpenCV draws ASCII only."""
    text = text.encode("ascii", "replace").decode()
    kept = text
    for cut in range(1, len(text)):
        if text_width(kept, _LETTERS) <= width:
            break
        left = (len(text) - cut) // 2
        kept = text[:left] + ".." + text[left + cut :]
    return kept
