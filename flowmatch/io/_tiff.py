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
from flowmatch.io._tiff_directory import (
    BITS,
    CODES,
    COUNTS,
    EXTRA,
    FORMAT,
    PHOTOMETRIC,
    PLANAR,
    SAMPLES,
    STRIPS,
    TILE_COUNTS,
    TILES,
    Directory,
    is_tiff,
    read_directory,
)

_RGB = 2  # photometric interpretation
# Errors of libtiff at compressed pixels: of Deflate, LZW, PackBits, LZMA, ZSTD and LERC. In faxes a
# bad code word costs a line at most, and every reader goes on.
_DAMAGED = re.compile(r"TIFF_Error ((?!Fax)\w*Decode\w*: .*|Using code not yet in table.*)")
_UNSUPPORTED = re.compile(
    r"TIFF_Error (?:.*: )?(Compression scheme \d+ \w+ decoding is not implemented"
    r"|[\w -]+ compression support is not configured)"
)


class Tiff(NamedTuple):
    """A TIFF to decode.

    Attributes:
        parts: Files to decode: one, or one for each plane of a picture of separate planes.
        white_is_zero: Whether the decoded values of 16 bits must be inverted.
    """

    parts: list[bytes]
    white_is_zero: bool


@contextmanager
def damage_as_error(path: Path) -> Iterator[None]:
    """Raise ValueError if a TIFF that is decoded in the block is damaged, or compressed otherwise.

    Of 8 bits, OpenCV 5.0 leaves what libtiff cannot decode black, and says so on stderr alone.
    """
    with opencv_errors() as lines:
        yield
    if unknown := next(filter(None, map(_UNSUPPORTED.search, lines)), None):
        raise ValueError(f"{path} is a TIFF of a kind that OpenCV does not decode: {unknown[1]}")
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
    if not is_tiff(encoded):
        return None
    try:
        return _changed(read_directory(encoded))
    except (struct.error, KeyError):
        return None  # damaged, or of a kind that is left to the decoder


def _changed(directory: Directory) -> Tiff | None:
    samples, bits = directory.value(SAMPLES, 1), directory.value(BITS, 1)
    photometric = directory.value(PHOTOMETRIC, 1)
    if bits == 16 and directory.value(FORMAT, 1) != 1:  # signed, or floats
        return None
    if bits == 16 and directory.value(PLANAR, 1) == 2 and samples in (3, 4) and photometric == _RGB:
        planes = [_plane(directory, k, samples) for k in range(samples)]
        return Tiff(planes, white_is_zero=False)
    if bits == 16 and samples == 1 and photometric == 0:
        return Tiff([bytes(directory.encoded)], white_is_zero=True)
    if bits == 8 and samples == 4 and photometric == _RGB and directory.value(EXTRA, 0) == 2:
        changed = bytearray(directory.encoded)
        # If the colours are said to be multiplied by alpha already, libtiff leaves them alone.
        entry = directory.entries[EXTRA]
        struct.pack_into(directory.form.order + CODES[entry.kind], changed, entry.data, 1)
        return Tiff([bytes(changed)], white_is_zero=False)
    return None


def _plane(directory: Directory, plane: int, samples: int) -> bytes:
    """Return a file whose only picture is one plane of another, in gray."""
    changed = bytearray(directory.encoded)
    form = directory.form

    def put(tag: int, number: int) -> None:
        entry = directory.entries[tag]
        struct.pack_into(f"{form.order}HH{form.offset}", changed, entry.place, tag, 3, 1)
        end = entry.place + 4 + 2 * form.room
        changed[end - form.room : end] = struct.pack(form.order + "H", number).ljust(
            form.room, b"\0"
        )

    for tag, number in ((SAMPLES, 1), (BITS, 16), (PHOTOMETRIC, 1), (PLANAR, 1)):
        put(tag, number)
    if FORMAT in directory.entries:
        put(FORMAT, 1)
    if EXTRA in directory.entries:  # an unknown private tag: one gray sample has none
        struct.pack_into(form.order + "H", changed, directory.entries[EXTRA].place, 65000)
    for tag in (STRIPS, COUNTS, TILES, TILE_COUNTS):
        if tag in directory.entries:
            _choose(changed, directory, tag, plane, samples)
    return bytes(changed)


def _choose(changed: bytearray, directory: Directory, tag: int, plane: int, samples: int) -> None:
    """Let an entry list the strips or tiles of one plane."""
    entry, form = directory.entries[tag], directory.form
    count, size = entry.length // samples, struct.calcsize(form.order + CODES[entry.kind])
    struct.pack_into(f"{form.order}HH{form.offset}", changed, entry.place, tag, entry.kind, count)
    first, place = entry.data + plane * count * size, entry.place + 4 + form.room
    if count * size > form.room:
        struct.pack_into(form.order + form.offset, changed, place, first)
    else:
        values = bytes(changed[first : first + count * size])
        changed[place : place + form.room] = values.ljust(form.room, b"\0")
