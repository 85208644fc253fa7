"""Results of a task, and the pictures that it reads and shows."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flowmatch.imaging import Image, resize_within
from flowmatch.io import write_image
from flowmatch.io.masked import MaskedImage, read_masked

LARGEST_SHOWN = 1600
"""Longer side of pictures in the browser; larger ones are shown reduced, pixels."""


class Shown(NamedTuple):
    """A picture or video to look at.

    Attributes:
        file: Picture or video.
        caption: What it shows.
        reduced: Smaller picture for the page, if the file is large.
    """

    file: Path
    caption: str
    reduced: Path | None = None


@dataclass(frozen=True)
class TaskResult:
    """What a task found, and the files that it wrote.

    Attributes:
        summary: The result in one sentence.
        trusted: Whether the result is to be trusted.
        facts: Names and values of the figures.
        shown: Pictures and videos to look at.
        files: Files to download.
        notes: Warnings and what was left out.
    """

    summary: str
    trusted: bool = True
    facts: tuple[tuple[str, str], ...] = ()
    shown: tuple[Shown, ...] = ()
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def read_picture(path: Path) -> MaskedImage:
    """Read a picture that somebody uploaded.

    Raises:
        ValueError: It is damaged, no picture, or has too many pixels.
    """
    try:
        return read_masked(path)
    except ValueError as error:
        if "IO_MAX_IMAGE" in str(error):  # OpenCV's assertion
            raise ValueError(f"{path} has too many pixels") from error
        raise


def show(path: Path, image: Image, caption: str) -> Shown:
    """Write a picture, and a reduced one for the browser if it is large.

    Args:
        path: File to write; the reduced picture is a JPEG of a similar name.
        image: Picture ``[H, W, 3]``.
        caption: What it shows.
    """
    write_image(path, image)
    reduced = resize_within(image, LARGEST_SHOWN)
    if reduced is image:
        return Shown(path, caption)
    small = path.with_name(f"{path.stem}_reduced.jpg")
    write_image(small, reduced)
    return Shown(path, caption, small)


def size_of(image: Image) -> str:
    """Return width and height of a picture in words.

    Example:
        >>> import numpy as np
        >>> size_of(np.zeros((2, 3), np.uint8))
        '3 x 2 pixels'
    """
    return f"{image.shape[1]} x {image.shape[0]} pixels"
