"""Batches with several items of each of their classes."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from flowmatch.metric_learning.losses._base import at_least


class ClassBatches(Sampler[list[int]]):
    """Class-balanced batches: `classes` classes at random, `each` items of every one.

    A batch sampler for a ``DataLoader``. Classes are drawn without repetition within a batch; items
    of a class without repetition until all had their turn, and again where a class has fewer than
    `each`. Batches depend on seed and epoch only.

    Args:
        labels: Of all items.
        classes: In a batch.
        each: Items of a class in a batch.
        batches: In an epoch; None takes as many as cover all items once.
        seed: Of the draws.

    Raises:
        ValueError: There are fewer classes than a batch needs, or a number is not positive.

    Example:
        >>> batches = ClassBatches([0, 0, 0, 1, 1, 2], classes=2, each=2)
        >>> [len(batch) for batch in batches]
        [4, 4]
    """

    def __init__(
        self,
        labels: Sequence[int],
        classes: int,
        each: int,
        batches: int | None = None,
        seed: int = 0,
    ) -> None:
        at_least(1, classes=classes, each=each)
        self.members = members_of(labels)
        if len(self.members) < classes:
            raise ValueError(
                f"batches of {classes} classes need that many, got {len(self.members)}"
            )
        if batches is not None:
            at_least(0, batches=batches)
        self.classes, self.each, self.seed, self.epoch = classes, each, seed, 0
        self.batches = -(-len(labels) // (classes * each)) if batches is None else batches

    def __len__(self) -> int:
        return self.batches

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch: its batches are others than those of the one before.

        Args:
            epoch: From 0.
        """
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = generator_of(self.seed, self.epoch)
        decks = Decks(self.members, generator)
        names = list(self.members)
        for _ in range(self.batches):
            chosen = torch.randperm(len(names), generator=generator)[: self.classes].tolist()
            yield [item for place in chosen for item in decks.draw(names[place], self.each)]
        self.epoch += 1


class Decks:
    """A shuffled deck of each class's items, shuffled anew when it has run out.

    Args:
        members: The items of each class.
        generator: Of the shuffling.

    Example:
        >>> decks = Decks({7: [1, 2, 3]}, torch.Generator().manual_seed(0))
        >>> sorted(decks.draw(7, 3)), len(decks.draw(7, 5))
        ([1, 2, 3], 5)
    """

    def __init__(self, members: dict[int, list[int]], generator: torch.Generator) -> None:
        self.members, self.generator = members, generator
        self.left: dict[int, list[int]] = {}

    def draw(self, name: int, count: int) -> list[int]:
        """Take `count` items of a class; none twice as long as it has that many.

        Args:
            name: The class.
            count: How many.

        Returns:
            Items.
        """
        drawn: list[int] = []
        while len(drawn) < count:
            deck = self.left.get(name) or self._shuffled(name, avoid=drawn)
            take = count - len(drawn)
            drawn += deck[:take]
            self.left[name] = deck[take:]
        return drawn

    def _shuffled(self, name: int, avoid: list[int]) -> list[int]:
        items = self.members[name]
        order = torch.randperm(len(items), generator=self.generator).tolist()
        deck = [items[place] for place in order]
        # What a draw has already from the deck before goes to the bottom of this one.
        return [i for i in deck if i not in avoid] + [i for i in deck if i in avoid]


def members_of(labels: Sequence[int]) -> dict[int, list[int]]:
    """List the items of each class, classes in the order of their labels.

    Example:
        >>> members_of([3, 1, 3])
        {1: [1], 3: [0, 2]}
    """
    members: dict[int, list[int]] = {int(label): [] for label in sorted(set(map(int, labels)))}
    for item, label in enumerate(labels):
        members[int(label)].append(item)
    return members


def generator_of(seed: int, epoch: int) -> torch.Generator:
    """Return a generator that depends on both numbers.

    Example:
        >>> generator_of(0, 1).initial_seed() != generator_of(1, 0).initial_seed()
        True
    """
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)
