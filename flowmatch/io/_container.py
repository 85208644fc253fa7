"""Sizes that video files state for themselves: a file that is cut off has fewer bytes."""

from pathlib import Path
from typing import BinaryIO

_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"sidx"}
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def stated_size(path: Path) -> int | None:
    """Return the number of bytes that an AVI, MP4, MOV, MKV or WebM file should have.

    Returns:
        The size; None if the file states none, as live recordings and other formats do.
    """
    with path.open("rb") as file:
        start = file.read(12)
        file.seek(0)
        if start[:4] == b"RIFF":
            return _riff(file)
        if start[4:8] in _BOXES:
            return _boxes(file, path.stat().st_size)
        if start[:4] == _EBML:
            return _matroska(file)
    return None


def _riff(file: BinaryIO) -> int | None:
    end = 0
    while len(head := _at(file, end, 8)) == 8 and head[:4] == b"RIFF":
        size = int.from_bytes(head[4:], "little")
        if size in (0, 0xFFFFFFFF):
            return None
        end += 8 + size
    return end


def _boxes(file: BinaryIO, actual: int) -> int | None:
    end = 0
    while head := _at(file, end, 16):
        if len(head) < 8:
            return end + 8
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if size == 0:  # up to the end of the file
            return actual
        if size < 8:
            return None
        end += size
    return end


def _matroska(file: BinaryIO) -> int | None:
    size, length = _number(_at(file, 4, 8))
    if size is None:
        return None
    segment = 4 + length + size
    head = _at(file, segment, 12)
    if head[:4] != _SEGMENT:
        return None
    size, length = _number(head[4:])
    return None if size is None else segment + 4 + length + size


def _number(data: bytes) -> tuple[int | None, int]:
    """Return a number of variable length, None if it is unknown, and its length."""
    if not data or not data[0]:
        return None, 0
    length = 9 - data[0].bit_length()
    value = int.from_bytes(data[:length], "big") & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), length


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)
