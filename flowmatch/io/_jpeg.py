"""Checks of a JPEG file's header, before memory is allocated."""

import re
import struct
from pathlib import Path

# A block of 8 x 8 pixels takes at least one bit, of a progressive file's first scan.
_PIXELS_PER_BYTE = 8 * 64

_MARKER = re.compile(rb"\xff([^\x00\xff])")  # searched for, as decoders do: other bytes are skipped
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers that start a frame (SOF)
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_SCAN = 0xDA


def is_jpeg(encoded: bytes | memoryview) -> bool:
    """Return whether a file begins as a JPEG does."""
    return encoded[:3] == b"\xff\xd8\xff"


def check_jpeg(path: Path, encoded: bytes | memoryview) -> None:
    """Check that a JPEG does not claim more pixels than its bytes can hold.

    Raises:
        ValueError: It claims more.
    """
    at = 2
    while (marker := _MARKER.search(encoded, at)) and marker[1][0] != _SCAN:
        kind, at = marker[1][0], marker.end()
        if kind in _WITHOUT_LENGTH:
            continue
        if at + 7 > len(encoded):
            return  # cut off; the decoder reports it
        length, _, height, width = struct.unpack_from(">HBHH", encoded, at)
        if kind in _FRAMES:
            if height * width > _PIXELS_PER_BYTE * len(encoded):
                raise ValueError(
                    f"{path}: claims {width} x {height} pixels, but its {len(encoded)} bytes "
                    f"hold at most {_PIXELS_PER_BYTE * len(encoded)}"
                )
            return
        at += max(length, 2)
