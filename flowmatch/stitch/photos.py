"""Photos of a panorama, read one at a time at the size that a stage needs."""

import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import Image, as_rgb, resize
from flowmatch.io import list_images, read_image, read_rgba

Size: TypeAlias = tuple[int, int]
"""Width and height in pixels."""


_OPAQUE_FORMATS = (b"\xff\xd8\xff", b"BM", b"P2", b"P3", b"P5", b"P6")  # JPEG, BMP, PNM
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_WITH_ALPHA = (4, 6)  # colour types
_HALF = 127  # alpha above which a pixel belongs to the photo


class MaskedImage(NamedTuple):
    """A photo and the part of it that is not transparent.

    Attributes:
        image: ``[H, W, 3]`` uint8, RGB; transparent pixels have the colour of the nearest others.
        mask: ``[H, W]`` uint8, 255 inside the photo, 0 where it is transparent; None if it is
            transparent nowhere.
    """

    image: Image
    mask: Image | None


class Photo:
    """One photo: a file that is read each time its pixels are needed, or pixels in memory.

    Attributes:
        name: Name in messages and reports.
        number: Position among the photos that were opened together, from 0.
    """

    def __init__(self, source: str | os.PathLike[str] | ArrayLike, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self._source: Any = source
        self._opaque = not isinstance(source, str | os.PathLike)

    def read(self, size: Size | None = None) -> Image:
        """Return the photo as RGB ``[H, W, 3]``, reduced to a width and height; None keeps its own.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is not an image.
        """
        return self.read_masked(size).image

    def read_masked(self, size: Size | None = None) -> MaskedImage:
        """Return the photo as `read` does, and where it is not transparent.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is not an image.
        """
        is_file = isinstance(self._source, str | os.PathLike)
        image = read_image(self._source) if is_file else as_rgb(self._source, self.name)
        mask = None
        if not self._opaque:
            mask = _read_mask(Path(self._source), image)
            self._opaque = mask is None  # the file is not asked again
        if mask is not None:
            image = _fill(image, mask)
        if size is not None:
            image, mask = reduce_image(image, size), reduce_mask(mask, size)
        return MaskedImage(image, mask)


def _read_mask(path: Path, image: Image) -> Image | None:
    """Return where a file is not transparent, 255 or 0; None if it is transparent nowhere.

    Args:
        path: File of a picture.
        image: The same picture from `read_image`.
    """
    with path.open("rb") as file:
        head = file.read(2**16)
    if head.startswith(_OPAQUE_FORMATS):
        return None
    if head.startswith(_PNG) and head[25] not in _PNG_WITH_ALPHA and b"tRNS" not in head:
        return None
    rgba = read_rgba(path)
    if rgba[..., 3].min() > _HALF:
        return None
    return (_turned_like(rgba, image)[..., 3] > _HALF).astype(np.uint8) * 255


def _turned_like(rgba: NDArray[np.uint8], image: Image) -> NDArray[np.uint8]:
    """Return a picture with the orientation of `image`: `read_rgba` ignores that in EXIF.

    Raises:
        ValueError: It has the size of the image in no orientation.
    """
    turned = [
        np.rot90(flipped, quarters) for flipped in (rgba, rgba[:, ::-1]) for quarters in range(4)
    ]
    fitting = [picture for picture in turned if picture.shape[:2] == image.shape[:2]]
    for picture in fitting:
        opaque = picture[..., 3] == 255
        if (picture[opaque][:, :3] == image[opaque]).all():
            return picture
    if not fitting:
        raise ValueError(f"its alpha is {rgba.shape[1]} x {rgba.shape[0]}, unlike its colours")
    return fitting[0]


def _fill(image: Image, mask: Image) -> Image:
    """Return an image whose pixels outside the mask have the colour of the nearest one inside."""
    inside = mask > 0
    if not inside.any():
        return np.zeros_like(image)
    _, labels = cv2.distanceTransformWithLabels(
        255 - mask, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colours = np.zeros((int(labels.max()) + 1, 3), np.uint8)
    colours[labels[inside]] = image[inside]
    filled = image.copy()
    filled[~inside] = colours[labels[~inside]]
    return filled


Source: TypeAlias = str | os.PathLike[str] | ArrayLike | Photo
"""A file, pixels (uint8 RGB ``[H, W, 3]`` or gray ``[H, W]``), or a photo that is open already."""


def open_photos(sources: Sequence[Source]) -> list[Photo]:
    """Name photos: a file by its name if that is unique, else by its path; pixels by their place.

    Nothing is read. Photos that are open already stay as they are.

    Args:
        sources: Files, images or photos.

    Returns:
        Photos in the same order.

    Raises:
        FileNotFoundError: A file does not exist.

    Example:
        >>> import numpy as np
        >>> [photo.name for photo in open_photos([np.zeros((4, 6), np.uint8)] * 2)]
        ['photo 1', 'photo 2']
    """
    files = [Path(source) for source in sources if isinstance(source, str | os.PathLike)]
    for file in files:
        if not file.exists():
            raise FileNotFoundError(f"{file} does not exist")
    names = [file.name for file in files]
    photos = []
    for number, source in enumerate(sources):
        if isinstance(source, Photo):
            photos.append(source)
        elif isinstance(source, str | os.PathLike):
            file = Path(source)
            name = file.name if names.count(file.name) == 1 else str(file)
            photos.append(Photo(file, name, number))
        else:
            photos.append(Photo(source, f"photo {number + 1}", number))
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
