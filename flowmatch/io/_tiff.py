"""TIFF files of kinds that OpenCV decodes wrong, changed in memory so that it decodes them right.

OpenCV 5.0 takes separate planes of 16 bits for interleaved ones, ignores that white is zero in 16
bits, and libtiff multiplies colours of 8 bits by an alpha that is not associated with them.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from flowmatch.io._quiet import opencv_errors

_BITS, _PHOTOMETRIC, _STRIPS, _SAMPLES, _COUNTS, _PLANAR = 258, 262, 273, 277, 279, 284
_TILES, _TILE_COUNTS, _EXTRA, _FORMAT = 324, 325, 338, 339
_SIZES = {1: 1, 3: 2, 4: 4}  # bytes of a value, by type
_RGB = 2  # photometric interpretation
# Errors of libtiff at compressed pixels: of Deflate, LZW, PackBits, LZMA, ZSTD and LERC. In faxes a
# bad code word costs a line at most, and every reader goes on.
_DAMAGED = re.compile(r"TIFF_Error ((?!Fax)\w*Decode\w*: .*|Using code not yet in table.*)")


class _Entry(NamedTuple):
    place: int  # of the entry in the file
    kind: int
    length: int  # number of values
    data: int  # place of the values


class Tiff(NamedTuple):
    """A TIFF to decode.

    Attributes:
        parts: Files to decode: one, or one for each plane of a picture of separate planes.
        white_is_zero: Whether the decoded values of 16 bits must be inverted.
    """

    parts: list[bytes]
    white_is_zero: bool


def is_tiff(encoded: memoryview) -> bool:
    """Return whether a file begins as a TIFF or a BigTIFF does."""
    return bytes(encoded[:4]) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@contextmanager
def damage_as_error(path: Path) -> Iterator[None]:
    """Raise ValueError if the compressed pixels of a TIFF that is decoded in the block are damaged.

    Of 8 bits, OpenCV 5.0 leaves what libtiff cannot decode black, and says so on stderr alone.
    """
    with opencv_errors() as lines:
        yield
    if reason := damage(lines):
        raise ValueError(f"{path} is damaged: its pixels cannot be decoded: {reason}")


def damage(lines: Sequence[str]) -> str | None:
    """Return the first error at compressed pixels among OpenCV's messages, None without one.

    Example:
        >>> damage(["[ERROR:0@0.1] TIFF_Error ZIPDecode: Decoding error at scanline 0, bad"])
        'ZIPDecode: Decoding error at scanline 0, bad'
    """
    found = filter(None, map(_DAMAGED.search, lines))
    return next((match[1] for match in found), None)


def changed_tiff(encoded: memoryview) -> Tiff | None:
    """Return the files to decode in place of a TIFF, or None if OpenCV decodes it right."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(encoded[:4]))
    if order is None:
        return None
    try:
        entries = _entries(encoded, order)
        return _changed(encoded, order, entries)
    except (struct.error, KeyError):
        return None  # damaged, or of a kind that is left to the decoder


def _entries(encoded: memoryview, order: str) -> dict[int, _Entry]:
    (start,) = struct.unpack_from(order + "I", encoded, 4)
    (number,) = struct.unpack_from(order + "H", encoded, start)
    entries = {}
    for k in range(number):
        place = start + 2 + 12 * k
        tag, kind, count = struct.unpack_from(order + "HHI", encoded, place)
        data = place + 8
        if count * _SIZES.get(kind, 8) > 4:
            (data,) = struct.unpack_from(order + "I", encoded, data)
        entries[tag] = _Entry(place, kind, count, data)
    return entries


def _changed(encoded: memoryview, order: str, entries: dict[int, _Entry]) -> Tiff | None:
    def value(tag: int, default: int) -> int:
        if tag not in entries:
            return default
        entry = entries[tag]
        code = {1: "B", 3: "H", 4: "I"}[entry.kind]
        return int(struct.unpack_from(order + code, encoded, entry.data)[0])

    samples, bits = value(_SAMPLES, 1), value(_BITS, 1)
    photometric = value(_PHOTOMETRIC, 1)
    if bits == 16 and value(_FORMAT, 1) != 1:  # signed, or floats
        return None
    if bits == 16 and value(_PLANAR, 1) == 2 and samples in (3, 4) and photometric == _RGB:
        planes = [_plane(encoded, order, entries, k, samples) for k in range(samples)]
        return Tiff(planes, white_is_zero=False)
    if bits == 16 and samples == 1 and photometric == 0:
        return Tiff([bytes(encoded)], white_is_zero=True)
    if bits == 8 and samples == 4 and photometric == _RGB and value(_EXTRA, 0) == 2:
        changed = bytearray(encoded)
        # If the colours are said to be multiplied by alpha already, libtiff leaves them alone.
        code = {1: "B", 3: "H", 4: "I"}[entries[_EXTRA].kind]
        struct.pack_into(order + code, changed, entries[_EXTRA].data, 1)
        return Tiff([bytes(changed)], white_is_zero=False)
    return None


def _plane(
    encoded: memoryview, order: str, entries: dict[int, _Entry], plane: int, samples: int
) -> bytes:
    """Return a file whose only picture is one plane of another, in gray."""
    changed = bytearray(encoded)

    def put(tag: int, number: int) -> None:
        entry = entries[tag]
        struct.pack_into(order + "HHI", changed, entry.place, tag, 3, 1)
        struct.pack_into(order + "HH", changed, entry.place + 8, number, 0)

    for tag, number in ((_SAMPLES, 1), (_BITS, 16), (_PHOTOMETRIC, 1), (_PLANAR, 1)):
        put(tag, number)
    if _FORMAT in entries:
        put(_FORMAT, 1)
    if _EXTRA in entries:  # an unknown private tag: one gray sample has none
        struct.pack_into(order + "H", changed, entries[_EXTRA].place, 65000)
    for tag in (_STRIPS, _COUNTS, _TILES, _TILE_COUNTS):
        if tag in entries:
            _choose(changed, order, tag, entries[tag], plane, samples)
    return bytes(changed)


def _choose(
    changed: bytearray, order: str, tag: int, entry: _Entry, plane: int, samples: int
) -> None:
    """Let an entry list the strips or tiles of one plane."""
    count, size = entry.length // samples, _SIZES[entry.kind]
    struct.pack_into(order + "HHI", changed, entry.place, tag, entry.kind, count)
    first = entry.data + plane * count * size
    if count * size > 4:
        struct.pack_into(order + "I", changed, entry.place + 8, first)
    else:
        values = bytes(changed[first : first + count * size])
        changed[entry.place + 8 : entry.place + 12] = values.ljust(4, b"\0")
