"""Values of white in pictures of more than 8 bits: stated by AVIF and JPEG 2000, or given."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_AV1C = re.compile(rb"av1C.(.)(.)", re.DOTALL)  # the codec's configuration box
_JPEG2000 = re.compile(rb"\xff\x4f\xff\x51.{38}(.)", re.DOTALL)  # start, and sizes up to the depth
_HEADER = 1 << 16
_IN_FORCE: ContextVar[int | None] = ContextVar("white", default=None)


def stated_white(encoded: bytes | memoryview) -> int | None:
    """Return the value of white that the header of a picture states, or None.

    Example:
        >>> stated_white(b"a PNG fills its 16 bits") is None
        True
    """
    start = bytes(encoded[:_HEADER])
    if start[4:12] in (b"ftypavif", b"ftypavis") or b"avif" in start[8:40]:
        if found := _AV1C.search(start):
            flags = found[2][0]
            return 255 if not flags & 0x40 else 4095 if flags & 0x20 else 1023
    elif (start[4:8] == b"jP  " or start[:2] == b"\xff\x4f") and (found := _JPEG2000.search(start)):
        return int((2 << (found[1][0] & 0x7F)) - 1)
    return None


@contextmanager
def white_level(white: int | None) -> Iterator[None]:
    """Take a value of white for all pictures of 16 bits that are read within the block.

    It reaches functions that read files themselves, such as `match_pairs` and `stitch_photos`, as
    ``--white`` of the commands does. Other threads, and workers that load training data, do not
    see it.

    Args:
        white: Value of white, such as 4095 for 12 bits stored in a TIFF or PNG of 16; None
            changes nothing.

    Raises:
        ValueError: The value is not within 1 to 65535.

    Example:
        >>> with white_level(4095):
        ...     white_in_force()
        4095
    """
    check_white(white)
    token = _IN_FORCE.set(_IN_FORCE.get() if white is None else white)
    try:
        yield
    finally:
        _IN_FORCE.reset(token)


def white_in_force() -> int | None:
    """Return the value of white of the innermost `white_level`, or None."""
    return _IN_FORCE.get()


def check_white(white: int | None, path: Path | None = None) -> None:
    """Raise ValueError unless a value of white is within 1 to 65535, or None."""
    if white is not None and not 1 <= white <= 65535:
        name = "" if path is None else f"{path}: "
        raise ValueError(f"{name}white must be a value from 1 to 65535, got {white}")
