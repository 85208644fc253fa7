"""Confidence files: PNG of 16 bits, gray, value / 65535 is the confidence."""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2
from flowmatch.io._files import FilePath, existing_file, replace_when_done
from flowmatch.io._png import read_png16

_WHITE = 65535


def write_confidence(path: FilePath, confidence: ArrayLike) -> None:
    """Write confidences as a gray PNG of 16 bits: 0 is black, 1 is white.

    Args:
        path: File to write, ``.png``; its folder must exist. It gets its name only when complete.
        confidence: Confidences ``[H, W]``, 0 to 1.

    Raises:
        ValueError: Wrong shape or range, or another suffix.
        FileNotFoundError: The folder does not exist.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "000000_confidence.png"
        >>> write_confidence(path, [[0.0, 0.5, 1.0]])
        >>> read_confidence(path).round(3).tolist()
        [[0.0, 0.5, 1.0]]
    """
    path, values = Path(path), np.asarray(confidence, np.float64)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: confidences are written as .png")
    if values.ndim != 2 or values.size == 0 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{path}: confidence must be [H, W], 0 to 1, got {list(values.shape)}")
    with replace_when_done(path) as temporary:
        _, encoded = cv2.imencode(".png", np.rint(values * _WHITE).astype(np.uint16))
        temporary.write_bytes(encoded.tobytes())


def read_confidence(path: FilePath) -> NDArray[np.float32]:
    """Read confidences ``[H, W]``, 0 to 1, that `write_confidence` wrote.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged or no gray PNG of 16 bits.
    """
    values = read_png16(existing_file(path), 1, "a confidence PNG (gray, 16 bits)")
    return np.asarray(values.astype(np.float32) / _WHITE, np.float32)
