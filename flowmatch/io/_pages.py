"""Files with more than one picture: pages of a TIFF, animations."""

import struct
from itertools import islice

from flowmatch.io._claims import gif_pictures, is_animated_webp, is_gif
from flowmatch.io._tiff_directory import (
    SUBFILE,
    Directory,
    directory_places,
    is_tiff,
    read_directory,
)


def has_pages(encoded: memoryview) -> bool:
    r"""Return whether a file holds several pictures; reduced copies of the first do not count.

    Example:
        >>> has_pages(memoryview(b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x02"))
        True
    """
    start = bytes(encoded[:12])
    try:
        if is_tiff(encoded):
            return _has_tiff_pages(encoded)
        if start[:8] == b"\x89PNG\r\n\x1a\n":
            return _is_animated_png(encoded)
        if is_gif(encoded):
            return len(list(islice(gif_pictures(encoded), 2))) == 2
    except (struct.error, IndexError, KeyError):
        return False  # damaged: left to the decoder
    return is_animated_webp(encoded) or start[4:12] == b"ftypavis"


def _has_tiff_pages(encoded: memoryview) -> bool:
    others = islice(directory_places(encoded), 1, None)
    return not all(_is_reduced(read_directory(encoded, place)) for place in others)


def _is_reduced(directory: Directory) -> bool:
    """Return whether the directory of a TIFF is that of a thumbnail, an overview or a mask."""
    return bool(directory.value(SUBFILE, 0) & 5)  # bit 0 a reduced copy, bit 2 a mask


def _is_animated_png(encoded: memoryview) -> bool:
    place = 8
    while True:
        length, name = struct.unpack_from(">I4s", encoded, place)
        if name in (b"acTL", b"IDAT", b"IEND"):
            return bool(name == b"acTL" and struct.unpack_from(">I", encoded, place + 8)[0] > 1)
        place += 12 + length
