"""Photos as a stitcher sees them: read one at a time, at the size that a stage needs."""

import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2
from flowmatch.io import list_images, read_image

Image = NDArray[np.uint8]
Size = tuple[int, int]  # width, height


class Photo:
    """One photo: a file, read whenever it is asked for, or pixels that are there already.

    Attributes:
        name: What messages and reports call it.
    """

    def __init__(self, source: str | os.PathLike[str] | ArrayLike, name: str) -> None:
        self.name = name
        self._source: Any = source

    def read(self, size: Size | None = None) -> Image:
        """Return the photo as RGB ``[H, W, 3]``, reduced to a width and height; None keeps it.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is no image.
        """
        image = self._pixels()
        return image if size is None else shrunk(image, size)

    def _pixels(self) -> Image:
        if isinstance(self._source, str | os.PathLike):
            return read_image(self._source)
        pixels = np.asarray(self._source)
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.size == 0:
            came = f"{pixels.dtype} {list(pixels.shape)}"
            raise ValueError(f"{self.name} must be uint8 RGB [H, W, 3] or gray [H, W], got {came}")
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        if pixels.shape[2] != 3:
            raise ValueError(f"{self.name} must have 3 channels, got {pixels.shape[2]}")
        return np.ascontiguousarray(pixels)


def open_photos(images: Sequence[str | os.PathLike[str] | ArrayLike]) -> list[Photo]:
    """Name the photos: by the name of the file where that tells them apart, else by the path.

    Nothing is read yet. Pixels are called photo 1, photo 2, ... as they were given.
    """
    files = [Path(i).name for i in images if isinstance(i, str | os.PathLike)]
    photos = []
    for number, image in enumerate(images, 1):
        if isinstance(image, str | os.PathLike):
            file = Path(image)
            photos.append(Photo(file, file.name if files.count(file.name) == 1 else str(file)))
        else:
            photos.append(Photo(image, f"photo {number}"))
    return photos


def photos_in(paths: Sequence[Path], without: Collection[Path] = ()) -> list[Path]:
    """Replace each folder by the pictures in it, by name; other paths are kept as they are.

    Args:
        paths: Pictures and folders.
        without: Resolved paths of pictures that are skipped in folders.

    Raises:
        FileNotFoundError: A folder holds no picture.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += [file for file in list_images(path) if file.resolve() not in without]
        else:
            found.append(path)
    return found


def shrunk(image: Image, size: Size) -> Image:
    """Return an image reduced to a width and height."""
    if size == (image.shape[1], image.shape[0]):
        return image
    # An average over each new pixel, so that fine texture does not turn into false corners.
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def scaled_size(size: Size, scale: float) -> Size:
    """Return a width and height times `scale`, in whole pixels."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def scale_for(size: Size, megapixels: float | None) -> float:
    """Return by what to multiply the sides to get `megapixels`, never more than 1; None keeps."""
    if megapixels is None:
        return 1.0
    return min(1.0, math.sqrt(megapixels * 1e6 / (size[0] * size[1])))
