"""All that makes one set of weights, except the videos."""

from dataclasses import dataclass

from flowmatch.metric_learning.networks import TRUNKS
from flowmatch.training import Schedule


@dataclass(frozen=True)
class VideoRecipe:
    """What to train, how.

    Attributes:
        schedule: Steps, pairs of patches in a step, learning rate.
        trunk: Name in `flowmatch.metric_learning.networks.TRUNKS`.
        dimension: Of the embedding.
        size: Of the patches that the network sees, square.
        apart: Frames that should lie between the two patches of a pair; of shorter tracks they are
            the farthest there are.
        hard_after: Share of the steps after which negatives are hard ones, too.
        margin: Of `ranking_loss`.
        negatives: Of each end of a pair.
        seed: Of first weights, pairs and draws.
    """

    schedule: Schedule
    trunk: str = "small"
    dimension: int = 64
    size: int = 48
    apart: int = 10
    hard_after: float = 0.4
    margin: float = 0.5
    negatives: int = 4
    seed: int = 0

    @property
    def mined(self) -> int:
        """How large patches are mined: training cuts random parts of the size out of them."""
        return self.size * 9 // 8

    def __post_init__(self) -> None:
        if self.trunk not in TRUNKS:
            raise ValueError(f"trunk must be one of {', '.join(TRUNKS)}, got {self.trunk!r}")
        least = min(self.dimension, self.size, self.negatives)
        if least < 1 or self.apart < 1 or not 0 <= self.hard_after <= 1:
            raise ValueError(f"dimension, size, negatives or a share is out of range: {self}")


RECIPES: dict[str, VideoRecipe] = {
    # Minutes on one core.
    "video-small": VideoRecipe(Schedule(steps=400, batch=24, average=0.99)),
    # For a GPU and hours of video.
    "video-resnet18": VideoRecipe(
        Schedule(steps=50_000, batch=128), trunk="resnet18", dimension=128, size=96, apart=30
    ),
}
