"""Image pairs with a known transform, made from single photographs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.align.appearance import restyle
from flowmatch.align.transforms import control_points, pixel_grid, transform_points
from flowmatch.imaging import Generator, Image, resize
from flowmatch.io.photo import read_photo, sample_readable

Parameters = NDArray[np.float32]

_SHORT_SIDE = 512  # pixels of the shorter side of photographs kept in memory


class AlignSample(NamedTuple):
    """An image pair and the transforms that take points of the first image to the second.

    Attributes:
        first: Image ``[S, S, 3]``.
        second: Image ``[S, S, 3]``.
        affine: Parameters of the affine transform, ``[6]``.
        thin_plate: Parameters of the thin-plate transform, ``[18]``.
    """

    first: Image
    second: Image
    affine: Parameters
    thin_plate: Parameters


@dataclass(frozen=True)
class Ranges:
    """Ranges of the random transforms around the identity; the defaults are the paper's.

    Attributes:
        rotation: Maximum rotation, degrees.
        shear: Maximum angle of the axes along which the two scales act, degrees.
        scale: Minimum and maximum scale along either axis.
        shift: Maximum translation, in half images.
        displacement: Maximum displacement of each coordinate of each thin-plate control point, in
            half images.

    Reference:
        Rocco et al., CVPR 2017, section 4.1, and its released training data.
    """

    rotation: float = 15.0
    shear: float = 30.0
    scale: tuple[float, float] = (0.75, 1.25)
    shift: float = 0.25
    displacement: float = 0.4


def random_affine(rng: Generator, ranges: Ranges) -> Parameters:
    """Sample ``A = R(a) R(f)^T diag(s, t) R(f)`` and a translation, ``[6]``.

    Example:
        >>> random_affine(np.random.default_rng(0), Ranges(0, 0, (2, 2), 0)).tolist()
        [2.0, 0.0, 0.0, 0.0, 2.0, 0.0]
    """
    rotation = _rotation(rng.uniform(-1, 1) * ranges.rotation)
    axes = _rotation(rng.uniform(-1, 1) * ranges.shear)
    matrix = rotation @ axes.T @ np.diag(rng.uniform(*ranges.scale, 2)) @ axes
    shift = rng.uniform(-1, 1, 2) * ranges.shift
    return (np.concatenate([matrix, shift[:, None]], 1).reshape(6) + 0.0).astype(np.float32)


def random_thin_plate(rng: Generator, ranges: Ranges) -> Parameters:
    """Sample the positions of the nine displaced control points, ``[18]``.

    Example:
        >>> random_thin_plate(np.random.default_rng(0), Ranges(displacement=0))[:3].tolist()
        [-1.0, 0.0, 1.0]
    """
    neutral = control_points().mT.flatten().numpy()
    return (neutral + rng.uniform(-1, 1, 18) * ranges.displacement).astype(np.float32)


def _rotation(degrees: float) -> NDArray[np.float64]:
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[cos, -sin], [sin, cos]])


@dataclass(frozen=True)
class SyntheticPairs:
    """Random pairs from photographs; the seed and the index determine an item.

    Attributes:
        photos: Files, or arrays ``[H, W, 3]`` uint8.
        size: Side of both images, pixels.
        ranges: Ranges of the transforms.
        affine: Probability of an affine transform.
        thin_plate: Probability of a thin-plate transform, alone or before the affine transform.
        displacement_factor: Factor on the thin-plate displacement when both transforms are present.
        appearance: Probability with which each image is restyled.
        seed: Random seed.
        length: Nominal number of items.

    Raises:
        ValueError: There are no photographs.

    Example:
        >>> photo = np.random.default_rng(0).integers(0, 255, (64, 80, 3), np.uint8)
        >>> sample = SyntheticPairs([photo], size=32)[5]
        >>> sample.first.shape, sample.affine.shape, sample.thin_plate.shape
        ((32, 32, 3), (6,), (18,))
    """

    photos: Sequence[Path | Image]
    size: int = 240
    ranges: Ranges = Ranges()
    affine: float = 1.0
    thin_plate: float = 1.0
    displacement_factor: float = 0.5
    appearance: float = 0.0
    seed: int = 0
    length: int = 1_000_000

    def __post_init__(self) -> None:
        """Check that there are photographs."""
        if not self.photos:
            raise ValueError("at least one photograph is needed, got none")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> AlignSample:
        if not 0 <= index < self.length:
            raise IndexError(f"index must be in 0 to {self.length - 1}, got {index}")
        rng = np.random.default_rng([self.seed, index])
        _, photo = sample_readable(rng, self.photos, load_photo)
        scaled, centre = _sample_square(rng, photo, self.size)
        affine, plate = self._sample_transforms(rng)
        grid = pixel_grid(self.size, self.size)
        stages = [torch.from_numpy(theta)[None] for theta in (affine, plate)]
        points = transform_points(stages, grid[None])[0].numpy()
        # In both images coordinates are relative to the centre of the square.
        first = _sample_pixels(scaled, centre, points, self.size)
        second = _sample_pixels(scaled, centre, grid.numpy(), self.size)
        if rng.random() < self.appearance:
            first = restyle(rng, first)
        if rng.random() < self.appearance:
            second = restyle(rng, second)
        return AlignSample(first, second, affine, plate)

    def _sample_transforms(self, rng: Generator) -> tuple[Parameters, Parameters]:
        """Sample the affine and the thin-plate transform; an absent one is the identity."""
        has_affine = rng.random() < self.affine
        has_plate = rng.random() < self.thin_plate or not has_affine
        affine = random_affine(rng, self.ranges)
        plate = random_thin_plate(rng, self.ranges)
        neutral = random_thin_plate(rng, Ranges(displacement=0))
        if not has_affine:
            affine = random_affine(rng, Ranges(0, 0, (1, 1), 0))
        elif has_plate:
            plate = (neutral + self.displacement_factor * (plate - neutral)).astype(np.float32)
        if not has_plate:
            plate = neutral
        return affine, plate


def _sample_square(rng: Generator, photo: Image, size: int) -> tuple[Image, tuple[float, float]]:
    """Scale a photograph so that a square of random size and position is `size` pixels wide.

    Returns:
        The scaled photograph, and the square's centre in it (x, y). Transforms reach beyond the
        square; the photograph's content is there, or else a reflection.
    """
    H, W = photo.shape[:2]
    side = rng.uniform(0.55, 0.95) * min(H, W)
    factor = size / side
    scaled = photo
    if abs(factor - 1) > 0.01:
        interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        target = (max(2, round(W * factor)), max(2, round(H * factor)))
        scaled = resize(photo, target, interpolation)
    h, w = scaled.shape[:2]
    x, y = (rng.uniform(size / 2, max(n - size / 2, size / 2)) for n in (w, h))
    return scaled, (x, y)


def _sample_pixels(
    image: Image, centre: tuple[float, float], points: NDArray[np.float32], size: int
) -> Image:
    """Interpolate an image at points ``[size^2, 2]``, in half squares from the square's centre."""
    # Half a pixel: coordinates count from the image's edge, pixels from their centres.
    pixels = (points * (size / 2) + np.array(centre) - 0.5).astype(np.float32)
    x, y = pixels.reshape(size, size, 2).transpose(2, 0, 1)
    sampled = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(sampled, np.uint8)


def load_photo(photo: Path | Image) -> Image:
    """Return a photograph, ``[H, W, 3]``; one from a file has a shorter side of at most 512."""
    return _read_reduced(photo) if isinstance(photo, Path) else photo


@lru_cache(maxsize=256)
def _read_reduced(path: Path) -> Image:
    photo = read_photo(path)
    h, w = photo.shape[:2]
    scale = _SHORT_SIDE / min(h, w)
    return photo if scale >= 1 else resize(photo, (round(w * scale), round(h * scale)))
