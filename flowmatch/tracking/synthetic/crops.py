"""Pairs of crops around moving objects, for the training of a tracker."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch.flow.synthetic import Sources
from flowmatch.flow.synthetic.effects import apply_effects, sample_effects
from flowmatch.flow.synthetic.pairs import sample_flat_scene
from flowmatch.imaging import Generator, Image
from flowmatch.tracking.boxes import Boxes, crop_region, encode_box, inside_share, region_around
from flowmatch.tracking.synthetic.objects import object_box, visible_share

SIZE = (192, 256)  # of the frames, height and width
_MOST_TIME = 3.0  # between the two frames of a scene, in the unit of its motions
_SMALLEST = 12.0  # side of a box, pixels
_SEEN, _HIDDEN = 0.6, 0.3  # visible share of an object in the first frame; of a lost one at most
# Scales of the Laplace distributions: of the shift in sides of the box, of the change of the
# sides (Held et al., section 4.2), and of both for the box in the first frame, which a tracker has
# estimated and does not know.
_SHIFT, _SCALE, _ERROR = 1 / 5, 1 / 15, 1 / 40
_LARGEST_SHIFT, _LARGEST_SCALE = 0.8, 0.4
_ELSEWHERE = 0.12  # share of the second crops that show another place


class CropPair(NamedTuple):
    """Two crops, and where the object of the first is in the second.

    Attributes:
        first: Crop around the object, ``[S, S, 3]``.
        second: Crop of the later frame around an earlier position of the object.
        code: Its true box in the second crop, as `encode_box` gives it, ``[4]``.
        present: Whether it is visible there.
    """

    first: Image
    second: Image
    code: NDArray[np.float32]
    present: np.float32


class _Object(NamedTuple):
    """An object in two frames.

    Attributes:
        boxes: Its boxes, ``[2, 4]``.
        present: Whether it is visible in the second frame.
    """

    boxes: Boxes
    present: bool


class _Shot(NamedTuple):
    """Two frames of a scene, and the objects that can be seen in the first."""

    frames: tuple[Image, Image]
    objects: tuple[_Object, ...]


@dataclass(frozen=True)
class CropPairs:
    """Endless dataset of crop pairs; an item depends on its index and the seed only.

    Cut-outs and patches move over photographs. The second crop is centred where a tracker might
    believe the object to be: shifted by a Laplace distribution and of another size, so that small
    motions are most frequent (Held et al., section 4.2). Rendering takes far longer than cropping,
    so each scene serves several items: item `i` takes one of the `pool` scenes that begin with
    number ``i // reuse``.

    Attributes:
        sources: Sources of the textures.
        size: Side of the crops, S.
        pool: Number of scenes kept in memory, 0.3 MB each.
        reuse: Items per scene.
        seed: Random seed.
        length: Nominal number of items.

    Example:
        >>> pair = CropPairs(pool=1)[0]
        >>> pair.first.shape, pair.code.shape
        ((80, 80, 3), (4,))

    Reference:
        Held, Thrun, Savarese, Learning to Track at 100 FPS with Deep Regression Networks, ECCV
        2016.
    """

    sources: Sources = field(default_factory=Sources)
    size: int = 80
    pool: int = 128
    reuse: int = 48
    seed: int = 0
    length: int = 2**40
    _shots: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check that all numbers are positive.

        Raises:
            ValueError: A number is not positive.
        """
        numbers = (self.size, self.pool, self.reuse, self.length)
        if min(numbers) < 1:
            raise ValueError(f"size, pool, reuse and length must be positive, got {numbers}")
        object.__setattr__(self, "_shots", lru_cache(self.pool + 1)(self._render))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without rendered scenes; each worker renders its own."""
        return {key: value for key, value in self.__dict__.items() if key != "_shots"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state, without rendered scenes."""
        self.__dict__.update(state)
        self.__post_init__()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int, /) -> CropPair:
        """Return item `index`; raise IndexError beyond the end."""
        if not 0 <= index < self.length:
            raise IndexError(f"there are {self.length} items, got {index}")
        rng = np.random.default_rng([self.seed, 1, index])
        shot: _Shot = self._shots(index // self.reuse + int(rng.integers(self.pool)))
        chosen = shot.objects[int(rng.integers(len(shot.objects)))]
        start, end = chosen.boxes
        first = region_around(disturb(rng, start, _ERROR, _ERROR))
        around, elsewhere = end, rng.random() < _ELSEWHERE
        if elsewhere:
            around = _other_place(rng, end)
        second = region_around(disturb(rng, around, _SHIFT, _SCALE))
        crops = [
            crop_region(frame, region, self.size)
            for frame, region in zip(shot.frames, (first, second), strict=True)
        ]
        code = encode_box(end, second)
        if rng.random() < 0.5:  # mirrored
            crops = [np.ascontiguousarray(crop[:, ::-1]) for crop in crops]
            code[0] = -code[0]
        present = np.float32(chosen.present and not elsewhere)
        return CropPair(crops[0], crops[1], code, present)

    def _render(self, number: int) -> _Shot:
        """Render scenes from a number on until one has an object."""
        rng = np.random.default_rng([self.seed, 2, number])
        while True:
            shot = _render_shot(rng, self.sources)
            if shot.objects:
                return shot


def _render_shot(rng: Generator, sources: Sources) -> _Shot:
    scene = sample_flat_scene(rng, sources, SIZE, factor=float(rng.choice([0.3, 1.0, 2.0])))
    time = float(rng.uniform(0.2, _MOST_TIME))
    first, second = scene.render(0), scene.render(time)
    frames = apply_effects(sample_effects(rng, SIZE), first.image, second.image)
    objects = []
    for index, layer in enumerate(scene.layers):
        if layer.alpha is None or visible_share(scene, index, 0, first.layer) < _SEEN:
            continue
        boxes = np.stack([object_box(scene, index, t) for t in (0, time)])
        if boxes[:, 2:].min() < _SMALLEST or boxes[:, 2:].max() > max(SIZE):
            continue
        present = visible_share(scene, index, time, second.layer) > _HIDDEN
        if present or inside_share(boxes[1], SIZE) > 0.5:
            objects.append(_Object(boxes, present))
    return _Shot(frames, tuple(objects))


def disturb(rng: Generator, box: Boxes, shift: float, scale: float) -> Boxes:
    """Return a box with another centre and other sides, by Laplace distributions.

    Args:
        rng: Source of all random numbers.
        box: ``[4]``.
        shift: Scale of the distribution of the shift, in sides of the box.
        scale: Scale of the distribution of the change of the sides.
    """
    centre = box[:2] + box[2:] / 2
    moves = rng.laplace(0, shift, 2).clip(-_LARGEST_SHIFT, _LARGEST_SHIFT)
    sides = box[2:] * (1 + rng.laplace(0, scale, 2).clip(-_LARGEST_SCALE, _LARGEST_SCALE))
    return np.concatenate([centre + moves * box[2:] - sides / 2, sides])


def _other_place(rng: Generator, box: Boxes) -> Boxes:
    """Return a box of the same size whose crop does not show the object's middle."""
    angle = rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(angle), np.sin(angle)])
    # Outside the square of the crop, plus the largest shift.
    distance = (1.0 + _LARGEST_SHIFT + rng.uniform(0, 1.5)) / np.abs(direction).max()
    return np.concatenate([box[:2] + direction * distance * box[2:], box[2:]])
