"""Synthetic object instances: random views of cut-outs and parts of photographs."""

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
    *,
    parts: int = 0,
    hard: bool = False,
    progress: ProgressCallback | None = None,
) -> LabelledImages:
    """Render random views of cut-outs over random photographs; each cut-out is a class.

    Views are rotated by up to 40 degrees, stretched by up to 15 %, scaled to 55 to 95 % of the
    square, shifted so that they may leave it in part, and differ in exposure, blur and noise. Hard
    views are rotated by up to 60 degrees, sheared, differ in the gain of each colour, and a piece
    of another photograph covers up to a quarter of the square. The same call gives the same
    pictures.

    Args:
        cutouts: Folder of PNG files with alpha.
        photos: Folder of photographs.
        views: Number of views of each cut-out.
        size: Side of the square pictures in pixels.
        seed: Random seed of the views.
        parts: Number of parts of each photograph that are classes, too, of irregular outline.
        hard: Whether views are hard.
        progress: Function called after each class.

    Returns:
        Pictures ``[classes * views, size, size, 3]``, sorted by class. With `parts`, the order of
        the classes is random, so that any split has cut-outs and parts on both sides.

    Raises:
        ValueError: A folder has too few pictures, or one is damaged or has no alpha.
        FileNotFoundError: A folder does not exist.
    """
    at_least(1, views=views)
    at_least(8, size=size)
    at_least(0, parts=parts)
    objects, backgrounds = (_files(Path(folder)) for folder in (cutouts, photos))
    if len(objects) < 2 or not backgrounds:
        raise ValueError(
            f"{cutouts} and {photos} must have 2 cut-outs and a photograph at least, "
            f"got {len(objects)} and {len(backgrounds)}"
        )
    rng = np.random.default_rng(seed)
    scenes = [_read_photo(path, size) for path in backgrounds[:_MOST_PHOTOS]]
    # The cut-outs are read one by one, because there may be many.
    sources: list[Path | tuple[int, int]] = list(objects)
    if parts:
        sources += [(scene, part) for scene in range(len(scenes)) for part in range(parts)]
        sources = [sources[place] for place in rng.permutation(len(sources))]
    pictures = np.empty((len(sources) * views, size, size, 3), np.uint8)
    names = []
    for number, source in enumerate(sources):
        if isinstance(source, Path):
            instance, name, others = _read_cutout(source, 2 * size), source.stem, scenes
        else:
            scene, part = source
            instance = _cut_part(rng, scenes[scene], part, parts, 2 * size)
            name = f"{backgrounds[scene].stem}, part {part + 1}"
            others = scenes[:scene] + scenes[scene + 1 :] or scenes
        names.append(name)
        for view in range(views):
            background = _random_square(rng, others, size)
            if hard:
                cover = _random_square(rng, others, size)
                picture = _render_hard_view(rng, instance, background, cover, size)
            else:
                picture = _render_view(rng, instance, background, size)
            pictures[number * views + view] = picture
        if progress is not None:
            progress("rendering", number + 1, len(sources))
    labels = np.repeat(np.arange(len(sources)), views)
    return LabelledImages(pictures, labels, tuple(names))


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


def _random_square(rng: Generator, scenes: list[Image], size: int) -> NDArray[np.float32]:
    """Return a random square of a random photograph, in 0..1."""
    scene = scenes[int(rng.integers(len(scenes)))]
    y, x = (int(rng.integers(side - size + 1)) for side in scene.shape[:2])
    return np.asarray(scene[y : y + size, x : x + size].astype(np.float32) / 255, np.float32)


