"""Pictures: uint8 RGB arrays in, uint8 RGB arrays out."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2
from flowmatch.io._files import FilePath, entry_for_suffix, existing_file, replace_when_done
from flowmatch.io._jpeg import check_jpeg, is_jpeg
from flowmatch.io._png import check_png, is_png

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm",
)  # fmt: skip

Picture = TypeVar("Picture")
_DRAWS = 20


def list_images(folder: FilePath) -> tuple[Path, ...]:
    """Return the pictures of a folder, by name; hidden ones are left out.

    Raises:
        FileNotFoundError: The folder is missing or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )
    if not files:
        raise FileNotFoundError(f"{folder} holds no picture ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return tuple(files)


def read_image(path: FilePath) -> NDArray[np.uint8]:
    """Read a picture, whatever it is, as 8-bit RGB.

    Gray is repeated to three channels, alpha is dropped, 16 bits are rounded to 8, and the
    orientation that a camera noted in EXIF is applied.

    Args:
        path: A file of any format that OpenCV decodes; its content counts, not its suffix.

    Returns:
        Image ``[H, W, 3]``, RGB.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or not a picture, or holds floats.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "red.png"
        >>> write_image(path, np.full((2, 3, 3), (255, 0, 0), np.uint8))
        >>> read_image(path)[0, 0].tolist()
        [255, 0, 0]
    """
    # OpenCV 5.0 leaves most of a 16-bit TIFF's pixels unwritten with IMREAD_COLOR_RGB.
    bgr = _decode(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def read_rgba(path: FilePath) -> NDArray[np.uint8]:
    """Read a picture with its opacity, as 8 bits; one without is opaque.

    Args:
        path: As `read_image` takes it.

    Returns:
        Image ``[H, W, 4]``: RGB, and alpha from 0, nothing to be seen, to 255.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or not a picture, or holds floats.
    """
    picture = _decode(path, cv2.IMREAD_UNCHANGED)
    channels = 1 if picture.ndim == 2 else picture.shape[2]
    to_rgba = {1: cv2.COLOR_GRAY2RGBA, 3: cv2.COLOR_BGR2RGBA, 4: cv2.COLOR_BGRA2RGBA}[channels]
    return np.asarray(cv2.cvtColor(picture, to_rgba), np.uint8)


def _decode(path: FilePath, flags: int) -> NDArray[np.uint8]:
    path = existing_file(path)
    # Decoding from memory, because OpenCV opens only ASCII names on Windows.
    encoded = np.fromfile(path, np.uint8)
    if encoded.size == 0:
        raise ValueError(f"{path} is empty, expected an image")
    if is_png(encoded.data):
        check_png(path, encoded.data)
    elif is_jpeg(encoded.data):
        check_jpeg(path, encoded.data)
    try:
        image = cv2.imdecode(encoded, flags)
    except cv2.error as error:
        raise ValueError(f"{path} cannot be decoded as an image: {error}") from error
    if image is None:
        raise ValueError(f"{path} is damaged, or not an image of a kind that OpenCV decodes")
    if image.dtype == np.uint16:
        # 65535 = 255 * 257, so white stays white.
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise ValueError(f"{path}: expected an image of 8 or 16 bits, got {image.dtype}")
    return np.ascontiguousarray(image, dtype=np.uint8)


def draw_readable(
    rng: np.random.Generator,
    pictures: Sequence[Picture],
    read: Callable[[Picture], NDArray[np.uint8]],
) -> tuple[int, NDArray[np.uint8]]:
    """Draw one of `pictures` and read it; warn of what cannot be read, and draw another.

    Returns:
        The place of the picture, and the picture.

    Raises:
        ValueError: None of 20 that were drawn can be read.

    Example:
        >>> black = np.zeros((2, 2, 3), np.uint8)
        >>> place, picture = draw_readable(np.random.default_rng(0), [black], lambda black: black)
        >>> place, picture.shape
        (0, (2, 2, 3))
    """
    for _ in range(_DRAWS):
        place = int(rng.integers(len(pictures)))
        try:
            return place, read(pictures[place])
        except (ValueError, OSError) as error:
            last = error
            warnings.warn(f"skipped: {error}", stacklevel=2)
    raise ValueError(f"of the pictures none that was drawn can be read, the last: {last}")


def write_image(path: FilePath, image: ArrayLike) -> None:
    """Write a picture; its suffix, one of `IMAGE_SUFFIXES`, names the format.

    Args:
        path: The file to write; its folder must exist. It gets its name only when complete.
        image: uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.

    Raises:
        ValueError: Wrong shape or type, or the format is unknown or cannot hold the picture.
        FileNotFoundError: The folder does not exist.

    Example:
        >>> import tempfile
        >>> write_image(Path(tempfile.mkdtemp()) / "gray.jpg", np.zeros((4, 4), np.uint8))
    """
    path = Path(path)
    suffix = entry_for_suffix(path, {suffix: suffix for suffix in IMAGE_SUFFIXES}, "picture")
    pixels = np.asarray(image)
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (colour or pixels.ndim == 2) or pixels.size == 0:
        raise ValueError(
            f"{path}: image must be uint8 [H, W, 3] or [H, W], "
            f"got {pixels.dtype} {list(pixels.shape)}"
        )
    if (suffix, colour) in ((".pgm", True), (".ppm", False)):
        raise ValueError(f"{path}: .pgm holds gray and .ppm colour, got {list(pixels.shape)}")
    with replace_when_done(path) as beside:
        try:
            done, encoded = cv2.imencode(suffix, pixels[..., ::-1] if colour else pixels)
        except cv2.error as error:
            raise ValueError(f"{path} cannot be encoded: {error}") from error
        if not done:
            raise ValueError(f"{path}: {list(pixels.shape)} pixels cannot be encoded as {suffix}")
        beside.write_bytes(encoded.tobytes())
