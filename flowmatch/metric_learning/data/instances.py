"""Synthetic object instances: random views of cut-outs over photographs."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import Generator, Image, resize
from flowmatch.io import read_image, read_rgba
from flowmatch.io.image import READ_SUFFIXES, warn_of_other_kinds
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.losses._base import at_least
from flowmatch.progress import ProgressCallback

_MOST_PHOTOS = 200  # photographs that are read; they serve as backgrounds only
_LONG_SIDE = 512  # longer side of a photograph in memory, pixels


def render_instances(
    cutouts: str | Path,
    photos: str | Path,
    views: int = 20,
    size: int = 48,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> LabelledImages:
    """Render random views of cut-outs over random photographs; each cut-out is a class.

    Views are rotated by up to 40 degrees, stretched by up to 15 %, scaled to 55 to 95 % of the
    square, shifted so that they may leave it in part, and differ in exposure, blur and noise. The
    same call gives the same pictures.

    Args:
        cutouts: Folder of PNG files with alpha.
        photos: Folder of photographs.
        views: Number of views of each cut-out.
        size: Side of the square pictures in pixels.
        seed: Random seed of the views.
        progress: Function called after each cut-out.

    Returns:
        Pictures ``[cutouts * views, size, size, 3]``, sorted by class.

    Raises:
        ValueError: A folder has too few pictures, or one is damaged or has no alpha.
        FileNotFoundError: A folder does not exist.
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
    scenes = [_read_photo(path, size) for path in backgrounds[:_MOST_PHOTOS]]
    pictures = np.empty((len(objects) * views, size, size, 3), np.uint8)
    for number, path in enumerate(objects):
        cutout = _read_cutout(path, 2 * size)
        for view in range(views):
            scene = scenes[int(rng.integers(len(scenes)))]
            pictures[number * views + view] = _render_view(rng, cutout, scene, size)
        if progress is not None:
            progress("rendering", number + 1, len(objects))
    labels = np.repeat(np.arange(len(objects)), views)
    return LabelledImages(pictures, labels, tuple(path.stem for path in objects))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    warn_of_other_kinds(folder, files)
    return [path for path in files if path.suffix.lower() in READ_SUFFIXES]


def _read_photo(path: Path, size: int) -> Image:
    picture = read_image(path)
    scale = min(1.0, _LONG_SIDE / max(picture.shape[:2]))
    scale = max(scale, size / min(picture.shape[:2]))
    width, height = (max(size, round(side * scale)) for side in picture.shape[1::-1])
    return resize(picture, (width, height))


def _read_cutout(path: Path, side: int) -> NDArray[np.float32]:
    """Read RGBA in 0..1, resized; colours are premultiplied by alpha, as resizing requires."""
    rgba = read_rgba(path).astype(np.float32) / 255
    if rgba[..., 3].min() == 1:
        raise ValueError(f"{path}: expected a picture with transparent parts, this has none")
    rgba[..., :3] *= rgba[..., 3:]
    scale = side / max(rgba.shape[:2])
    shape = [max(1, round(n * scale)) for n in rgba.shape[1::-1]]
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgba, shape, interpolation=interpolation), np.float32)


def _render_view(rng: Generator, cutout: NDArray[np.float32], scene: Image, size: int) -> Image:
    y, x = (int(rng.integers(side - size + 1)) for side in scene.shape[:2])
    background = scene[y : y + size, x : x + size].astype(np.float32) / 255
    angle = math.radians(rng.uniform(-40, 40))
    scale = rng.uniform(0.55, 0.95) * size / max(cutout.shape[:2])
    stretch = math.exp(rng.uniform(-0.15, 0.15))
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = rotation @ np.diag([scale * stretch, scale / stretch])
    centre = np.array(cutout.shape[1::-1]) / 2
    shift = size * (0.5 + rng.uniform(-0.12, 0.12, 2)) - linear @ centre
    affine = np.column_stack([linear, shift])
    warped = cv2.warpAffine(cutout, affine, (size, size), flags=cv2.INTER_AREA)
    picture = np.asarray(warped[..., :3] + (1 - warped[..., 3:]) * background, np.float64)
    if rng.random() < 0.5:
        blurred = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.9))
        picture = np.asarray(blurred, np.float64)
    picture = np.clip(picture, 0, 1) ** rng.uniform(0.7, 1.4) * rng.uniform(0.75, 1.15)
    picture = picture + rng.normal(0, rng.uniform(0, 0.03), picture.shape)
    return np.asarray(np.clip(255 * picture, 0, 255).round(), np.uint8)
