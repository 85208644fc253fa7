"""PNG files of 16 bits a channel, in which depth and flow are kept."""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.io._files import require_dimensions, require_plausible

_COLOUR_TYPES = {1: 0, 3: 2}  # of a PNG header, by the number of channels


def read_png16(path: Path, channels: int, expected: str) -> NDArray[np.uint16]:
    """Return the pixels, ``[H, W]`` or ``[H, W, 3]`` in BGR; errors name what was `expected`."""
    encoded = path.read_bytes()
    if len(encoded) < 33 or encoded[:8] != b"\x89PNG\r\n\x1a\n" or encoded[12:16] != b"IHDR":
        raise ValueError(f"{path}: expected a PNG file, got one starting with {encoded[:8]!r}")
    width, height, bits, colour = struct.unpack(">IIBB", encoded[16:26])
    if (bits, colour) != (16, _COLOUR_TYPES[channels]):
        raise ValueError(
            f"{path}: expected {expected}, got {bits} bits and PNG colour type {colour}"
        )
    require_dimensions(path, height, width)
    require_plausible(path, height * (2 * channels * width + 1), len(encoded))
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"{path}: damaged PNG: {error}") from error
    shape = (height, width) if channels == 1 else (height, width, channels)
    if pixels is None or pixels.shape != shape or pixels.dtype != np.uint16:
        raise ValueError(f"{path}: damaged PNG, its {width} x {height} pixels cannot be decoded")
    return np.asarray(pixels, np.uint16)
