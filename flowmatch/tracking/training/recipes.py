"""Training recipes of tracking networks."""

from dataclasses import dataclass, field
from typing import Any

from flowmatch.flow.synthetic import Sources
from flowmatch.tracking.synthetic import CropPairs
from flowmatch.training import Schedule


@dataclass(frozen=True)
class TrackRecipe:
    """Network, schedule and data of a training run.

    Attributes:
        model: Name of the network in `MODELS`.
        schedule: Steps, batch size and learning rate.
        arguments: Arguments of the network's constructor.
        crops: Arguments of `CropPairs` but sources and seed.
        seed: Random seed of the crops and the network's initialisation.
    """

    model: str
    schedule: Schedule
    arguments: dict[str, Any] = field(default_factory=dict)
    crops: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def samples(self, sources: Sources) -> CropPairs:
        """Return the training crops."""
        return CropPairs(sources, seed=self.seed, **self.crops)


RECIPES: dict[str, TrackRecipe] = {
    # For a CPU core: less than an hour.
    "box-small": TrackRecipe(
        "box-regression", Schedule(steps=2800, batch=64, learning_rate=1.5e-3, average=0.995)
    ),
    # For a GPU.
    "box-large": TrackRecipe(
        "box-regression",
        Schedule(steps=60_000, batch=128, learning_rate=1e-3),
        arguments={"size": 120, "width": 48, "hidden": 256},
        crops={"size": 120},
    ),
}
"""Training recipes by name."""
