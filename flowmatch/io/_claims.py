"""Checks of the sizes that picture files claim, before a decoder allocates memory for them."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from flowmatch.io._bmp import check_bmp, is_bmp
from flowmatch.io._jpeg import check_jpeg, is_jpeg
from flowmatch.io._png import check_png, is_png
from flowmatch.io._tiff_directory import check_pixels, is_tiff

# A flat picture takes hardly a byte in the formats below, so there is no limit for each byte alone.
_FLAT = 2**25  # pixels, those of a picture of 8K
_PIXELS_PER_BYTE = 4096
# Of an animation, decoders keep several canvases of four bytes a pixel; and a flat GIF takes a byte
# for at most 2560 pixels.
_FLAT_ANIMATION = 2**23  # pixels, those of a picture of 4K

_AVIF_SIZE = re.compile(rb"\0\0\0\x14ispe\0\0\0\0(.{8})", re.DOTALL)


def check_claim(path: Path, encoded: memoryview) -> None:
    """Check that a picture file does not claim more pixels than its bytes can hold.

    Formats that store all pixels, such as BMP, are left to the decoder, which finds them cut off;
    of a BMP, only the place of the pixels is checked.

    Args:
        path: Name for the message.
        encoded: Content of the file.

    Raises:
        ValueError: It claims more.
    """
    if is_png(encoded):
        check_png(path, encoded)
    elif is_jpeg(encoded):
        check_jpeg(path, encoded)
    elif is_bmp(encoded):
        check_bmp(path, encoded)
    elif bytes(encoded[:2]) == b"#?":
        # OpenCV decodes it from a temporary file, which stays if the header is damaged.
        raise ValueError(f"{path}: expected an image of 8 or 16 bits, got Radiance HDR's floats")
    compressed = check_pixels(path, encoded) if is_tiff(encoded) else None
    animated = is_gif(encoded) or is_animated_webp(encoded)
    flat = _FLAT_ANIMATION if animated else _FLAT
    try:
        for width, height in [compressed] if compressed else _sizes(encoded):
            most = flat + _PIXELS_PER_BYTE * len(encoded)
            if width * height > most:
                raise ValueError(
                    f"{path}: claims {width} x {height} pixels, but its {len(encoded)} bytes "
                    f"may hold at most {most}"
                )
    except (struct.error, IndexError, OverflowError):
        return  # cut off; the decoder reports it


def _sizes(encoded: memoryview) -> Iterator[tuple[int, int]]:
    """Yield widths and heights: of the picture, of its frames and of its parts."""
    start = bytes(encoded[:12])
    if is_gif(encoded):
        yield from _gif(encoded)
    elif start[:4] == b"RIFF" and start[8:] == b"WEBP":
        yield from _webp(encoded)
    elif start[:4] == b"\xff\x4f\xff\x51":
        yield _codestream(encoded, 0)
    elif start == b"\0\0\0\x0cjP  \r\n\x87\n":
        yield from _jpeg2000(encoded)
    elif start[4:8] == b"ftyp":
        for size in _AVIF_SIZE.finditer(encoded):
            yield struct.unpack(">II", size[1])


def is_gif(encoded: memoryview) -> bool:
    """Return whether a file begins as a GIF does."""
    return bytes(encoded[:6]) in (b"GIF87a", b"GIF89a")


def _gif(encoded: memoryview) -> Iterator[tuple[int, int]]:
    yield struct.unpack_from("<HH", encoded, 6)
    for place in gif_pictures(encoded):
        yield struct.unpack_from("<HH", encoded, place + 5)


def gif_pictures(encoded: memoryview) -> Iterator[int]:
    """Yield the places of the pictures of a GIF.

    Raises:
        IndexError: The file is cut off.
    """
    place = 13 + _colours(encoded[10])
    while True:
        mark = encoded[place]
        if mark == 0x2C:
            yield place
            place += 10 + _colours(encoded[place + 9]) + 1
        elif mark == 0x21:  # an extension
            place += 2
        else:
            return
        while encoded[place]:  # blocks of up to 255 bytes, ended by an empty one
            place += 1 + encoded[place]
        place += 1


def _colours(flags: int) -> int:
    """Return the bytes of a colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def is_animated_webp(encoded: memoryview) -> bool:
    """Return whether a file is a WebP that says it is an animation."""
    start = bytes(encoded[:21])
    return (
        start[:4] == b"RIFF"
        and start[8:16] == b"WEBPVP8X"
        and start[20:] != b""
        and bool(start[20] & 2)
    )


def _webp(encoded: memoryview) -> Iterator[tuple[int, int]]:
    at = 12
    while at + 8 <= len(encoded):
        kind, length = struct.unpack_from("<4sI", encoded, at)
        data = at + 8
        if kind in (b"VP8X", b"ANMF"):  # the canvas, a frame
            place = data + (4 if kind == b"VP8X" else 6)
            width = int.from_bytes(encoded[place : place + 3], "little")
            yield width + 1, int.from_bytes(encoded[place + 3 : place + 6], "little") + 1
        elif kind == b"VP8 ":
            width, height = struct.unpack_from("<HH", encoded, data + 6)
            yield width & 0x3FFF, height & 0x3FFF
        elif kind == b"VP8L":
            (bits,) = struct.unpack_from("<I", encoded, data + 1)
            yield (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        at = data + length + length % 2


def _jpeg2000(encoded: memoryview) -> Iterator[tuple[int, int]]:
    at = 0
    while True:
        length, kind = struct.unpack_from(">I4s", encoded, at)
        header = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", encoded, at + 8)
            header = 16
        if kind == b"jp2c":
            yield _codestream(encoded, at + header)
        if length < header:  # 0: up to the end of the file
            return
        at += length


def _codestream(encoded: memoryview, at: int) -> tuple[int, int]:
    right, bottom, left, top = struct.unpack_from(">IIII", encoded, at + 8)
    return max(right - left, 0), max(bottom - top, 0)
