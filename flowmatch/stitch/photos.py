"""Photos of a panorama, read one at a time at the size that a stage needs."""

import math
import os
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from flowmatch.imaging import Image, as_rgb, resize
from flowmatch.io import Metadata, list_images, read_image, read_metadata
from flowmatch.io.masked import MaskedImage, apply_mask, read_masked

Size: TypeAlias = tuple[int, int]
"""Width and height in pixels."""


VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".mts", ".3gp")
_HALF = 127  # alpha above which a pixel belongs to the photo


class Photo:
    """One photo: a file that is read each time its pixels are needed, or pixels in memory.

    Attributes:
        name: Name in messages and reports.
        number: Position among the photos that were opened together, from 0.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | ArrayLike,
        name: str,
        number: int,
        mask: "MaskSource" = None,
    ) -> None:
        self.name = name
        self.number = number
        self._source: Any = source
        self._mask: Any = mask
        self._opaque = False

    @cached_property
    def metadata(self) -> Metadata:
        """What the camera wrote into the file; nothing for pixels in memory.

        Raises:
            OSError: The file cannot be read.
        """
        is_file = isinstance(self._source, str | os.PathLike)
        return read_metadata(self._source) if is_file else Metadata()

    def read(self, size: Size | None = None) -> Image:
        """Return the photo as RGB ``[H, W, 3]``, reduced to a width and height; None keeps its own.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is not an image.
        """
        return self.read_masked(size).image

    def read_masked(self, size: Size | None = None) -> MaskedImage:
        """Return the photo as `read` does, and where it is neither transparent nor masked.

        Raises:
            OSError: A file cannot be read.
            ValueError: It is not an image, or its mask has another size.
        """
        image: Image
        mask: Image | None = None
        if not isinstance(self._source, str | os.PathLike):
            image = as_rgb(self._source, self.name)
        elif self._opaque:
            image = read_image(self._source)
        else:
            image, mask = read_masked(self._source)
            self._opaque = mask is None  # the file is not asked again
        if self._mask is not None:
            is_file = isinstance(self._mask, str | os.PathLike)
            name = str(self._mask) if is_file else f"the mask of {self.name}"
            pixels = read_image(self._mask) if is_file else self._mask
            # Blending averages over the edge of a mask, across which nothing may bleed.
            image, mask = apply_mask(MaskedImage(image, mask), pixels, name=name, of=self.name)
        if size is not None:
            image, mask = reduce_image(image, size), reduce_mask(mask, size)
        return MaskedImage(image, mask)


Source: TypeAlias = str | os.PathLike[str] | ArrayLike | Photo
"""A file, pixels (uint8 RGB ``[H, W, 3]`` or gray ``[H, W]``), or a photo that is open already."""
MaskSource: TypeAlias = str | os.PathLike[str] | ArrayLike | None
"""A file, or bool or uint8 ``[H, W]``: a photo is ignored where it is black; None: nowhere."""


def open_photos(
    sources: Sequence[Source], masks: Sequence[MaskSource] | None = None
) -> list[Photo]:
    """Name photos: a file by its name if that is unique, else by its path; pixels by their place.

    Nothing is read. Photos that are open already stay as they are.

    Args:
        sources: Files, images or photos.
        masks: One for each source, of its size (after the orientation that EXIF gives): what is
            black is neither matched nor shown, nor counts for exposure and seams.

    Returns:
        Photos in the same order.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: There are more or fewer masks than sources, or a mask for an open photo.

    Example:
        >>> import numpy as np
        >>> [photo.name for photo in open_photos([np.zeros((4, 6), np.uint8)] * 2)]
        ['photo 1', 'photo 2']
    """
    if masks is None:
        masks = [None] * len(sources)
    if len(masks) != len(sources):
        raise ValueError(f"expected one mask for each of {len(sources)} photos, got {len(masks)}")
    files = [Path(source) for source in sources if isinstance(source, str | os.PathLike)]
    mask_files = [Path(mask) for mask in masks if isinstance(mask, str | os.PathLike)]
    for file in (*files, *mask_files):
        if not file.exists():
            raise FileNotFoundError(f"{file} does not exist")
    names = [file.name for file in files]
    photos = []
    for number, (source, mask) in enumerate(zip(sources, masks, strict=True)):
        if isinstance(source, Photo):
            if mask is not None:
                raise ValueError(
                    f"{source.name} is open already: its mask belongs to `open_photos`"
                )
            photos.append(source)
        elif isinstance(source, str | os.PathLike):
            file = Path(source)
            name = file.name if names.count(file.name) == 1 else str(file)
            photos.append(Photo(file, name, number, mask))
        else:
            photos.append(Photo(source, f"photo {number + 1}", number, mask))
    return photos


def expand_folders(paths: Sequence[Path], without: Collection[Path] = ()) -> list[Path]:
    """Replace each folder by the images in it, sorted by name; other paths are kept.

    Args:
        paths: Images and folders.
        without: Resolved paths of images that are skipped in folders.

    Returns:
        Paths of images.

    Raises:
        FileNotFoundError: A path does not exist, or a folder contains no image.
    """
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
    images: list[Path] = []
    for path in paths:
        if path.is_dir():
            images += [file for file in list_images(path) if file.resolve() not in without]
        else:
            images.append(path)
    return images


def is_video(path: Path) -> bool:
    """Return whether a file is named as a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def reduce_image(image: Image, size: Size) -> Image:
    """Return an image reduced to a width and height; the image itself if it has them already."""
    return image if size == (image.shape[1], image.shape[0]) else resize(image, size)


def reduce_mask(mask: Image | None, size: Size) -> Image | None:
    """Return a mask reduced to a width and height; 255 where most of a pixel is inside."""
    if mask is None:
        return None
    return (reduce_image(mask, size) > _HALF).astype(np.uint8) * 255


def scaled_size(size: Size, scale: float) -> Size:
    """Return a width and height times `scale`, in whole pixels, at least 1."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def scale_for(size: Size, megapixels: float | None) -> float:
    """Return the factor of the sides, at most 1, that leaves `megapixels`; 1 for None."""
    if megapixels is None:
        return 1.0
    return min(1.0, math.sqrt(megapixels * 1e6 / (size[0] * size[1])))
