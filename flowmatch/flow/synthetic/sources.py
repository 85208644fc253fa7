"""Sources of textures: photographs, objects with alpha, and procedural textures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from flowmatch.flow.synthetic import textures
from flowmatch.imaging import Generator, Image, resize
from flowmatch.io.image import list_images, read_rgba
from flowmatch.io.photo import read_photo, sample_readable

PROCEDURAL_SIZE = 640
"""Side of a procedural texture, in pixels."""
PROCEDURAL_POOL = 200
"""Number of procedural textures, which are reused: one costs as much as ten pairs."""


@dataclass(frozen=True)
class Sources:
    """Sources of textures; without photographs, every background is procedural.

    Attributes:
        photos: Photographs, as files or arrays ``[H, W, 3]``.
        cutouts: Objects with alpha, as PNG files or arrays ``[H, W, 4]``.
        procedural: Share of procedural backgrounds among photographs.
        textures: Seeds of the procedural textures.
    """

    photos: Sequence[Path | Image] = ()
    cutouts: Sequence[Path | Image] = ()
    procedural: float = 0.25
    textures: range = range(PROCEDURAL_POOL)

    @classmethod
    def from_folders(cls, photos: Path | None = None, cutouts: Path | None = None) -> "Sources":
        """Take every picture of the folders.

        Raises:
            FileNotFoundError: A folder is missing or holds no picture.
        """
        files = [() if folder is None else list_images(folder) for folder in (photos, cutouts)]
        return cls(files[0], files[1])


def sample_backdrop(rng: Generator, sources: Sources) -> Image:
    """Return a random photograph or procedural texture, ``[H, W, 3]``."""
    if sources.photos and rng.random() >= sources.procedural:
        return sample_readable(rng, sources.photos, _load_photo)[1]
    return _procedural(sources.textures[int(rng.integers(len(sources.textures)))])


def sample_cutout(rng: Generator, sources: Sources) -> Image:
    """Return a random object with its opacity, ``[H, W, 4]``."""
    return sample_readable(rng, sources.cutouts, _load_cutout)[1]


def shrink(image: Image, factor: float) -> tuple[Image, float]:
    """Reduce an image that will be shown smaller, so that it does not alias.

    Args:
        image: Image of any number of channels.
        factor: Number of its pixels for one pixel of the frame; up to 1.2, nothing is done.

    Returns:
        The image, and its width relative to before.
    """
    if factor <= 1.2:
        return image, 1.0
    h, w = image.shape[:2]
    size = (max(2, round(w / factor)), max(2, round(h / factor)))
    return resize(image, size), size[0] / w


@lru_cache(maxsize=PROCEDURAL_POOL)
def _procedural(seed: int) -> Image:
    return textures.sample_texture(np.random.default_rng([seed, 20260101]), PROCEDURAL_SIZE)


def _load_photo(photo: Path | Image) -> Image:
    return _read_photo(photo) if isinstance(photo, Path) else photo


@lru_cache(maxsize=256)
def _read_photo(photo: Path, short_side: int = 720) -> Image:
    image = read_photo(photo)
    return shrink(image, min(image.shape[:2]) / short_side)[0]


def _load_cutout(cutout: Path | Image) -> Image:
    return _read_cutout(cutout) if isinstance(cutout, Path) else cutout


@lru_cache(maxsize=1024)
def _read_cutout(cutout: Path, long_side: int = 256) -> Image:
    rgba = read_rgba(cutout)
    return shrink(rgba, max(rgba.shape[:2]) / long_side)[0]