def _cut_part(
    rng: Generator, scene: Image, part: int, parts: int, side: int
) -> NDArray[np.float32]:
    """Cut a part of a photograph, with an irregular outline, as premultiplied RGBA in 0..1.

    The photograph is divided along its longer side, one strip for each part. The part is the square
    of 16 random ones in its strip that has the most contrast.
    """
    along = 0 if scene.shape[0] >= scene.shape[1] else 1
    strip = np.array_split(scene, parts, along)[part]
    width = max(8, round(0.6 * min(strip.shape[:2])))
    squares = []
    for _ in range(16):
        y, x = (int(rng.integers(max(1, n - width + 1))) for n in strip.shape[:2])
        squares.append(strip[y : y + width, x : x + width])
    chosen = max(squares, key=lambda square: float(square.std()))
    colours = resize(chosen, (side, side)).astype(np.float32) / 255
    # The radius of the outline is a smooth random function of the angle.
    y, x = (np.mgrid[:side, :side] + 0.5) * (2 / side) - 1
    angle = np.arctan2(y, x)
    waves = rng.uniform(-1, 1, 3), rng.uniform(0, 2 * math.pi, 3)
    radius = 0.75 + 0.08 * sum(
        size * np.cos((i + 2) * angle + phase)
        for i, (size, phase) in enumerate(zip(*waves, strict=True))
    )
    alpha = np.clip((radius - np.hypot(x, y)) * (side / 4) + 0.5, 0, 1).astype(np.float32)
    return np.asarray(np.dstack([colours * alpha[..., None], alpha]), np.float32)


def _render_view(
    rng: Generator, cutout: NDArray[np.float32], background: NDArray[np.float32], size: int
) -> Image:
    angle = math.radians(rng.uniform(-40, 40))
    scale = rng.uniform(0.55, 0.95) * size / max(cutout.shape[:2])
    stretch = math.exp(rng.uniform(-0.15, 0.15))
    linear = _rotation(angle) @ np.diag([scale * stretch, scale / stretch])
    picture = _paste(cutout, background, linear, rng.uniform(-0.12, 0.12, 2))
    if rng.random() < 0.5:
        blurred = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.9))
        picture = np.asarray(blurred, np.float64)
    picture = np.clip(picture, 0, 1) ** rng.uniform(0.7, 1.4) * rng.uniform(0.75, 1.15)
    picture = picture + rng.normal(0, rng.uniform(0, 0.03), picture.shape)
    return np.asarray(np.clip(255 * picture, 0, 255).round(), np.uint8)


def _render_hard_view(
    rng: Generator,
    cutout: NDArray[np.float32],
    background: NDArray[np.float32],
    cover: NDArray[np.float32],
    size: int,
) -> Image:
    angle = math.radians(rng.uniform(-60, 60))
    scale = rng.uniform(0.65, 1.0) * size / max(cutout.shape[:2])
    stretch, shear = math.exp(rng.uniform(-0.25, 0.25)), rng.uniform(-0.25, 0.25)
    shape = np.array([[scale * stretch, shear * scale], [0, scale / stretch]])
    picture = _paste(cutout, background, _rotation(angle) @ shape, rng.uniform(-0.15, 0.15, 2))
    # The covering piece is a half-plane beyond a random line, or a disc.
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    direction = rng.uniform(0, 2 * math.pi)
    if rng.random() < 0.5:
        covered = x * math.cos(direction) + y * math.sin(direction) > rng.uniform(0.2, 0.45)
    else:
        distance = rng.uniform(0.15, 0.4)
        centre = distance * math.cos(direction), distance * math.sin(direction)
        covered = np.hypot(x - centre[0], y - centre[1]) < rng.uniform(0.12, 0.25)
    picture[covered] = cover[covered]
    picture = np.clip(picture, 0, 1) ** rng.uniform(0.6, 1.6)
    picture = picture * rng.uniform(0.6, 1.2, 3) + rng.uniform(-0.1, 0.1)
    picture = picture + rng.normal(0, rng.uniform(0, 0.04), picture.shape)
    return np.asarray(np.clip(255 * picture, 0, 255).round(), np.uint8)


def _rotation(angle: float) -> NDArray[np.float64]:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _paste(
    cutout: NDArray[np.float32],
    background: NDArray[np.float32],
    linear: NDArray[np.float64],
    offset: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Transform a cut-out, and paste its centre near the background's, by a share of its side."""
    size = len(background)
    centre = np.array(cutout.shape[1::-1]) / 2
    shift = size * (0.5 + offset) - linear @ centre
    affine = np.column_stack([linear, shift])
    warped = cv2.warpAffine(cutout, affine, (size, size), flags=cv2.INTER_AREA)
    return np.asarray(warped[..., :3] + (1 - warped[..., 3:]) * background, np.float64)
