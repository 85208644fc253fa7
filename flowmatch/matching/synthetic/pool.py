"""Pairs of views of the same points, and the patches that are cut from them again and again.

Keypoints are found and patches are cut by the code that matches images, so a network is trained on
what it will see. The protocol is that of HPatches (Balntas et al., CVPR 2017), whose patches are of
keypoints that a homography takes to the other image; here most are what the detector itself finds
there again, with its own errors of place, scale and direction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from flowmatch.matching.keypoints import MAGNIFICATION, Keypoints
from flowmatch.matching.patches import extract_patches
from flowmatch.matching.synthetic.views import Gray, find_again

Generator = np.random.Generator

# How far a detector is off, for points that are not found again.
_OFF_PIXELS, _OFF_SCALES, _OFF_ZOOM, _OFF_ANGLE = 0.4, 0.12, 0.12, np.deg2rad(9)
_PROJECTED = 0.5  # share of such points, for each that is found again
_APART = 2**20  # more than a collection has photographs; a float32 counts to 16 times that
FEWEST = 24  # points of a pair of views that is worth keeping


class PatchPairs(NamedTuple):
    """Patches of P points, in two views each.

    Attributes:
        first: ``[P, S, S]`` uint8.
        second: ``[P, S, S]`` uint8, of the same points.
        place: ``[P, 5]`` float32: which photograph or scene, where in it (x, y, z), and the scale
            of the keypoint there; so that one point, drawn twice, is not taken for two. In
            pixels of a photograph, whose z is 0, or centimetres of a scene.
    """

    first: NDArray[np.uint8]
    second: NDArray[np.uint8]
    place: NDArray[np.float32]


class Views(NamedTuple):
    """Two views and the same keypoints in both; `place` as in `PatchPairs`.

    `homography` takes the first view to the second where the world is a plane.
    """

    images: tuple[Gray, Gray]
    keypoints: tuple[Keypoints, Keypoints]
    place: NDArray[np.float32]
    homography: NDArray[np.float64] | None = None


@dataclass(frozen=True, kw_only=True)
class PatchPool:
    """An endless, repeatable collection: item `i` is always the same for one seed.

    Rendering a pair of views takes far longer than cutting patches, so each is used for several
    items, with other points: item `i` takes one of the `pool` pairs of views that begin with number
    ``i // reuse``. Where views come from is said by `views`.

    Attributes:
        size: Side of the patches, S.
        points: Points of an item, P.
        magnification: Half a patch's side in scales of its keypoint.
        pool: Pairs of views that are kept, 1 MB each.
        reuse: Items for each pair of views.
        seed: Another seed, another collection.
        length: The number of items it claims to have.
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
        """Return pair of views `number`; repeatable, and not kept."""
        raise NotImplementedError


class PatchSource(Protocol):
    """What pairs come from: item `i` is always the same."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> PatchPairs: ...


@dataclass(frozen=True)
class Mixture:
    """Items of several collections, each as likely; one that is named twice, twice as likely.

    Attributes:
        sources: The collections. Points of two of them never count as one.
        seed: Of the choice.
    """

    sources: Sequence[PatchSource]
    seed: int = 0

    def __len__(self) -> int:
        return min(len(source) for source in self.sources)

    def __getitem__(self, index: int, /) -> PatchPairs:
        """Return item `index` of one of them; IndexError beyond the end."""
        rng = np.random.default_rng([self.seed, 4, index])
        source = self.sources[int(rng.integers(len(self.sources)))]
        pairs = source[index]
        place = pairs.place.copy()
        place[:, 0] += _APART * min(k for k, one in enumerate(self.sources) if one is source)
        return pairs._replace(place=place)


def shared_points(
    rng: Generator, there: Keypoints, second: Keypoints, inside: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], Keypoints]:
    """Choose keypoints of a first view that a second shows too, and what they are in it.

    Args:
        rng: The only source of chance.
        there: N keypoints of the first view where the second one has to show them.
        second: What the detector finds in it.
        inside: ``[N]``, what it can show.

    Returns:
        Which of the N were chosen: all that are found again, and half as many that are not; and the
        keypoints of the second view, those not found with a detector's errors.
    """
    shown = np.flatnonzero(inside)
    there = there.select(shown)
    best = find_again(there, second)
    again = best >= 0
    lost = rng.permutation(np.flatnonzero(~again))[: round(_PROJECTED * again.sum())]
    jittered = _jitter(rng, there.select(lost))
    matched = second.select(best[again])
    which = np.concatenate([np.flatnonzero(again), lost])
    both = (np.concatenate(pair) for pair in zip(matched, jittered, strict=True))
    return shown[which], Keypoints(*both)


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
