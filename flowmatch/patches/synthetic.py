"""Pairs of patches of one point each, cut from photographs and random views of them.

Keypoints are found and patches are cut by the code that matches images, so a network is trained on
what it will see. The protocol is that of HPatches (Balntas et al., CVPR 2017), whose patches are of
keypoints that a homography takes to the other image; here most are what the detector itself finds
there again, with its own errors of place, scale and direction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.io import IMAGE_SUFFIXES, read_image
from flowmatch.patches.keypoints import (
    MAGNIFICATION,
    Keypoints,
    detect,
    extract_patches,
    gray_image,
)
from flowmatch.patches.views import Gray, develop, find_again, project_keypoints, random_view, warp

Generator = np.random.Generator

# How far a detector is off, for points that are not found again.
_OFF_PIXELS, _OFF_SCALES, _OFF_ZOOM, _OFF_ANGLE = 0.4, 0.12, 0.12, np.deg2rad(9)
_PROJECTED = 0.5  # share of such points, for each that is found again
_SIDES = (520, 900)  # of the longer side of a view, pixels
_FEWEST = 24  # points of a pair of views that is worth keeping
_ATTEMPTS = 8
_PROCEDURAL = 50  # textures, where there are no photographs


class PatchPairs(NamedTuple):
    """Patches of P points, in two views each.

    Attributes:
        first: ``[P, S, S]`` uint8.
        second: ``[P, S, S]`` uint8, of the same points.
        place: ``[P, 4]`` float32: which photograph, x and y in it, and the scale of the keypoint,
            both in its pixels; so that one point, drawn twice, is not taken for two.
    """

    first: NDArray[np.uint8]
    second: NDArray[np.uint8]
    place: NDArray[np.float32]


class Views(NamedTuple):
    """Two views of a photograph and the same keypoints in both; `place` as in `PatchPairs`."""

    images: tuple[Gray, Gray]
    keypoints: tuple[Keypoints, Keypoints]
    place: NDArray[np.float32]
    homography: NDArray[np.float64]


@dataclass(frozen=True)
class SyntheticPatches:
    """An endless, repeatable collection: item `i` is always the same for one seed.

    Rendering a pair of views takes far longer than cutting patches, so each is used for several
    items, with other points: item `i` takes one of the `pool` pairs of views that begin with number
    ``i // reuse``.

    Attributes:
        photos: Photographs, as files or arrays; with none, textures are procedural.
        size: Side of the patches, S.
        points: Points of an item, P.
        magnification: Half a patch's side in scales of its keypoint.
        pool: Pairs of views that are kept, 1 MB each.
        reuse: Items for each pair of views.
        seed: Another seed, another collection.
        length: The number of items it claims to have.

    Example:
        >>> pairs = SyntheticPatches(points=16, pool=1)[0]
        >>> pairs.first.shape, pairs.second.shape, pairs.place.shape
        ((16, 32, 32), (16, 32, 32), (16, 4))
    """

    photos: Sequence[Path | NDArray[np.uint8]] = ()
    size: int = 32
    points: int = 128
    magnification: float = MAGNIFICATION
    pool: int = 128
    reuse: int = 8
    seed: int = 0
    length: int = 2**40
    _render: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what gives no patches.

        Raises:
            ValueError: A number is not positive.
        """
        numbers = (self.size, self.points, self.pool, self.reuse, self.length)
        if min(numbers) < 1:
            raise ValueError(
                f"size, points, pool, reuse and length must be positive, got {numbers}"
            )
        object.__setattr__(self, "_render", lru_cache(self.pool + 1)(self._patches))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was rendered: a worker renders for itself."""
        return {key: value for key, value in self.__dict__.items() if key != "_render"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with nothing rendered."""
        self.__dict__.update(state)
        self.__post_init__()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int, /) -> PatchPairs:
        """Return item `index`; IndexError beyond the end."""
        if not 0 <= index < self.length:
            raise IndexError(f"there are {self.length} items, got {index}")
        rng = np.random.default_rng([self.seed, 1, index])
        every: PatchPairs = self._render(index // self.reuse + int(rng.integers(self.pool)))
        # With too few points some come twice, which their places tell.
        count = len(every.place)
        chosen = rng.permutation(max(count, self.points))[: self.points] % count
        first, second, place = every
        pairs = PatchPairs(first[chosen], second[chosen], place[chosen])
        if rng.random() < 0.5:  # a mirrored point keeps its direction, which is along the rows
            pairs = PatchPairs(pairs.first[:, ::-1], pairs.second[:, ::-1], pairs.place)
        # Neither view comes first.
        return pairs if rng.random() < 0.5 else PatchPairs(pairs.second, pairs.first, pairs.place)

    def _patches(self, number: int) -> PatchPairs:
        views = self.views(number)
        first, second = (
            _to_bytes(extract_patches(image, found, self.size, magnification=self.magnification))
            for image, found in zip(views.images, views.keypoints, strict=True)
        )
        return PatchPairs(first, second, views.place)

    def views(self, number: int) -> Views:
        """Render pair of views `number`; repeatable, and not kept.

        Raises:
            ValueError: The detector finds next to nothing in the photographs.
        """
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([self.seed, 0, number, attempt])
            which = int(rng.integers(len(self.photos) or _PROCEDURAL))
            views = _render_views(rng, self._photo(which), which)
            if len(views.place) >= _FEWEST:
                return views
        raise ValueError(
            f"expected photographs with texture: {_ATTEMPTS} random views had fewer than "
            f"{_FEWEST} keypoints in common"
        )

    def _photo(self, which: int) -> Gray:
        if not self.photos:
            return _texture(np.random.default_rng([self.seed, 2, which]))
        photo = self.photos[which]
        return gray_image(read_image(photo) if isinstance(photo, Path) else photo)


def photos_in(folder: Path | None) -> tuple[Path, ...]:
    """Return the pictures of a folder, in the order of their names; none for None.

    Raises:
        FileNotFoundError: The folder is missing or holds no picture.
    """
    if folder is None:
        return ()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    found = tuple(sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES))
    if not found:
        raise FileNotFoundError(f"{folder} holds no picture ({', '.join(IMAGE_SUFFIXES)})")
    return found


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
        develop(rng, warp(photo, shrink, height, width)),
        develop(rng, warp(photo, homography @ shrink, height, width)),
    )
    found = [detect(image, keypoints=1000) for image in images]
    keypoints, others = _same_points(rng, found[0], found[1], homography, (height, width))
    place = project_keypoints(keypoints, np.linalg.inv(shrink))
    return Views(
        images,
        (keypoints, others),
        np.column_stack([np.full(len(place.scale), which), place.xy, place.scale]).astype(
            np.float32
        ),
        homography,
    )


