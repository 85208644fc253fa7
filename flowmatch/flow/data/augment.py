"""Augmentation of pairs with known flow, and datasets that apply it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.flow._extras import kornia
from flowmatch.flow.data.datasets import load_pair
from flowmatch.flow.data.layouts import FlowPair
from flowmatch.flow.synthetic.scene import FlowSample
from flowmatch.imaging import Generator
from flowmatch.io.photo import sample_readable
from flowmatch.training import Samples


@dataclass(frozen=True)
class Augmentation:
    """Random scaling, cropping, mirroring, colour jitter and occlusion of a pair and its flow.

    Attributes:
        size: Height and width of the crop.
        scale: Range of the base-2 logarithm of the change of size.
        stretch: Largest base-2 logarithm of the separate changes of width and height.
        mirror: Probabilities of exchanging left and right, and top and bottom.
        jitter: Largest relative change of brightness, contrast and saturation; hue turns by up to
            ``0.4 * jitter`` of a circle. 0 keeps the colours.
        erase: Probability of covering one or two boxes of the second frame, as an occlusion.

    Reference:
        Teed & Deng, RAFT, ECCV 2020, and its supplement: the defaults are its values.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (-0.2, 0.6)
    stretch: float = 0.2
    mirror: tuple[float, float] = (0.5, 0.1)
    jitter: float = 0.4
    erase: float = 0.5

    def __call__(
        self, rng: Generator, first: Tensor, second: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Augment a pair.

        Args:
            rng: Source of all random numbers.
            first: RGB in [0, 1], ``[3, H, W]``.
            second: The later frame.
            flow: Flow ``[2, H, W]`` in pixels, NaN where it is unknown.

        Returns:
            The augmented frames and flow, of height and width `size`.
        """
        first, second, flow = self._zoom(rng, first, second, flow)
        first, second, flow = self._crop(rng, first, second, flow)
        for axis, probability in ((2, self.mirror[0]), (1, self.mirror[1])):
            if rng.random() < probability:
                first, second, flow = (part.flip(axis) for part in (first, second, flow))
                sign = [-1, 1] if axis == 2 else [1, -1]
                flow = flow * flow.new_tensor(sign).view(2, 1, 1)
        if self.jitter:
            first, second = self._jitter_colours(rng, first, second)
        if rng.random() < self.erase:
            second = _erase(rng, second)
        return first, second, flow

    def _zoom(self, rng: Generator, *pair: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first, second, flow = pair
        H, W = first.shape[-2:]
        smallest = max(self.size[0] / H, self.size[1] / W)  # the crop must fit
        factors = np.array([1.0, 1.0])
        if rng.random() < 0.8:
            factors *= 2 ** rng.uniform(*self.scale)
            if rng.random() < 0.8:
                factors *= 2 ** rng.uniform(-self.stretch, self.stretch, 2)
        height, width = (
            max(round(side * max(factor, smallest)), crop)
            for side, factor, crop in zip((H, W), factors, self.size, strict=True)
        )
        if (height, width) == (H, W):
            return first, second, flow
        a, b = (
            F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
            for image in (first, second)
        )
        # Interpolation would spread unknown values, and a sparse flow would vanish.
        mode = "bilinear" if flow.isfinite().all() else "nearest-exact"
        resized = F.interpolate(flow[None], (height, width), mode=mode)[0]
        return a, b, resized * flow.new_tensor([width / W, height / H]).view(2, 1, 1)

    def _crop(self, rng: Generator, *pair: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (h, w), (H, W) = self.size, pair[0].shape[-2:]
        y, x = int(rng.integers(H - h + 1)), int(rng.integers(W - w + 1))
        first, second, flow = (part[:, y : y + h, x : x + w] for part in pair)
        return first, second, flow

    def _jitter_colours(
        self, rng: Generator, first: Tensor, second: Tensor
    ) -> tuple[Tensor, Tensor]:
        colours = _sample_colours(rng, self.jitter)
        second_colours = _sample_colours(rng, self.jitter) if rng.random() < 0.2 else colours
        return _change_colours(first, colours), _change_colours(second, second_colours)


@dataclass(frozen=True)
class AugmentedPairs:
    """Augmented pairs in an endless, repeatable order: item `i` is the same for one seed.

    Attributes:
        pairs: Files of the pairs.
        augmentation: Augmentation of each item.
        seed: Random seed.
        length: Number of items.
    """

    pairs: Sequence[FlowPair]
    augmentation: Augmentation
    seed: int = 0
    length: int = 1_000_000

    def __post_init__(self) -> None:
        _require_colours(self.augmentation)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> FlowSample:
        rng = np.random.default_rng([self.seed, index])
        _, loaded = sample_readable(rng, self.pairs, load_pair)
        return _augment(self.augmentation, rng, loaded.first, loaded.second, loaded.truth)


class ReusedPairs:
    """Every pair of a dataset several times, augmented after the first: for pairs slow to make.

    Pairs come in blocks, each of which is repeated before the next. A process keeps one block in
    memory, so even several processes, each of which makes whole batches, make few pairs twice.

    Args:
        pairs: The dataset; item `i` is the same every time.
        augmentation: Augmentation of a pair from its second use on.
        uses: Number of uses of each pair.
        block: Number of pairs in a block.
        seed: Random seed of the augmentation.

    Raises:
        ValueError: `uses` or `block` is below 1.
    """

    def __init__(
        self,
        pairs: Samples,
        augmentation: Augmentation,
        uses: int,
        *,
        block: int = 64,
        seed: int = 0,
    ) -> None:
        if uses < 1 or block < 1:
            raise ValueError(f"uses and block must be positive, got {uses} and {block}")
        _require_colours(augmentation)
        self.pairs, self.augmentation, self.seed = pairs, augmentation, seed
        self.uses, self.block = uses, block
        self._made: dict[int, FlowSample] = {}

    def __len__(self) -> int:
        """Return the number of items."""
        return self.uses * len(self.pairs)

    def __getitem__(self, index: int) -> FlowSample:
        """Return item `index`: a pair as it is at its first use, augmented later."""
        number, within = divmod(index, self.uses * self.block)
        use, place = divmod(within, self.block)
        sample = self._make(number * self.block + place)
        if use == 0:
            return sample
        rng = np.random.default_rng([self.seed, index, 2])
        return _augment(self.augmentation, rng, sample.first, sample.second, sample.flow)

    def _make(self, index: int) -> FlowSample:
        if index not in self._made:
            if len(self._made) == self.block:
                self._made.pop(next(iter(self._made)))  # the oldest
            self._made[index] = self.pairs[index]
        return self._made[index]


@dataclass(frozen=True)
class Mixture:
    """Several datasets as one: item `i` comes from a random one of them.

    Attributes:
        parts: Datasets and their weights.
        seed: Random seed.
    """

    parts: Sequence[tuple[Any, float]]
    seed: int = 0

    def __len__(self) -> int:
        return min(len(samples) for samples, _ in self.parts)

    def __getitem__(self, index: int) -> Any:
        weights = np.array([weight for _, weight in self.parts], np.float64)
        rng = np.random.default_rng([self.seed, index, 1])
        chosen = int(rng.choice(len(weights), p=weights / weights.sum()))
        return self.parts[chosen][0][index]


def _augment(augmentation: Augmentation, rng: Generator, *pair: Any) -> FlowSample:
    """Augment two 8-bit images and their flow, ``[H, W, C]`` each."""
    first, second, flow = (torch.from_numpy(part).permute(2, 0, 1) for part in pair)
    first, second, flow = augmentation(rng, first / 255, second / 255, flow)
    a, b = ((255 * image).round().clamp(0, 255).byte() for image in (first, second))
    unknown = np.zeros(flow.shape[1:], bool)  # occlusion does not survive resizing
    return FlowSample(_to_array(a), _to_array(b), _to_array(flow), unknown)


def _sample_colours(rng: Generator, jitter: float) -> tuple[float, float, float, float]:
    brightness, contrast, saturation = 1 + rng.uniform(-jitter, jitter, 3)
    return brightness, contrast, saturation, float(rng.uniform(-0.4, 0.4)) * jitter * 2 * np.pi


def _change_colours(image: Tensor, colours: tuple[float, float, float, float]) -> Tensor:
    brightness, contrast, saturation, hue = colours
    enhance = kornia("enhance")
    image = (image * brightness).clamp(0, 1)
    image = enhance.adjust_contrast_with_mean_subtraction(image, contrast)
    image = enhance.adjust_saturation(image, saturation)
    return enhance.adjust_hue(image, hue)  # type: ignore[no-any-return]


def _require_colours(augmentation: Augmentation) -> None:
    """Raise ImportError before a run begins if its colours cannot be changed."""
    if augmentation.jitter:
        kornia("enhance")


def _erase(rng: Generator, image: Tensor) -> Tensor:
    """Fill boxes of 50 to 100 pixels, or smaller in a small image, with the mean colour."""
    image, (H, W) = image.clone(), image.shape[-2:]
    colour = image.mean(dim=(1, 2), keepdim=True)
    for _ in range(int(rng.integers(1, 3))):
        h, w = (int(rng.integers(min(50, side // 4), min(100, side // 2))) for side in (H, W))
        y, x = int(rng.integers(H)), int(rng.integers(W))
        image[:, y : y + h, x : x + w] = colour
    return image


def _to_array(tensor: Tensor) -> Any:
    return np.ascontiguousarray(tensor.permute(1, 2, 0).numpy())
