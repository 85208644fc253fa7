"""BMP files: a check of the header, and the values of white in pixels of 16 bits."""

import struct
from pathlib import Path

_BITFIELDS = 3  # compression: masks of the channels follow the header
_SIX_BITS_OF_GREEN = 0x07E0  # mask


def is_bmp(encoded: memoryview) -> bool:
    """Return whether a file begins as a BMP does."""
    return bytes(encoded[:2]) == b"BM"


def check_bmp(path: Path, encoded: memoryview) -> None:
    """Check that the pixels of a BMP begin behind its header: OpenCV takes any bytes for pixels.

    Raises:
        ValueError: They begin within it.
    """
    if len(encoded) < 18:
        return
    start, length = struct.unpack_from("<II", encoded, 10)
    if start < 14 + length:
        raise ValueError(
            f"{path} is damaged: its pixels begin at byte {start}, within the {14 + length} bytes "
            "of its header"
        )


def bmp_whites(encoded: memoryview) -> tuple[int, int, int] | None:
    """Return what OpenCV decodes white to, in BGR, in a BMP of 16 bits a pixel; else None.

    It shifts the 5 or 6 bits of a channel to the left.
    """
    if not is_bmp(encoded) or len(encoded) < 66:
        return None
    bits, compression = struct.unpack_from("<HI", encoded, 28)
    if bits != 16:
        return None
    (green,) = struct.unpack_from("<I", encoded, 58)
    six = compression == _BITFIELDS and green == _SIX_BITS_OF_GREEN
    return 248, 252 if six else 248, 248
