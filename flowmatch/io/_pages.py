"""Files with more than one picture: pages of a TIFF, animations."""

import struct
from itertools import islice

from flowmatch.io._claims import gif_pictures, is_animated_webp


def has_pages(encoded: memoryview) -> bool:
    r"""Return whether a file holds several pictures; reduced copies of the first do not count.

    Example:
        >>> has_pages(memoryview(b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x02"))
        True
    """
    start = bytes(encoded[:12])
    try:
        if start[:4] in (b"II*\0", b"MM\0*"):
            return _has_tiff_pages(encoded, "<" if start[:2] == b"II" else ">")
        if start[:8] == b"\x89PNG\r\n\x1a\n":
            return _is_animated_png(encoded)
        if start[:6] in (b"GIF87a", b"GIF89a"):
            return len(list(islice(gif_pictures(encoded), 2))) == 2
    except (struct.error, IndexError):
        return False  # damaged: left to the decoder
    return is_animated_webp(encoded) or start[4:12] == b"ftypavis"


def tiff_directories(encoded: memoryview) -> list[int]:
    """Return the places of the directories of a TIFF, one for each page; none for other files."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(encoded[:4]))
    places: dict[int, None] = {}
    if order is None:
        return []
    try:
        (place,) = struct.unpack_from(order + "I", encoded, 4)
        while place and place not in places:
            (number,) = struct.unpack_from(order + "H", encoded, place)
            places[place] = None
            (place,) = struct.unpack_from(order + "I", encoded, place + 2 + 12 * number)
    except struct.error:
        pass  # cut off: the pages before remain
    return list(places)


def choose_tiff_page(encoded: memoryview, place: int) -> None:
    """Make the directory at a place the first of a TIFF, which decoders take."""
    order = "<" if bytes(encoded[:2]) == b"II" else ">"
    struct.pack_into(order + "I", encoded, 4, place)


def _has_tiff_pages(encoded: memoryview, order: str) -> bool:
    for place in tiff_directories(encoded)[1:]:
        (number,) = struct.unpack_from(order + "H", encoded, place)
        if not _is_reduced(encoded, order, place + 2, number):
            return True
    return False


def _is_reduced(encoded: memoryview, order: str, place: int, number: int) -> bool:
    """Return whether the directory of a TIFF is that of a thumbnail, an overview or a mask."""
    for entry in range(place, place + 12 * number, 12):
        tag, kind = struct.unpack_from(order + "HH", encoded, entry)
        if tag == 254:  # NewSubfileType: bit 0 a reduced copy, bit 2 a mask
            code = "H" if kind == 3 else "I"
            return bool(struct.unpack_from(order + code, encoded, entry + 8)[0] & 5)
    return False


def _is_animated_png(encoded: memoryview) -> bool:
    place = 8
    while True:
        length, name = struct.unpack_from(">I4s", encoded, place)
        if name in (b"acTL", b"IDAT", b"IEND"):
            return bool(name == b"acTL" and struct.unpack_from(">I", encoded, place + 8)[0] > 1)
        place += 12 + length
