"""Pairs with a known transform, made from single photographs."""

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
from flowmatch.align.transforms import control_points, transform_points, pixel_grid
from flowmatch.io.image import read_photo, sample_readable

Generator = np.random.Generator
Image = NDArray[np.uint8]
Parameters = NDArray[np.float32]

_SHORT_SIDE = 512  # what of a photograph is kept in memory


class AlignSample(NamedTuple):
    """Two pictures, and the transforms that take points of the first to points of the second."""

    first: Image  # [S, S, 3]
    second: Image  # [S, S, 3]
    affine: Parameters  # [6]
    thin_plate: Parameters  # [18]


@dataclass(frozen=True)
class Ranges:
    """How far the transforms go, on either side of the identity; the paper's.

    Attributes:
        rotation: Degrees.
        shear: Degrees: the angle of the axes along which the two scales act.
        scale: Least and largest, of either axis.
        shift: In half pictures.
        bend: Of each coordinate of each control point of the thin plate, in half pictures.

    Reference:
        Rocco et al., CVPR 2017, section 4.1, and its released training data.
    """

    rotation: float = 15.0
    shear: float = 30.0
    scale: tuple[float, float] = (0.75, 1.25)
    shift: float = 0.25
    bend: float = 0.4


def random_affine(rng: Generator, ranges: Ranges) -> Parameters:
    """Draw ``A = R(a) R(f)^T diag(s, t) R(f)`` and a shift, ``[6]``.

    Example:
        >>> random_affine(np.random.default_rng(0), Ranges(0, 0, (2, 2), 0)).tolist()
        [2.0, 0.0, 0.0, 0.0, 2.0, 0.0]
    """
    turn = _rotation(rng.uniform(-1, 1) * ranges.rotation)
    axes = _rotation(rng.uniform(-1, 1) * ranges.shear)
    matrix = turn @ axes.T @ np.diag(rng.uniform(*ranges.scale, 2)) @ axes
    shift = rng.uniform(-1, 1, 2) * ranges.shift
    return (np.concatenate([matrix, shift[:, None]], 1).reshape(6) + 0.0).astype(np.float32)


def random_thin_plate(rng: Generator, ranges: Ranges) -> Parameters:
    """Draw where the nine control points go, ``[18]``.

    Example:
        >>> random_thin_plate(np.random.default_rng(0), Ranges(bend=0))[:3].tolist()
        [-1.0, 0.0, 1.0]
    """
    still = control_points().mT.flatten().numpy()
    return (still + rng.uniform(-1, 1, 18) * ranges.bend).astype(np.float32)


def _rotation(degrees: float) -> NDArray[np.float64]:
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[cos, -sin], [sin, cos]])


@dataclass(frozen=True)
class SyntheticPairs:
    """Pairs from photographs in an endless, repeatable order: item `i` is the same for one seed.

    Attributes:
        photos: Files or arrays ``[H, W, 3]`` uint8.
        size: Side of both pictures.
        ranges: Of the transforms.
        affine: How often there is an affine part.
        thin_plate: How often the plate is bent; by itself or before the affine part.
        bend: Share of the ranges' bend when both parts are there.
        appearance: How often each picture of a pair is restyled.
        seed: Another seed, other pairs.
        length: The number of items it claims to have.

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
    bend: float = 0.5
    appearance: float = 0.0
    seed: int = 0
    length: int = 1_000_000

    def __post_init__(self) -> None:
        """Refuse to make something of nothing."""
        if not self.photos:
            raise ValueError("pairs are made from photographs, and there are none")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> AlignSample:
        if not 0 <= index < self.length:
            raise IndexError(f"there are {self.length} pairs, got {index}")
        rng = np.random.default_rng([self.seed, index])
        _, photo = sample_readable(rng, self.photos, load_photo)
        window, centre = _window(rng, photo, self.size)
        has_affine = rng.random() < self.affine
        has_bend = rng.random() < self.thin_plate or not has_affine
        affine = random_affine(rng, self.ranges)
        plate = random_thin_plate(rng, self.ranges)
        still = random_thin_plate(rng, Ranges(bend=0))
        if not has_affine:
            affine = random_affine(rng, Ranges(0, 0, (1, 1), 0))
        elif has_bend:
            plate = (still + self.bend * (plate - still)).astype(np.float32)
        if not has_bend:
            plate = still
        points = _moved(affine, plate, self.size)
        # A point of the second picture lies as far from the window's centre.
        first = _look(window, centre, points, self.size)
        second = _look(window, centre, pixel_grid(self.size, self.size).numpy(), self.size)
        if rng.random() < self.appearance:
            first = restyle(rng, first)
        if rng.random() < self.appearance:
            second = restyle(rng, second)
        return AlignSample(first, second, affine, plate)


def _moved(affine: Parameters, plate: Parameters, size: int) -> NDArray[np.float32]:
    stages = [torch.from_numpy(theta)[None] for theta in (affine, plate)]
    return np.asarray(transform_points(stages, pixel_grid(size, size)[None])[0].numpy(), np.float32)


def _window(rng: Generator, photo: Image, size: int) -> tuple[Image, tuple[float, float]]:
    """Scale a photograph so that a square of random place and size is `size` pixels wide.

    Returns:
        The photograph, and the square's centre in it (x, y): what the transforms look at beyond the
        square's edges is really there, or else is mirrored.
    """
    H, W = photo.shape[:2]
    side = rng.uniform(0.55, 0.95) * min(H, W)
    factor = size / side
    scaled = photo
    if abs(factor - 1) > 0.01:
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        target = (max(2, round(W * factor)), max(2, round(H * factor)))
        scaled = np.asarray(cv2.resize(photo, target, interpolation=how), np.uint8)
    h, w = scaled.shape[:2]
    x, y = (rng.uniform(size / 2, max(n - size / 2, size / 2)) for n in (w, h))
    return scaled, (x, y)


def _look(
    window: Image, centre: tuple[float, float], points: NDArray[np.float32], size: int
) -> Image:
    """Fetch points of the square, in half squares from its centre, ``[size^2, 2]``."""
    # Pixel centres lie half a pixel from the edges that coordinates are counted from.
    pixels = (points * (size / 2) + np.array(centre) - 0.5).astype(np.float32)
    x, y = pixels.reshape(size, size, 2).transpose(2, 0, 1)
    fetched = cv2.remap(window, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(fetched, np.uint8)


def load_photo(photo: Path | Image) -> Image:
    """Return a photograph, ``[H, W, 3]``; one from a file is at most about 512 wide or high."""
    return _read_photo(photo) if isinstance(photo, Path) else photo


@lru_cache(maxsize=256)
def _read_photo(photo: Path) -> Image:
    picture = read_photo(photo)
    h, w = picture.shape[:2]
    scale = _SHORT_SIDE / min(h, w)
    if scale >= 1:
        return picture
    size = (round(w * scale), round(h * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
