"""What a PNG file claims to be, before memory is taken; and those of 16 bits a channel."""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.io._files import require_dimensions, require_plausible

_COLOUR_TYPES = {1: 0, 3: 2}  # of a PNG header, by the number of channels
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type


def is_png(encoded: bytes | memoryview) -> bool:
    """Return whether a file begins as a PNG does."""
    start = b"\x89PNG\r\n\x1a\n"
    return len(encoded) >= 33 and encoded[:8] == start and encoded[12:16] == b"IHDR"


def check_png(path: Path, encoded: bytes | memoryview) -> tuple[int, int, int, int]:
    """Return width, height, bits and colour type of a PNG that may be as large as it claims.

    Raises:
        ValueError: It may not.
    """
    width, height, bits, colour = struct.unpack(">IIBB", encoded[16:26])
    require_dimensions(path, height, width)
    row = (_CHANNELS.get(colour, 1) * bits * width + 7) // 8 + 1  # a filter's byte before each
    require_plausible(path, height * row, len(encoded))
    return width, height, bits, colour


def read_png16(path: Path, channels: int, expected: str) -> NDArray[np.uint16]:
    """Return the pixels, ``[H, W]`` or ``[H, W, 3]`` in BGR; errors name what was `expected`."""
    encoded = path.read_bytes()
    if not is_png(encoded):
        raise ValueError(f"{path}: expected a PNG file, got one starting with {encoded[:8]!r}")
    width, height, bits, colour = check_png(path, encoded)
    if (bits, colour) != (16, _COLOUR_TYPES[channels]):
        raise ValueError(
            f"{path}: expected {expected}, got {bits} bits and PNG colour type {colour}"
        )
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"{path}: damaged PNG: {error}") from error
    shape = (height, width) if channels == 1 else (height, width, channels)
    if pixels is None or pixels.shape != shape or pixels.dtype != np.uint16:
        raise ValueError(f"{path}: damaged PNG, its {width} x {height} pixels cannot be decoded")
    return np.asarray(pixels, np.uint16)
