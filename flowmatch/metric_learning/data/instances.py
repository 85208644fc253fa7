"""Instances to find again: cut-outs in random views over photographs."""

import math
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.io import IMAGE_SUFFIXES, read_image, read_rgba
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.losses._base import at_least

_MOST_PHOTOS = 200  # more are not looked at: their crops are backgrounds only
_LONG_SIDE = 512  # a photograph's, in memory


def render_instances(
    cutouts: str | Path,
    photos: str | Path,
    views: int = 20,
    size: int = 48,
    seed: int = 0,
) -> LabelledImages:
    """Show each cut-out in random views over random photographs; a cut-out is a class.

    Turned by up to 40 degrees, stretched by up to 15 %, 55 to 95 % of the square large, partly
    outside at worst, in another exposure, blurred and noisy. The same call gives the same pictures.

    Args:
        cutouts: Folder of PNG files with alpha.
        photos: Folder of photographs.
        views: Of each cut-out.
        size: Of the pictures, square.
        seed: Of the views.

    Returns:
        Pictures ``[cutouts * views, size, size, 3]``, those of a class one after another.

    Raises:
        ValueError: A folder has too few pictures, or one is damaged or has no alpha.
        FileNotFoundError: There is no such folder.
    """
    at_least(1, views=views)
    at_least(8, size=size)
    objects, backgrounds = (_files(Path(folder)) for folder in (cutouts, photos))
    if len(objects) < 2 or not backgrounds:
        raise ValueError(
            f"{cutouts} and {photos} must have 2 cut-outs and a photograph at least, "
            f"got {len(objects)} and {len(backgrounds)}"
        )
    rng = np.random.default_rng(seed)
    scenes = [_photo(path, size) for path in backgrounds[:_MOST_PHOTOS]]
    pictures = np.empty((len(objects) * views, size, size, 3), np.uint8)
    for number, path in enumerate(objects):
        cut = _cutout(path, 2 * size)
        for view in range(views):
            scene = scenes[int(rng.integers(len(scenes)))]
            pictures[number * views + view] = _view(rng, cut, scene, size)
    labels = np.repeat(np.arange(len(objects)), views)
    return LabelledImages(pictures, labels, tuple(path.stem for path in objects))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def _photo(path: Path, size: int) -> NDArray[np.uint8]:
    picture = read_image(path)
    scale = min(1.0, _LONG_SIDE / max(picture.shape[:2]))
    scale = max(scale, size / min(picture.shape[:2]))
    shape = [max(size, round(side * scale)) for side in picture.shape[1::-1]]
    return np.asarray(cv2.resize(picture, shape, interpolation=cv2.INTER_AREA), np.uint8)


def _cutout(path: Path, side: int) -> NDArray[np.float32]:
    """RGB and opacity, all in 0..1 and colours weighted by opacity: so they can be scaled."""
    rgba = read_rgba(path).astype(np.float32) / 255
    if rgba[..., 3].min() == 1:
        raise ValueError(f"{path}: expected a picture with transparent parts, this has none")
    rgba[..., :3] *= rgba[..., 3:]
    scale = side / max(rgba.shape[:2])
    shape = [max(1, round(n * scale)) for n in rgba.shape[1::-1]]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgba, shape, interpolation=how), np.float32)


def _view(
    rng: Generator, cut: NDArray[np.float32], scene: NDArray[np.uint8], size: int
) -> NDArray[np.uint8]:
    y, x = (int(rng.integers(side - size + 1)) for side in scene.shape[:2])
    behind = scene[y : y + size, x : x + size].astype(np.float32) / 255
    turn = math.radians(rng.uniform(-40, 40))
    scale = rng.uniform(0.55, 0.95) * size / max(cut.shape[:2])
    stretch = math.exp(rng.uniform(-0.15, 0.15))
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    linear = rotation @ np.diag([scale * stretch, scale / stretch])
    middle = np.array(cut.shape[1::-1]) / 2
    shift = size * (0.5 + rng.uniform(-0.12, 0.12, 2)) - linear @ middle
    place = np.column_stack([linear, shift])
    shown = cv2.warpAffine(cut, place, (size, size), flags=cv2.INTER_AREA)
    picture = np.asarray(shown[..., :3] + (1 - shown[..., 3:]) * behind, np.float64)
    if rng.random() < 0.5:
        blurred = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.9))
        picture = np.asarray(blurred, np.float64)
    picture = np.clip(picture, 0, 1) ** rng.uniform(0.7, 1.4) * rng.uniform(0.75, 1.15)
    picture = picture + rng.normal(0, rng.uniform(0, 0.03), picture.shape)
    return np.asarray(np.clip(255 * picture, 0, 255).round(), np.uint8)
