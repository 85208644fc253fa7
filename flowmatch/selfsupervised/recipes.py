"""Training recipes for embeddings from videos."""

from dataclasses import dataclass

from flowmatch.metric_learning.networks import BACKBONES
from flowmatch.training import Schedule


@dataclass(frozen=True)
class VideoRecipe:
    """A training recipe: everything that determines the weights, except the videos.

    Attributes:
        schedule: Steps, pairs of patches in a step, learning rate.
        backbone: Name in `flowmatch.metric_learning.networks.BACKBONES`.
        dimension: Dimension of the embedding.
        size: Side of the square crops of patches in pixels.
        gap: Least number of frames between the two patches of a pair; in shorter tracks, the
            largest possible number.
        hard_after: Share of the steps after which hard negatives are used.
        margin: Margin of `ranking_loss`.
        negatives: Number of negatives of each patch of a pair.
        seed: Random seed of the initial weights and the pairs.
    """

    schedule: Schedule
    backbone: str = "small"
    dimension: int = 64
    size: int = 48
    gap: int = 10
    hard_after: float = 0.4
    margin: float = 0.5
    negatives: int = 4
    seed: int = 0

    @property
    def mined(self) -> int:
        """Side of mined patches in pixels, which leaves room for random crops."""
        return self.size * 9 // 8

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise ValueError(
                f"backbone must be one of {', '.join(BACKBONES)}, got {self.backbone!r}"
            )
        least = min(self.dimension, self.size, self.negatives)
        if least < 1 or self.gap < 1 or not 0 <= self.hard_after <= 1:
            raise ValueError(f"dimension, size, negatives or a share is out of range: {self}")


RECIPES: dict[str, VideoRecipe] = {
    # Trains in minutes on one core.
    "video-small": VideoRecipe(Schedule(steps=400, batch=24, average=0.99)),
    # For a GPU and hours of video.
    "video-resnet18": VideoRecipe(
        Schedule(steps=50_000, batch=128), backbone="resnet18", dimension=128, size=96, gap=30
    ),
}
