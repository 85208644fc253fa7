"""Read and write pictures as uint8 RGB arrays."""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import check_image
from flowmatch.io._bmp import bmp_whites
from flowmatch.io._claims import check_claim
from flowmatch.io._files import (
    FilePath,
    entry_for_suffix,
    existing_file,
    reason_of,
    replace_when_done,
)
from flowmatch.io._pages import has_pages
from flowmatch.io._pnm import is_pnm, read_pnm
from flowmatch.io._quiet import quiet_stderr
from flowmatch.io._tiff import changed_tiff, damage_as_error
from flowmatch.io._tiff_directory import choose_page, directory_places, is_tiff
from flowmatch.io._white import check_white, stated_white, white_in_force
from flowmatch.io.metadata import Metadata, embed_metadata

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm",
)  # fmt: skip

# Further pictures that `list_images` finds: JPEGs by other names, and what this OpenCV decodes.
_DECODED = (".avif", ".gif", ".jp2")
READ_SUFFIXES = (
    *IMAGE_SUFFIXES, ".jpe", ".jfif", *filter(cv2.haveImageWriter, _DECODED),
)  # fmt: skip
# Pictures that are named when they are skipped.
_OTHER_KINDS = {
    *_DECODED, ".heic", ".heif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2",
    ".raf", ".psd", ".exr", ".hdr",
} - set(READ_SUFFIXES)  # fmt: skip

_MAX_SIDES = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}

_LOW_BITS = (1024, 4096)  # 10 and 12 bits, the most frequent depths of scientific cameras