def _same_points(
    rng: Generator,
    first: Keypoints,
    second: Keypoints,
    homography: NDArray[np.float64],
    size: tuple[int, int],
) -> tuple[Keypoints, Keypoints]:
    """Return keypoints of the first view that the second shows too, and where they are there."""
    there = project_keypoints(first, homography)
    # Half of a patch may be cut off by the border.
    margin = 0.5 * MAGNIFICATION * there.scale[:, None]
    inside = ((there.xy >= margin) & (there.xy <= np.array(size[::-1]) - 1 - margin)).all(axis=1)
    first, there = first.select(inside), there.select(inside)
    best = find_again(there, second)
    again = best >= 0
    lost = rng.permutation(np.flatnonzero(~again))[: round(_PROJECTED * again.sum())]
    jittered = _jitter(rng, there.select(lost))
    matched = second.select(best[again])
    which = np.concatenate([np.flatnonzero(again), lost])
    both = (np.concatenate(pair) for pair in zip(matched, jittered, strict=True))
    return first.select(which), Keypoints(*both)


def _jitter(rng: Generator, keypoints: Keypoints) -> Keypoints:
    N = len(keypoints.scale)
    off = _OFF_PIXELS + _OFF_SCALES * keypoints.scale[:, None]
    return Keypoints(
        (keypoints.xy + off * rng.normal(size=(N, 2))).astype(np.float32),
        (keypoints.scale * np.exp(rng.normal(size=N) * _OFF_ZOOM)).astype(np.float32),
        (keypoints.angle + rng.normal(size=N) * _OFF_ANGLE).astype(np.float32),
        keypoints.score,
    )


def _to_bytes(patches: Any) -> NDArray[np.uint8]:
    return np.asarray((patches[:, 0] * 255).round().clamp(0, 255).byte().numpy())


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
