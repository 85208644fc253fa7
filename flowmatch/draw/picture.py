"""Input pictures, and text in pictures."""

import numpy as np
from numpy.typing import ArrayLike

from flowmatch._opencv import cv2
from flowmatch.imaging import Image, as_rgb

INK = (38, 38, 38)
# A TrueType font in OpenCV 5; in OpenCV 4 the same name is a font of strokes.
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def checked_picture(image: ArrayLike) -> Image:
    """Return a copy of a picture as RGB ``[H, W, 3]``.

    Raises:
        ValueError: It is not uint8 RGB or gray.
    """
    return np.array(as_rgb(image), order="C")


def text_width(text: str, letters: float) -> float:
    """Return the width of a text in pixels, at least 1; `letters` is the height of a line."""
    # Measured at a large size, because OpenCV rounds to whole pixels.
    return max(1.0, cv2.getTextSize(text, _FONT, 4.0, 1)[0][0] * letters / 108)


def draw_text(picture: Image, text: str, left: float, baseline: float, letters: float) -> None:
    """Write a text into a picture; `letters` is the height of a line in pixels."""
    place = (round(left), round(baseline))
    cv2.putText(picture, text, place, _FONT, letters / 27, INK, 1, cv2.LINE_AA)
