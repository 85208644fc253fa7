"""Checks of a PNG file before memory is allocated, and PNG files of 16 bits a channel."""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.io._files import reason_of, require_dimensions, require_plausible
from flowmatch.io._quiet import quiet_stderr

_COLOUR_TYPES = {1: 0, 3: 2}  # of a PNG header, by number of channels
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type


def is_png(encoded: bytes | memoryview) -> bool:
    """Return whether a file begins as a PNG does."""
    start = b"\x89PNG\r\n\x1a\n"
    return len(encoded) >= 33 and encoded[:8] == start and encoded[12:16] == b"IHDR"


def check_png(path: Path, encoded: bytes | memoryview) -> tuple[int, int, int, int]:
    """Check that a PNG does not claim more than its bytes can hold.

    Returns:
        Width, height, bits a channel and colour type.

    Raises:
        ValueError: It claims more.
    """
    width, height, bits, colour = struct.unpack(">IIBB", encoded[16:26])
    require_dimensions(path, height, width)
    row = (_CHANNELS.get(colour, 1) * bits * width + 7) // 8 + 1  # one byte for the filter
    require_plausible(path, height * row, len(encoded))
    _check_chunks(path, encoded)
    return width, height, bits, colour


def _check_chunks(path: Path, encoded: bytes | memoryview) -> None:
    """Check that no chunk claims more bytes than the file has: OpenCV allocates what it claims."""
    at, kind = 8, b""
    while kind != b"IEND" and at + 8 <= len(encoded):
        length, kind = struct.unpack(">I4s", encoded[at : at + 8])
        at += 12 + length  # length, kind, data, checksum
        if at > len(encoded):
            raise ValueError(
                f"{path} is damaged, or not whole: a part of the PNG claims {length} bytes, "
                f"the file ends {at - len(encoded)} bytes too early"
            )


def read_png16(path: Path, channels: int, expected: str) -> NDArray[np.uint16]:
    """Read a PNG of 16 bits a channel.

    Args:
        path: The file.
        channels: 1 or 3.
        expected: Description of the file for the error message.

    Returns:
        Pixels ``[H, W]`` or, in BGR, ``[H, W, 3]``.

    Raises:
        ValueError: The file is damaged or of another kind.
    """
    encoded = path.read_bytes()
    if not is_png(encoded):
        raise ValueError(f"{path}: expected a PNG file, got one starting with {encoded[:8]!r}")
    width, height, bits, colour = check_png(path, encoded)
    if (bits, colour) != (16, _COLOUR_TYPES[channels]):
        raise ValueError(
            f"{path}: expected {expected}, got {bits} bits and PNG colour type {colour}"
        )
    try:
        with quiet_stderr():
            pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"{path}: damaged PNG: {reason_of(error)}") from error
    shape = (height, width) if channels == 1 else (height, width, channels)
    if pixels is None or pixels.shape != shape or pixels.dtype != np.uint16:
        raise ValueError(f"{path}: damaged PNG, its {width} x {height} pixels cannot be decoded")
    return np.asarray(pixels, np.uint16)
