"""Where textures come from: folders of photographs and of objects with alpha, and procedure."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.flow.synthetic import textures
from flowmatch.io.image import sample_readable, list_images, read_image, read_rgba

Generator = np.random.Generator
Image = NDArray[np.uint8]

SMALLEST_PHOTO = 32
PROCEDURAL_SIZE = 640
PROCEDURAL_POOL = 200  # textures drawn once and used again: they cost as much as ten pairs


@dataclass(frozen=True)
class Sources:
    """Where textures come from; with nothing given, everything is procedural.

    Attributes:
        photos: Photographs, as files or arrays ``[H, W, 3]``.
        cutouts: Objects with alpha, as PNG files or arrays ``[H, W, 4]``.
        procedural: Share of backgrounds that are procedural although there are photographs.
    """

    photos: Sequence[Path | Image] = ()
    cutouts: Sequence[Path | Image] = ()
    procedural: float = 0.25

    @classmethod
    def from_folders(cls, photos: Path | None = None, cutouts: Path | None = None) -> "Sources":
        """Take every picture of the folders.

        Raises:
            FileNotFoundError: A folder is missing or holds no picture.
        """
        found = [() if folder is None else list_images(folder) for folder in (photos, cutouts)]
        return cls(found[0], found[1])


def backdrop(rng: Generator, sources: Sources) -> Image:
    """Return a photograph or a procedural texture, ``[H, W, 3]``."""
    if sources.photos and rng.random() >= sources.procedural:
        return sample_readable(rng, sources.photos, _load_photo)[1]
    return _procedural(int(rng.integers(PROCEDURAL_POOL)))


def shrink(picture: Image, scale: float) -> tuple[Image, float]:
    """Shrink what will be shown smaller, so that it does not alias; return the factor it took."""
    if scale <= 1.2:
        return picture, 1.0
    h, w = picture.shape[:2]
    size = (max(2, round(w / scale)), max(2, round(h / scale)))
    return resize(picture, size), size[0] / w


def resize(picture: Image, size: tuple[int, int], how: int = cv2.INTER_AREA) -> Image:
    """Resize to (width, height)."""
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)


@lru_cache(maxsize=PROCEDURAL_POOL)
def _procedural(index: int) -> Image:
    return textures.texture(np.random.default_rng([index, 20260101]), PROCEDURAL_SIZE)


def _load_photo(photo: Path | Image) -> Image:
    return _read_photo(photo) if isinstance(photo, Path) else photo


@lru_cache(maxsize=256)
def _read_photo(photo: Path, short_side: int = 720) -> Image:
    picture = read_image(photo)
    if min(picture.shape[:2]) < SMALLEST_PHOTO:
        raise ValueError(f"{photo}: a side of {SMALLEST_PHOTO} pixels is the least of a photograph")
    return shrink(picture, min(picture.shape[:2]) / short_side)[0]


def cutout(rng: Generator, sources: Sources) -> Image:
    """Return an object with its opacity, ``[H, W, 4]``."""
    return sample_readable(rng, sources.cutouts, _load_cutout)[1]


def _load_cutout(cutout: Path | Image) -> Image:
    return _read_cutout(cutout) if isinstance(cutout, Path) else cutout


@lru_cache(maxsize=1024)
def _read_cutout(cutout: Path, long_side: int = 256) -> Image:
    rgba = read_rgba(cutout)
    return shrink(rgba, max(rgba.shape[:2]) / long_side)[0]
