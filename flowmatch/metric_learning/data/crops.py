"""Pictures as a ``DataLoader`` takes them: squares, and batches that a stopped run goes on with."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from flowmatch.metric_learning.data.images import LabelledImages, as_square
from flowmatch.metric_learning.samplers import ClassBatches, generator_of


class Squares(Dataset[tuple[Tensor, int]]):
    """Pictures as squares, with their labels, for a ``DataLoader``.

    Args:
        images: The pictures.
        size: Of the squares.
        augment: Random crops and mirror images, not the middle.
        seed: Of augmentation.
    """

    def __init__(
        self, images: LabelledImages, size: int, augment: bool = False, seed: int = 0
    ) -> None:
        self.images, self.size, self.augment, self.seed = images, size, augment, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | tuple[int, int]) -> tuple[Tensor, int]:
        """Give a picture; with the number of the draw, what is random depends on that alone."""
        item, draw = index if isinstance(index, tuple) else (index, None)
        chance = None
        if self.augment:
            # Otherwise from torch's generator: loaders seed it anew for each epoch and worker.
            draw = int(torch.randint(2**31, ())) if draw is None else draw
            chance = generator_of(self.seed, draw)
        square = as_square(self.images.picture(item), self.size, chance)
        return square, int(self.images.labels[item])


class Draws(Sampler[list[tuple[int, int]]]):
    """Batches without end, each item with the number of its draw, from any step on.

    So neither the batches nor what is random about their items depend on where a run was stopped.

    Args:
        batches: Of an epoch, and then of the next.
        start: How many batches are left out.

    Example:
        >>> batches = ClassBatches([0, 0, 1, 1], classes=2, each=1)
        >>> whole, rest = iter(Draws(batches, 0)), iter(Draws(batches, 3))
        >>> [next(whole) for _ in range(4)][3] == next(rest)
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
