"""Training recipes of alignment networks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowmatch.align.synthetic import SyntheticPairs
from flowmatch.training import Schedule


@dataclass(frozen=True)
class AlignRecipe:
    """Network, schedule and data of a training run.

    Attributes:
        model: Name of the network in `MODELS`.
        schedule: Steps, batch size and learning rate.
        arguments: Arguments of the network's constructor.
        pairs: Arguments of `SyntheticPairs` but photographs and seed.
        early: Weight of the loss of every stage but the last.
        seed: Random seed of the pairs and the network's initialisation.
    """

    model: str
    schedule: Schedule
    arguments: dict[str, Any] = field(default_factory=dict)
    pairs: dict[str, Any] = field(default_factory=dict)
    early: float = 0.5
    seed: int = 0

    def samples(self, photos: tuple[Path, ...]) -> SyntheticPairs:
        """Return the training pairs."""
        return SyntheticPairs(photos, seed=self.seed, **self.pairs)


_MIXED = {"affine": 0.9, "thin_plate": 0.6, "appearance": 0.7}

RECIPES: dict[str, AlignRecipe] = {
    # Small images and narrow layers, for a CPU: minutes.
    "align-small": AlignRecipe(
        "align",
        Schedule(steps=2000, batch=16, learning_rate=2e-3, average=0.99),
        arguments={"size": 96, "width": 12, "channels": [64, 32]},
        pairs={"size": 96, **_MIXED},
    ),
    # Only the backbone is trained, on correspondences under strong changes of appearance.
    "align-fit": AlignRecipe(
        "align",
        Schedule(steps=900, batch=8, learning_rate=3e-3, average=0.99),
        arguments={"size": 128, "width": 20, "front": "structure", "head": "fit"},
        pairs={"size": 128, "affine": 0.95, "thin_plate": 0.9, "appearance": 0.95},
    ),
    # For a GPU.
    "align-large": AlignRecipe(
        "align",
        Schedule(steps=50_000, batch=32),
        arguments={"size": 192, "width": 48},
        pairs={"size": 240, **_MIXED},
    ),
    # A single kind of transform and no change of appearance, with the paper's ranges, batch size
    # and learning rate. The paper's backbone is VGG-16, pretrained on ImageNet; this one is trained
    # from scratch.
    **{
        f"rocco-{stage}": AlignRecipe(
            "align",
            Schedule(steps=25_000, batch=16, weight_decay=0.0, warmup=0.0, average=0.0),
            arguments={"stages": [stage], "size": 120, "width": 64},
            pairs={"size": 240, "affine": affine, "thin_plate": 1.0 - affine},
        )
        for stage, affine in (("affine", 1.0), ("thin-plate", 0.0))
    },
}
"""Training recipes by name."""
