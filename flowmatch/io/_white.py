"""Values of white in pictures whose decoder returns them unscaled: AVIF and JPEG 2000."""

import re

_AV1C = re.compile(rb"av1C.(.)(.)", re.DOTALL)  # the codec's configuration box
_JPEG2000 = re.compile(rb"\xff\x4f\xff\x51.{38}(.)", re.DOTALL)  # start, and sizes up to the depth
_HEADER = 1 << 16


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
