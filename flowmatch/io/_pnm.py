"""Netpbm pictures (PBM, PGM, PPM, PAM), whose header says which value is white."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmatch.io._files import require_dimensions

# White space and comments separate the numbers of a header; one white space ends it.
_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])+"
_NUMBER = _SPACE + rb"(\d{1,9})"
_END = rb"(?:#[^\r\n]*[\r\n]|\s)"
_PNM = re.compile(rb"P([2356])" + 3 * _NUMBER + _END)
_PBM = re.compile(rb"P([14])" + 2 * _NUMBER + _END)
_PAM = re.compile(rb"P7\s(.{0,4000}?)^ENDHDR\n", re.DOTALL | re.MULTILINE)
_PAM_FIELD = re.compile(rb"^(WIDTH|HEIGHT|DEPTH|MAXVAL)\s+(\d{1,9})\s*$", re.MULTILINE)
_HEADER = 1 << 16  # bytes in which a header ends
_TEXT = b"23"
_COLOUR = b"36"


def is_pnm(encoded: bytes | memoryview) -> bool:
    """Return whether a file begins as a PBM, PGM, PPM or PAM does."""
    return bytes(encoded[:1]) == b"P" and bytes(encoded[1:2]) in b"1234567"


def read_pnm(path: Path, encoded: memoryview) -> tuple[NDArray[Any], int]:
    """Read a PBM, PGM, PPM or PAM file; of several pictures in a row, the first.

    Returns:
        Pixels ``[H, W]``, BGR ``[H, W, 3]`` or BGRA ``[H, W, 4]`` as they are stored, and the
        value of white.

    Raises:
        ValueError: The file is damaged.
    """
    start = bytes(encoded[:_HEADER])
    kind, (width, height, channels, white), begin = _header(path, start)
    require_dimensions(path, height, width)
    if not 1 <= white <= 65535 or not 1 <= channels <= 4:
        raise ValueError(
            f"{path} is damaged: it claims {channels} channels and the white value {white}"
        )
    shape = (height, width, channels)
    if kind in b"14":
        return _bits(path, encoded[begin:], height, width, packed=kind == b"4"), white
    values = _numbers if kind in _TEXT else _binary
    pixels = values(path, encoded[begin:], math.prod(shape), white).reshape(shape)
    pixels = np.minimum(pixels, white)
    if channels == 2:  # gray and alpha
        pixels = pixels[..., [0, 0, 0, 1]]
    elif channels > 2:
        pixels = pixels[..., [2, 1, 0, 3][:channels]]
    return (pixels[..., 0] if channels == 1 else pixels), white


def _header(path: Path, start: bytes) -> tuple[bytes, tuple[int, int, int, int], int]:
    """Return the kind, (width, height, channels, white) and the length of a header."""
    if header := _PNM.match(start):
        width, height, white = (int(number) for number in header.groups()[1:])
        channels = 3 if header[1] in _COLOUR else 1
        return header[1], (width, height, channels, white), header.end()
    if header := _PBM.match(start):
        return header[1], (int(header[2]), int(header[3]), 1, 1), header.end()
    if header := _PAM.match(start):
        fields = {name: int(number) for name, number in _PAM_FIELD.findall(header[1])}
        if len(fields) == 4:
            size = fields[b"WIDTH"], fields[b"HEIGHT"], fields[b"DEPTH"], fields[b"MAXVAL"]
            return b"7", size, header.end()
    raise ValueError(f"{path} is damaged: its Netpbm header cannot be read")


def _bits(
    path: Path, data: memoryview, height: int, width: int, *, packed: bool
) -> NDArray[np.uint8]:
    """Return the pixels of a PBM, 1 for white; in the file, 1 is black."""
    row = (width + 7) // 8 if packed else width
    if len(data) < row * height:
        raise ValueError(
            f"{path} is damaged: expected {row * height} bytes of pixels, got {len(data)}"
        )
    if packed:
        rows = np.frombuffer(data, np.uint8, row * height).reshape(height, row)
        return 1 - np.unpackbits(rows, axis=1, count=width)
    digits = b"".join(re.sub(rb"#[^\r\n]*", b"", bytes(data)).split())
    pixels = np.frombuffer(digits[: width * height], np.uint8) - np.uint8(ord("0"))
    if len(pixels) < width * height or (pixels > 1).any():
        raise ValueError(f"{path} is damaged: expected {width * height} digits 0 or 1")
    return 1 - pixels.reshape(height, width)


def _binary(path: Path, data: memoryview, count: int, white: int) -> NDArray[Any]:
    dtype = np.dtype(">u2" if white > 255 else "u1")
    if len(data) < count * dtype.itemsize:
        raise ValueError(
            f"{path} is damaged: expected {count * dtype.itemsize} bytes of pixels, got {len(data)}"
        )
    pixels = np.frombuffer(data, dtype, count)
    return np.asarray(pixels, np.uint16 if white > 255 else np.uint8)


def _numbers(path: Path, data: memoryview, count: int, white: int) -> NDArray[Any]:
    if count > len(data):  # one digit a number, at least
        raise ValueError(f"{path} is damaged: {len(data)} bytes do not hold {count} numbers")
    text = re.sub(rb"#[^\r\n]*", b"", bytes(data)).split(None, count)[:count]
    try:
        numbers = np.array([int(word) for word in text])
    except ValueError:
        raise ValueError(f"{path} is damaged: its pixels are not numbers") from None
    if len(numbers) < count or numbers.min() < 0:
        raise ValueError(f"{path} is damaged: expected {count} pixels, got {len(numbers)}")
    numbers = np.minimum(numbers, white)
    return np.asarray(numbers, np.uint16 if white > 255 else np.uint8)
