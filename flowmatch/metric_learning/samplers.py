"""Samplers of class-balanced batches."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from flowmatch.metric_learning.losses._base import at_least


class ClassBatches(Sampler[list[int]]):
    """Class-balanced batches: random classes, the same number of items of each.

    A batch sampler for a ``DataLoader``. The classes of a batch are sampled without replacement.
    Items of a class are sampled without replacement until the class is exhausted; a class with
    fewer than `samples_per_class` items repeats some. Batches depend on seed and epoch only.

    Args:
        labels: Class of each item of the dataset.
        classes: Number of classes in a batch.
        samples_per_class: Items of each class in a batch.
        batches: Number of batches in an epoch; None takes ``ceil(items / batch size)``. Classes
            are random, so an epoch repeats some items and leaves others out, most of all items of
            large classes beside small ones.
        seed: Random seed of the batches.

    Raises:
        ValueError: There are fewer classes than a batch needs, a number is not positive, or labels
            are not whole numbers.

    Example:
        >>> batches = ClassBatches([0, 0, 0, 1, 1, 2], classes=2, samples_per_class=2)
        >>> [len(batch) for batch in batches]
        [4, 4]
    """

    def __init__(
        self,
        labels: Sequence[int],
        classes: int,
        samples_per_class: int,
        batches: int | None = None,
        seed: int = 0,
    ) -> None:
        at_least(1, classes=classes, samples_per_class=samples_per_class)
        self.members = members_of(labels)
        if len(self.members) < classes:
            raise ValueError(
                f"batches of {classes} classes need that many, got {len(self.members)}"
            )
        if batches is not None:
            at_least(0, batches=batches)
        self.classes, self.samples_per_class = classes, samples_per_class
        self.seed, self.epoch = seed, 0
        size = classes * samples_per_class
        self.batches = -(-len(labels) // size) if batches is None else batches

    def __len__(self) -> int:
        return self.batches

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which reseeds the batches.

        Args:
            epoch: Number of the epoch, from 0.
        """
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = generator_of(self.seed, self.epoch)
        queues = ShuffledQueues(self.members, generator)
        names = list(self.members)
        for _ in range(self.batches):
            places = torch.randperm(len(names), generator=generator)[: self.classes].tolist()
            labels = [names[place] for place in places]
            yield [i for label in labels for i in queues.take(label, self.samples_per_class)]
        self.epoch += 1


class ShuffledQueues:
    """A shuffled queue of the items of each class, which is shuffled again when it is empty.

    Args:
        members: Items of each class.
        generator: Source of randomness for the shuffling.

    Example:
        >>> queues = ShuffledQueues({7: [1, 2, 3]}, torch.Generator().manual_seed(0))
        >>> sorted(queues.take(7, 3)), len(queues.take(7, 5))
        ([1, 2, 3], 5)
    """

    def __init__(self, members: dict[int, list[int]], generator: torch.Generator) -> None:
        self.members, self.generator = members, generator
        self.queues: dict[int, list[int]] = {}

    def take(self, label: int, count: int) -> list[int]:
        """Take items from the queue of a class, without duplicates if the class has enough.

        Args:
            label: Label of the class.
            count: Number of items.

        Returns:
            The items, `count` of them.
        """
        taken: list[int] = []
        while len(taken) < count:
            queue = self.queues.get(label) or self._shuffle(label, avoid=taken)
            missing = count - len(taken)
            taken += queue[:missing]
            self.queues[label] = queue[missing:]
        return taken

    def _shuffle(self, label: int, avoid: list[int]) -> list[int]:
        items = self.members[label]
        order = torch.randperm(len(items), generator=self.generator).tolist()
        queue = [items[place] for place in order]
        # Items that the caller has already go to the end of the new queue.
        return [i for i in queue if i not in avoid] + [i for i in queue if i in avoid]


def members_of(labels: Sequence[int]) -> dict[int, list[int]]:
    """Return the items of each class by label, in the order of the labels.

    Raises:
        ValueError: Labels are not whole numbers, one for each item.

    Example:
        >>> members_of([3, 1, 3])
        {1: [1], 3: [0, 2]}
    """
    numbers = np.asarray(labels)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise ValueError(
            f"labels must be whole numbers [N], got {numbers.dtype} {tuple(numbers.shape)}"
        )
    members: dict[int, list[int]] = {label: [] for label in sorted(set(numbers.tolist()))}
    for item, label in enumerate(numbers.tolist()):
        members[label].append(item)
    return members


def generator_of(seed: int, epoch: int) -> torch.Generator:
    """Return a random generator that is seeded by a seed and an epoch.

    Example:
        >>> generator_of(0, 1).initial_seed() != generator_of(1, 0).initial_seed()
        True
    """
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)
