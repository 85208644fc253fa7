"""Pairs of patches of one point each, cut from photographs and random views of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import as_gray
from flowmatch.io import list_images, read_image
from flowmatch.io.image import sample_readable
from flowmatch.matching.keypoints import MAGNIFICATION, detect_keypoints
from flowmatch.matching.synthetic.pool import FEWEST, Generator, PatchPool, Views, shared_points
from flowmatch.matching.synthetic.views import (
    Gray,
    apply_camera_noise,
    project_keypoints,
    random_view,
    warp_perspective,
)

_SIDES = (520, 900)  # of the longer side of a view, pixels
_ATTEMPTS = 8
_PROCEDURAL = 50  # textures, where there are no photographs


@dataclass(frozen=True)
class SyntheticPatches(PatchPool):
    """Pairs of random views of photographs.

    Attributes:
        photos: Photographs, as files or arrays; with none, textures are procedural.

    Example:
        >>> pairs = SyntheticPatches(points=16, pool=1)[0]
        >>> pairs.first.shape, pairs.second.shape, pairs.place.shape
        ((16, 32, 32), (16, 32, 32), (16, 5))
    """

    photos: Sequence[Path | NDArray[np.uint8]] = ()

    def views(self, number: int) -> Views:
        """Render pair of views `number`; repeatable, and not kept.

        Raises:
            ValueError: The detector finds next to nothing in the photographs.
        """
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([self.seed, 0, number, attempt])
            which, photo = self._draw(rng)
            views = _render_views(rng, photo, which)
            if len(views.place) >= FEWEST:
                return views
        raise ValueError(
            f"expected photographs with texture: {_ATTEMPTS} random views had fewer than "
            f"{FEWEST} keypoints in common"
        )

    def _draw(self, rng: Generator) -> tuple[int, Gray]:
        if self.photos:
            return sample_readable(rng, self.photos, _read_gray)
        which = int(rng.integers(_PROCEDURAL))
        return which, _texture(np.random.default_rng([self.seed, 2, which]))


def photos_in(folder: Path | None) -> tuple[Path, ...]:
    """Return the pictures of a folder, in the order of their names; none for None.

    Raises:
        FileNotFoundError: The folder is missing or holds no picture.
    """
    return () if folder is None else list_images(folder)


def _read_gray(photo: Path | NDArray[np.uint8]) -> Gray:
    return as_gray(read_image(photo) if isinstance(photo, Path) else photo)


# ---- One pair of views -------------------------------------------------------------------------


def _render_views(rng: Generator, photo: Gray, which: int) -> Views:
    side = rng.uniform(*_SIDES)
    zoom = min(side / max(photo.shape), 1.5)
    height, width = (max(16, round(zoom * n)) for n in photo.shape)
    # Centres of pixels are at whole numbers, which shifts a little with the size.
    x, y = width / photo.shape[1], height / photo.shape[0]
    shrink = np.array([[x, 0, 0.5 * x - 0.5], [0, y, 0.5 * y - 0.5], [0, 0, 1]])
    homography = random_view(rng, height, width)
    images = (
        apply_camera_noise(rng, warp_perspective(photo, shrink, height, width)),
        apply_camera_noise(rng, warp_perspective(photo, homography @ shrink, height, width)),
    )
    found = [detect_keypoints(image, keypoints=1000) for image in images]
    there = project_keypoints(found[0], homography)
    # Half of a patch may be cut off by the border.
    margin = 0.5 * MAGNIFICATION * there.scale[:, None]
    inside = ((there.xy >= margin) & (there.xy <= (width, height) - margin - 1)).all(axis=1)
    which_points, others = shared_points(rng, there, found[1], inside)
    keypoints = found[0].select(which_points)
    place = project_keypoints(keypoints, np.linalg.inv(shrink))
    flat = np.zeros(len(place.scale))
    columns = np.column_stack([np.full_like(flat, which), place.xy, flat, place.scale])
    return Views(images, (keypoints, others), columns.astype(np.float32), homography)


def _texture(rng: Generator) -> Gray:
    """Return blobs and edges of all sizes, for who has no photographs."""
    side = 640
    total = np.zeros((side, side), np.float32)
    for cells in (5, 12, 30, 75, 180):
        noise = rng.random((cells, cells), dtype=np.float32) - 0.5
        mode = cv2.INTER_CUBIC if rng.random() < 0.5 else cv2.INTER_NEAREST
        total += cv2.resize(noise, (side, side), interpolation=mode) / np.sqrt(np.sqrt(cells))
    low, high = np.quantile(total, [0.01, 0.99])
    return np.asarray(((total - low) / (high - low) * 255).clip(0, 255).astype(np.uint8))
