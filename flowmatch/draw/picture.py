"""What all drawing shares: pictures as they come, and text in them."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2

Picture = NDArray[np.uint8]

INK = (38, 38, 38)
# Truetype in OpenCV 5; in OpenCV 4 the same name draws strokes.
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def checked_picture(image: ArrayLike) -> Picture:
    """Return a copy as RGB [H, W, 3]."""
    pixels = np.asarray(image)
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (colour or pixels.ndim == 2) or pixels.size == 0:
        came = f"{pixels.dtype} {list(pixels.shape)}"
        raise ValueError(f"image must be uint8 [H, W, 3] or [H, W], got {came}")
    return np.array(pixels if colour else np.repeat(pixels[..., None], 3, axis=2), order="C")


def text_width(text: str, letters: float) -> float:
    """Return the width of a text in pixels, at least 1; `letters` is the height of its line."""
    # Measured large, because OpenCV rounds to whole pixels.
    return max(1.0, cv2.getTextSize(text, _FONT, 4.0, 1)[0][0] * letters / 108)


def draw_text(picture: Picture, text: str, left: float, baseline: float, letters: float) -> None:
    """Write into the picture; `letters` is the height of the line in pixels."""
    place = (round(left), round(baseline))
    cv2.putText(picture, text, place, _FONT, letters / 27, INK, 1, cv2.LINE_AA)
