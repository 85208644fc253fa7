"""Pairs of views of the same points, and training patches that are sampled from them.

Keypoints are detected and patches extracted by the code that matches images, so that training and
matching see the same patches. The protocol follows HPatches (Balntas et al., CVPR 2017), which
projects keypoints to the other image by a homography; here most keypoints are those that the
detector repeats there, with its own errors of position, scale and orientation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from flowmatch.imaging import Generator, Image
from flowmatch.matching.keypoints import MAGNIFICATION, Keypoints
from flowmatch.matching.patches import extract_patches
from flowmatch.matching.synthetic.views import find_repeated

# Standard deviations of simulated detector errors, for keypoints that are not repeated: position
# in pixels and in keypoint scales, logarithm of the scale, orientation.
_POSITION_NOISE, _RELATIVE_NOISE, _SCALE_NOISE, _ANGLE_NOISE = 0.4, 0.12, 0.12, np.deg2rad(9)
_PROJECTED = 0.5  # such keypoints per repeated keypoint
_SOURCE_STEP = 2**20  # exceeds the photographs of a source; float32 is exact up to 16 times that
MIN_POINTS = 24  # fewest points of a pair of views


class PatchPairs(NamedTuple):
    """Patches of P points, in two views each.

    Attributes:
        first: Patches in the first view, ``[P, S, S]`` uint8.
        second: Patches in the second view, ``[P, S, S]`` uint8.
        location: ``[P, 5]`` float32: number of the photograph or scene, position in it (x, y, z)
            and scale of the keypoint, by which repeated points are recognised. The unit is a pixel
            of the photograph, with z = 0, or a centimetre of the scene.
    """

    first: NDArray[np.uint8]
    second: NDArray[np.uint8]
    location: NDArray[np.float32]


class Views(NamedTuple):
    """Two views with corresponding keypoints.

    Attributes:
        images: Both views, gray.
        keypoints: Keypoints of each view, in the same order.
        location: Locations of the points, see `PatchPairs`.
        homography: Homography from the first view to the second if the scene is a plane.
    """

    images: tuple[Image, Image]
    keypoints: tuple[Keypoints, Keypoints]
    location: NDArray[np.float32]
    homography: NDArray[np.float64] | None = None


@dataclass(frozen=True, kw_only=True)
class PatchPool:
    """Endless dataset of patch pairs; an item depends on its index and the seed only.

    Rendering a pair of views takes far longer than extracting patches, so each pair of views serves
    several items, with other points: item `i` takes one of the `pool` pairs of views that begin
    with number ``i // reuse``. Subclasses define `views`.

    Attributes:
        size: Side of the patches, S.
        points: Points per item, P.
        magnification: Half the side of a patch, in keypoint scales.
        pool: Number of pairs of views kept in memory, 1 MB each.
        reuse: Items per pair of views.
        seed: Random seed of the dataset.
        length: Nominal number of items.
    """

    size: int = 32
    points: int = 128
    magnification: float = MAGNIFICATION
    pool: int = 128
    reuse: int = 8
    seed: int = 0
    length: int = 2**40
    _render: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check that all numbers are positive.

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
        """Return the state without rendered views; each worker renders its own."""
        return {key: value for key, value in self.__dict__.items() if key != "_render"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state, without rendered views."""
        self.__dict__.update(state)
        self.__post_init__()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int, /) -> PatchPairs:
        """Return item `index`; raise IndexError beyond the end."""
        if not 0 <= index < self.length:
            raise IndexError(f"there are {self.length} items, got {index}")
        rng = np.random.default_rng([self.seed, 1, index])
        pool: PatchPairs = self._render(index // self.reuse + int(rng.integers(self.pool)))
        # If there are too few points, some are repeated; their locations are equal.
        count = len(pool.location)
        chosen = rng.permutation(max(count, self.points))[: self.points] % count
        first, second, location = pool
        pairs = PatchPairs(first[chosen], second[chosen], location[chosen])
        if rng.random() < 0.5:  # mirroring rows keeps the orientation, which is along the rows
            pairs = PatchPairs(pairs.first[:, ::-1], pairs.second[:, ::-1], pairs.location)
        # The order of the views is random.
        return (
            pairs if rng.random() < 0.5 else PatchPairs(pairs.second, pairs.first, pairs.location)
        )

    def _patches(self, number: int) -> PatchPairs:
        views = self.views(number)
        first, second = (
            _to_bytes(extract_patches(image, points, self.size, magnification=self.magnification))
            for image, points in zip(views.images, views.keypoints, strict=True)
        )
        return PatchPairs(first, second, views.location)

    def views(self, number: int) -> Views:
        """Return pair of views `number`, always the same; it is not cached."""
        raise NotImplementedError


class PatchSource(Protocol):
    """Dataset of patch pairs; an item depends on its index only."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> PatchPairs: ...


@dataclass(frozen=True)
class PatchMixture:
    """Dataset that takes each item from one of several datasets at random.

    Attributes:
        sources: Datasets, equally likely; one that is listed twice is twice as likely. Points of
            different datasets are never the same.
        seed: Random seed of the choice.
    """

    sources: Sequence[PatchSource]
    seed: int = 0

    def __len__(self) -> int:
        return min(len(source) for source in self.sources)

    def __getitem__(self, index: int, /) -> PatchPairs:
        """Return item `index` of a random source; raise IndexError beyond the end."""
        rng = np.random.default_rng([self.seed, 4, index])
        source = self.sources[int(rng.integers(len(self.sources)))]
        pairs = source[index]
        location = pairs.location.copy()
        number = min(k for k, other in enumerate(self.sources) if other is source)
        location[:, 0] += _SOURCE_STEP * number
        return pairs._replace(location=location)


def shared_points(
    rng: Generator, expected: Keypoints, detected: Keypoints, visible: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], Keypoints]:
    """Choose keypoints of a first view that a second view shows too.

    Args:
        rng: Source of randomness.
        expected: N keypoints of the first view, projected to the second.
        detected: Keypoints detected in the second view.
        visible: ``[N]``, which of the N the second view shows.

    Returns:
        Indices of the chosen keypoints: all that are repeated, and half as many that are not; and
        their keypoints in the second view: the detected ones, and the projected ones with simulated
        detector errors.
    """
    candidates = np.flatnonzero(visible)
    expected = expected.select(candidates)
    best = find_repeated(expected, detected)
    repeated = best >= 0
    missed = rng.permutation(np.flatnonzero(~repeated))[: round(_PROJECTED * repeated.sum())]
    jittered = _jitter(rng, expected.select(missed))
    matched = detected.select(best[repeated])
    index = np.concatenate([np.flatnonzero(repeated), missed])
    both = (np.concatenate(pair) for pair in zip(matched, jittered, strict=True))
    return candidates[index], Keypoints(*both)


def _jitter(rng: Generator, keypoints: Keypoints) -> Keypoints:
    N = len(keypoints.scale)
    sigma = _POSITION_NOISE + _RELATIVE_NOISE * keypoints.scale[:, None]
    return Keypoints(
        (keypoints.xy + sigma * rng.normal(size=(N, 2))).astype(np.float32),
        (keypoints.scale * np.exp(rng.normal(size=N) * _SCALE_NOISE)).astype(np.float32),
        (keypoints.angle + rng.normal(size=N) * _ANGLE_NOISE).astype(np.float32),
        keypoints.score,
    )


def _to_bytes(patches: Any) -> NDArray[np.uint8]:
    return np.asarray((patches[:, 0] * 255).round().clamp(0, 255).byte().numpy())
