"""Training recipes of retrieval networks."""

from dataclasses import dataclass

from flowmatch.training import Schedule

MARGIN = 0.7


@dataclass(frozen=True)
class RetrievalRecipe:
    """Recipe for training on verified pairs.

    Attributes:
        schedule: Schedule of each round.
        rounds: Number of rounds; before each, the current network mines new negatives.
        negatives: Number of negatives of each tuple.
        margin: Distance beyond which a negative costs nothing.
        size: Side of the squares to which images are resized, pixels.
        seed: Random seed of the order of tuples.

    Raises:
        ValueError: A number is not positive.
    """

    schedule: Schedule
    rounds: int = 3
    negatives: int = 5
    margin: float = MARGIN
    size: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.rounds, self.negatives, self.size) < 1:
            raise ValueError(
                "rounds, negatives and size must be positive, "
                f"got {self.rounds}, {self.negatives}, {self.size}"
            )


RECIPES: dict[str, RetrievalRecipe] = {
    # Minutes on a CPU core.
    "retrieval-small": RetrievalRecipe(
        Schedule(steps=40, batch=4, learning_rate=1e-4, average=0.9), size=128
    ),
    # For a GPU and thousands of images.
    "retrieval-large": RetrievalRecipe(
        Schedule(steps=5000, batch=16, learning_rate=1e-4), rounds=10, size=320
    ),
}