def list_images(folder: FilePath) -> tuple[Path, ...]:
    """Return the paths of the pictures in a folder, sorted by name, without hidden files.

    Raises:
        FileNotFoundError: The folder does not exist or holds no picture.

    Warns:
        UserWarning: The folder also holds pictures of kinds that cannot be read, such as HEIC.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    visible = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    warn_of_other_kinds(folder, visible)
    files = tuple(file for file in visible if file.suffix.lower() in READ_SUFFIXES)
    if not files:
        raise FileNotFoundError(f"{folder} holds no picture ({', '.join(sorted(READ_SUFFIXES))})")
    return files


def warn_of_other_kinds(folder: Path, files: Sequence[Path]) -> None:
    """Warn of pictures among the files of a folder that are of kinds that cannot be read."""
    others = [file.name for file in files if file.suffix.lower() in _OTHER_KINDS]
    if others:
        names = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        warnings.warn(
            f"{folder}: skipped {len(others)} picture{'s' if len(others) > 1 else ''} of kinds "
            f"that cannot be read: {names}",
            stacklevel=3,
        )


def read_image(path: FilePath, *, white: int | None = None) -> NDArray[np.uint8]:
    """Read a picture of any kind as 8-bit RGB.

    Gray is repeated to three channels, alpha is dropped, more than 8 bits are rounded to 8, and
    the orientation in EXIF is applied. Of several pages, or of an animation, the first picture is
    read; `read_frames` reads all.

    Args:
        path: File of any format that OpenCV decodes; the content decides, not the suffix.
        white: Value of white in pictures of more than 8 bits, such as 4095 for 12 bits stored in
            a TIFF or PNG of 16; brighter pixels become white. None takes that of `white_level`,
            otherwise what the file states (PNM, AVIF, JPEG 2000), otherwise 65535. Pictures of 8
            bits do not use it.

    Returns:
        Image ``[H, W, 3]``, RGB.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, or not a picture, or holds floats, or `white` is not
            within 1 to 65535.

    Warns:
        UserWarning: A picture of 16 bits holds no value above 4095, and `white` is None: it may
            be one of 12 bits, which comes out 16 times too dark. Or the file has several pages.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "red.png"
        >>> write_image(path, np.full((2, 3, 3), (255, 0, 0), np.uint8))
        >>> read_image(path)[0, 0].tolist()
        [255, 0, 0]
    """
    # OpenCV 5.0 leaves most of a 16-bit TIFF's pixels unwritten with IMREAD_COLOR_RGB.
    bgr = _decode(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH, white)
    return _converted(bgr, cv2.COLOR_GRAY2RGB, cv2.COLOR_BGR2RGB, cv2.COLOR_BGRA2RGB)


def read_rgba(path: FilePath, *, white: int | None = None) -> NDArray[np.uint8]:
    """Read a picture with its alpha channel, as 8-bit RGBA; without one it is opaque.

    Args:
        path: File of any format that OpenCV decodes; the content decides, not the suffix.
        white: Value of white, as in `read_image`.

    Returns:
        Image ``[H, W, 4]``: RGB, and alpha from 0 (transparent) to 255.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, or not a picture, or holds floats.
    """
    picture = _decode(path, cv2.IMREAD_UNCHANGED, white)
    return _converted(picture, cv2.COLOR_GRAY2RGBA, cv2.COLOR_BGR2RGBA, cv2.COLOR_BGRA2RGBA)


def count_pages(path: Path) -> int:
    """Return the number of pictures in a file: pages of a TIFF, pictures of an animation.

    Raises:
        ValueError: It claims more pixels than its bytes can hold.
    """
    if path.stat().st_size:
        check_claim(path, np.memmap(path, np.uint8, "r").data)
    try:
        with quiet_stderr():
            return max(1, int(cv2.imcount(str(path.absolute()))))
    except cv2.error:
        return 1


def read_pages(
    path: Path, start: int, count: int, white: int | None = None
) -> list[NDArray[np.uint8]]:
    """Read some of the pictures of a file as 8-bit RGB; `white` is as in `read_image`.

    Raises:
        ValueError: They are damaged, or hold floats.
    """
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    content = np.memmap(path, np.uint8, "c")  # what is changed is copied, the file stays
    check_claim(path, content.data)
    stated = stated_white(content.data)
    places = list(islice(directory_places(content.data), start, start + count))
    decoded = (
        _tiff_pages(path, content, places, flags)
        if places
        else _animation(path, start, count, flags)
    )
    pages = []
    for page in decoded:
        _check_depth(path, page)
        pages.append(_scaled(path, page, white, stated))
    if len(pages) != count:
        raise ValueError(f"{path}: page {start + len(pages)} is damaged")
    conversions = cv2.COLOR_GRAY2RGB, cv2.COLOR_BGR2RGB, cv2.COLOR_BGRA2RGB
    return [_converted(page, *conversions) for page in pages]


def _tiff_pages(
    path: Path, content: NDArray[np.uint8], places: Sequence[int], flags: int
) -> Iterator[NDArray[Any]]:
    for place in places:
        choose_page(content.data, place)
        yield _decoded(path, content, flags)


def _animation(path: Path, start: int, count: int, flags: int) -> list[NDArray[Any]]:
    """Decode pictures of an animation, which is decoded from its beginning."""
    try:
        with quiet_stderr():
            done, decoded = cv2.imreadmulti(str(path.absolute()), 0, start + count, flags=flags)
    except cv2.error as error:
        raise ValueError(f"{path}: page {start} cannot be decoded: {reason_of(error)}") from error
    pages: list[NDArray[Any]] = [np.asarray(page) for page in decoded[start:]]
    return pages if done else []


def _check_depth(path: Path, image: NDArray[Any]) -> None:
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path}: expected an image of 8 or 16 bits, got {image.dtype}")


def _converted(picture: NDArray[np.uint8], gray: int, bgr: int, bgra: int) -> NDArray[np.uint8]:
    channels = 1 if picture.ndim == 2 else picture.shape[2]
    return np.asarray(cv2.cvtColor(picture, {1: gray, 3: bgr, 4: bgra}[channels]), np.uint8)


def _decode(path: FilePath, flags: int, white: int | None) -> NDArray[np.uint8]:
    path = existing_file(path)
    check_white(white, path)
    # Decoding from memory, because OpenCV opens only ASCII names on Windows.
    encoded = np.fromfile(path, np.uint8)
    if encoded.size == 0:
        raise ValueError(f"{path} is empty, expected an image")
    image: NDArray[Any]
    stated: int | None
    if is_pnm(encoded.data):
        # OpenCV ignores the value of white in the header.
        image, stated = read_pnm(path, encoded.data)
    else:
        image, stated = _decoded(path, encoded, flags), stated_white(encoded.data)
    _check_depth(path, image)
    if has_pages(encoded.data):
        # The same words for a whole folder, so that Python shows the warning once.
        warnings.warn(
            f"a picture in {path.parent} has several pages, or is an animation: only the first is "
            "read; flowmatch flow takes all pages of one file",
            stacklevel=3,
        )
    return _scaled(path, image, white, stated)


def _scaled(
    path: Path, image: NDArray[Any], white: int | None, stated: int | None
) -> NDArray[np.uint8]:
    """Return a decoded picture in 8 bits, `white` or else what is in force or stated as 255."""
    if image.dtype == np.uint8:
        return _eight_bits(image, stated or 255)
    white = white_in_force() if white is None else white
    if white is None and stated in (None, 65535):
        _warn_about_low_bits(path, image)
    return _eight_bits(image, white or stated or 65535)


def _decoded(path: Path, encoded: NDArray[np.uint8], flags: int) -> NDArray[Any]:
    """Decode the content of a file, after checks of its header."""
    check_claim(path, encoded.data)
    if tiff := changed_tiff(encoded.data):
        parts = [_by_opencv(path, np.frombuffer(part, np.uint8), flags) for part in tiff.parts]
        if len(parts) == 1:
            return 65535 - parts[0] if tiff.white_is_zero else parts[0]
        gray = [part if part.ndim == 2 else part[..., 0] for part in parts]
        red, green, blue, *alpha = gray
        return np.dstack([blue, green, red, *(alpha if flags == cv2.IMREAD_UNCHANGED else ())])
    return _by_opencv(path, encoded, flags)


def _by_opencv(path: Path, encoded: NDArray[np.uint8], flags: int) -> NDArray[Any]:
    try:
        with _decoder_errors(path, encoded.data):
            image = cv2.imdecode(encoded, flags)
            if image is None and is_tiff(encoded.data):
                image = _from_file(encoded, flags)
    except cv2.error as error:
        raise ValueError(f"{path} cannot be decoded as an image: {reason_of(error)}") from error
    if image is None:
        raise ValueError(f"{path} is damaged, or not an image of a kind that OpenCV decodes")
    if whites := bmp_whites(encoded.data):
        levels = np.arange(256)[:, None] / np.array(whites) * 255
        table = np.rint(levels).clip(0, 255).astype(np.uint8)
        image = cv2.LUT(image, table[:, None])
    return np.asarray(image)


def _from_file(encoded: NDArray[np.uint8], flags: int) -> NDArray[Any] | None:
    """Decode a TIFF from a file.

    From memory, OpenCV refuses tiles of less than 1024 bytes that are not compressed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "page.tif")
        path.write_bytes(encoded.data)
        return cv2.imread(str(path), flags)


