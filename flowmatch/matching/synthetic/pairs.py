"""Patch pairs from photographs and random views of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowmatch._opencv import cv2
from flowmatch.imaging import Generator, Image, as_gray
from flowmatch.io import list_images, read_image
from flowmatch.io.photo import sample_readable
from flowmatch.matching.keypoints import MAGNIFICATION, detect_keypoints
from flowmatch.matching.synthetic.pool import MIN_POINTS, PatchPool, Views, shared_points
from flowmatch.matching.synthetic.views import (
    apply_camera_noise,
    project_keypoints,
    random_view,
    warp_perspective,
)

_SIDES = (520, 900)  # range of the longer side of a view, pixels
_ATTEMPTS = 8
_PROCEDURAL = 50  # number of procedural textures, which replace missing photographs


@dataclass(frozen=True)
class SyntheticPatches(PatchPool):
    """Patch pairs from random views of photographs.

    Attributes:
        photos: Photographs, as files or arrays; an empty sequence gives procedural textures.

    Example:
        >>> pairs = SyntheticPatches(points=16, pool=1)[0]
        >>> pairs.first.shape, pairs.second.shape, pairs.location.shape
        ((16, 32, 32), (16, 32, 32), (16, 5))
    """

    photos: Sequence[Path | Image] = ()

    def views(self, number: int) -> Views:
        """Render pair of views `number`, always the same; it is not cached.

        Raises:
            ValueError: The photographs have too few keypoints.
        """
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([self.seed, 0, number, attempt])
            index, photo = self._sample_photo(rng)
            views = _render_views(rng, photo, index)
            if len(views.location) >= MIN_POINTS:
                return views
        raise ValueError(
            f"expected photographs with texture: {_ATTEMPTS} random views had fewer than "
            f"{MIN_POINTS} keypoints in common"
        )

    def _sample_photo(self, rng: Generator) -> tuple[int, Image]:
        if self.photos:
            return sample_readable(rng, self.photos, _read_gray)
        index = int(rng.integers(_PROCEDURAL))
        return index, _render_texture(np.random.default_rng([self.seed, 2, index]))


def find_photos(folder: Path | None) -> tuple[Path, ...]:
    """Return the images of a folder, sorted by name; none for None.

    Raises:
        FileNotFoundError: The folder does not exist or holds no image.
    """
    return () if folder is None else list_images(folder)


def _read_gray(photo: Path | Image) -> Image:
    return as_gray(read_image(photo) if isinstance(photo, Path) else photo)


# ---- One pair of views -------------------------------------------------------------------------


def _render_views(rng: Generator, photo: Image, index: int) -> Views:
    side = rng.uniform(*_SIDES)
    zoom = min(side / max(photo.shape), 1.5)
    height, width = (max(16, round(zoom * n)) for n in photo.shape)
    # Pixel centres are at whole numbers, so that resizing includes a small shift.
    x, y = width / photo.shape[1], height / photo.shape[0]
    resizing = np.array([[x, 0, 0.5 * x - 0.5], [0, y, 0.5 * y - 0.5], [0, 0, 1]])
    homography = random_view(rng, height, width)
    images = (
        apply_camera_noise(rng, warp_perspective(photo, resizing, height, width)),
        apply_camera_noise(rng, warp_perspective(photo, homography @ resizing, height, width)),
    )
    detected = [detect_keypoints(image, keypoints=1000) for image in images]
    expected = project_keypoints(detected[0], homography)
    # Up to a quarter of a patch may lie outside the view.
    margin = 0.5 * MAGNIFICATION * expected.scale[:, None]
    visible = (expected.xy >= margin) & (expected.xy <= (width, height) - margin - 1)
    chosen, others = shared_points(rng, expected, detected[1], visible.all(axis=1))
    keypoints = detected[0].select(chosen)
    origin = project_keypoints(keypoints, np.linalg.inv(resizing))
    zeros = np.zeros(len(origin.scale))
    columns = np.column_stack([np.full_like(zeros, index), origin.xy, zeros, origin.scale])
    return Views(images, (keypoints, others), columns.astype(np.float32), homography)


def _render_texture(rng: Generator) -> Image:
    """Return a texture of blobs and edges of all sizes."""
    side = 640
    total = np.zeros((side, side), np.float32)
    for cells in (5, 12, 30, 75, 180):
        noise = rng.random((cells, cells), dtype=np.float32) - 0.5
        mode = cv2.INTER_CUBIC if rng.random() < 0.5 else cv2.INTER_NEAREST
        total += cv2.resize(noise, (side, side), interpolation=mode) / np.sqrt(np.sqrt(cells))
    low, high = np.quantile(total, [0.01, 0.99])
    return np.asarray(((total - low) / (high - low) * 255).clip(0, 255).astype(np.uint8))
