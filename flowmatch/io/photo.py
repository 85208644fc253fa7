"""Photographs and other items of training data, some of which cannot be read."""

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from flowmatch.io._files import FilePath, message_of
from flowmatch.io.image import read_image

Item = TypeVar("Item")
Content = TypeVar("Content")
_ATTEMPTS = 20
SMALLEST_PHOTO = 32
"""Smallest side of a photograph, in pixels."""


def read_photo(path: FilePath) -> NDArray[np.uint8]:
    """Read a photograph that synthetic samples are made from, as 8-bit RGB.

    Args:
        path: File of any format that OpenCV decodes.

    Returns:
        Image ``[H, W, 3]``, at least `SMALLEST_PHOTO` pixels to a side.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, or not a picture, or the picture is too small.
    """
    photo = read_image(path)
    if min(photo.shape[:2]) < SMALLEST_PHOTO:
        raise ValueError(
            f"{path}: a photograph must have {SMALLEST_PHOTO} pixels to a side, "
            f"got {photo.shape[1]} x {photo.shape[0]}"
        )
    return photo


def sample_readable(
    rng: np.random.Generator,
    pictures: Sequence[Item],
    read: Callable[[Item], Content],
) -> tuple[int, Content]:
    """Read one of several pictures or pairs at random; after a failure, warn and choose another.

    Args:
        rng: Source of random numbers.
        pictures: Arguments of `read`, such as paths.
        read: Function that reads one of them; it may raise ValueError or OSError.

    Returns:
        Index of the picture, and the picture.

    Raises:
        ValueError: None of 20 chosen pictures can be read.

    Example:
        >>> black = np.zeros((2, 2, 3), np.uint8)
        >>> place, picture = sample_readable(np.random.default_rng(0), [black], lambda black: black)
        >>> place, picture.shape
        (0, (2, 2, 3))
    """
    for _ in range(_ATTEMPTS):
        place = int(rng.integers(len(pictures)))
        try:
            return place, read(pictures[place])
        except (ValueError, OSError) as error:
            last = error
            warnings.warn(f"skipped: {message_of(error)}", stacklevel=2)
    raise ValueError(
        f"none of {_ATTEMPTS} items chosen at random can be read; the last one: {last}"
    )