def _decoder_errors(path: Path, encoded: memoryview) -> AbstractContextManager[None]:
    """Return a block for a decoder, in which nothing is printed on stderr."""
    return damage_as_error(path) if is_tiff(encoded) else quiet_stderr()


def _warn_about_low_bits(path: Path, image: NDArray[Any]) -> None:
    brightest = image.max()
    if 0 < brightest < _LOW_BITS[-1]:
        limit = next(limit for limit in _LOW_BITS if brightest < limit) - 1
        # The same words for a whole folder, so that Python shows the warning once.
        warnings.warn(
            f"a picture of 16 bits in {path.parent} holds no value above {limit}: if it has fewer "
            f"bits, it is read too dark; for those of {limit.bit_length()} give white={limit}, or "
            f"--white {limit} on the command line",
            stacklevel=4,
        )


def _eight_bits(image: NDArray[Any], white: int) -> NDArray[np.uint8]:
    """Scale values so that `white` becomes 255."""
    if white != 255:
        wide = np.minimum(image, white).astype(np.uint32)
        image = (wide * 255 + white // 2) // white
    elif image.dtype == np.uint16:
        image = np.minimum(image, 255)
    return np.ascontiguousarray(image, dtype=np.uint8)


def check_picture_size(path: FilePath, width: int, height: int) -> None:
    """Raise an error if the format of a file cannot hold a picture of this size.

    Raises:
        ValueError: A side is longer than the format allows; the message names both.

    Example:
        >>> check_picture_size("wide.webp", 20_000, 3_000)
        Traceback (most recent call last):
        ...
        ValueError: wide.webp: .webp holds at most 16383 x 16383 pixels, got 20000 x 3000
    """
    suffix = Path(path).suffix.lower()
    longest = _MAX_SIDES.get(suffix)
    if longest is not None and max(width, height) > longest:
        raise ValueError(
            f"{path}: {suffix} holds at most {longest} x {longest} pixels, got {width} x {height}"
        )


def write_image(path: FilePath, image: ArrayLike, *, metadata: Metadata | None = None) -> None:
    """Write a picture; the suffix, one of `IMAGE_SUFFIXES`, determines the format.

    Args:
        path: File to write; its folder must exist. It gets its name only when complete.
        image: Picture, uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        metadata: EXIF, colour profile and XMP, for JPEG and PNG; other formats leave them out.

    Raises:
        ValueError: Wrong shape or type, unknown format, or a format that cannot hold the picture.
        FileNotFoundError: The folder does not exist.

    Example:
        >>> import tempfile
        >>> write_image(Path(tempfile.mkdtemp()) / "gray.jpg", np.zeros((4, 4), np.uint8))
    """
    path = Path(path)
    suffix = entry_for_suffix(path, {suffix: suffix for suffix in IMAGE_SUFFIXES}, "picture")
    pixels = check_image(image, f"{path}: image")
    colour = pixels.ndim == 3
    if (suffix, colour) in ((".pgm", True), (".ppm", False)):
        raise ValueError(f"{path}: .pgm holds gray and .ppm colour, got {list(pixels.shape)}")
    check_picture_size(path, pixels.shape[1], pixels.shape[0])
    with replace_when_done(path) as temporary:
        try:
            done, encoded = cv2.imencode(suffix, pixels[..., ::-1] if colour else pixels)
        except cv2.error as error:
            raise ValueError(f"{path} cannot be encoded: {reason_of(error)}") from error
        if not done:
            raise ValueError(f"{path}: {list(pixels.shape)} pixels cannot be encoded as {suffix}")
        content = encoded.tobytes()
        temporary.write_bytes(embed_metadata(content, metadata) if metadata else content)
