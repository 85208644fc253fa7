"""Datasets of square crops, and a batch sampler that resumes at any step."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from flowmatch.metric_learning.data.images import LabelledImages, square_crop
from flowmatch.metric_learning.samplers import ClassBatches, generator_of


class SquareCrops(Dataset[tuple[Tensor, int]]):
    """Square crops of pictures with their labels, for a ``DataLoader``.

    Args:
        images: The pictures.
        size: Side of the crops in pixels.
        augment: Whether crops and mirror images are random; otherwise crops are central.
        seed: Random seed of the augmentation.
    """

    def __init__(
        self, images: LabelledImages, size: int, augment: bool = False, seed: int = 0
    ) -> None:
        self.images, self.size, self.augment, self.seed = images, size, augment, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | tuple[int, int]) -> tuple[Tensor, int]:
        """Return a crop and its label; with a serial number, augmentation depends on it alone."""
        item, serial = index if isinstance(index, tuple) else (index, None)
        generator = None
        if self.augment:
            # Without a serial number, torch's generator, which loaders seed per epoch and worker.
            serial = int(torch.randint(2**31, ())) if serial is None else serial
            generator = generator_of(self.seed, serial)
        crop = square_crop(self.images.picture(item), self.size, generator)
        return crop, int(self.images.labels[item])


def unchanged_pixels(images: LabelledImages, size: int) -> Tensor | None:
    """Return all pictures as one tensor, if they are arrays of the wanted size, which need no crop.

    Args:
        images: Dataset of ``N`` pictures.
        size: Side of the square pictures in pixels.

    Returns:
        ``[N, C, size, size]`` uint8 with the channels last in memory, or None.
    """
    pixels = images.pictures
    if not isinstance(pixels, np.ndarray) or pixels.shape[1:3] != (size, size):
        return None
    tensor = torch.from_numpy(pixels if pixels.ndim == 4 else pixels[..., None])
    return tensor.permute(0, 3, 1, 2)


class BatchSampler(Sampler[list[tuple[int, int]]]):
    """Endless batches of items with serial numbers, from any step on.

    Batches and augmentation are therefore independent of where a run was stopped and resumed.

    Args:
        batches: Batches of an epoch, iterated again for each epoch.
        start: Number of batches to skip.

    Example:
        >>> batches = ClassBatches([0, 0, 1, 1], classes=2, samples_per_class=1)
        >>> whole, resumed = iter(BatchSampler(batches, 0)), iter(BatchSampler(batches, 3))
        >>> [next(whole) for _ in range(4)][3] == next(resumed)
        True
    """

    def __init__(self, batches: ClassBatches, start: int) -> None:
        self.batches, self.start = batches, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        self.batches.set_epoch(0)
        endless = itertools.chain.from_iterable(itertools.repeat(self.batches))
        for step, items in enumerate(endless):
            if step >= self.start:
                yield [(item, step * len(items) + place) for place, item in enumerate(items)]
