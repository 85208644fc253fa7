"""Training recipes of descriptors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowmatch.training import Schedule

LOSSES = ("softmax", "triplet", "contrastive")


@dataclass(frozen=True)
class DescriptorRecipe:
    """Network, loss, schedule and data of a training run.

    Attributes:
        model: Name of the network in `MODELS`.
        schedule: Steps, batch size (pairs of scans) and learning rate.
        loss: ``"softmax"`` over the batch, ``"triplet"`` with hardest negatives, or
            ``"contrastive"``.
        margin: Margin of the triplet and the contrastive loss.
        points: Points per pair of scans.
        arguments: Arguments of the network's constructor.
        voxel: Minimum and maximum side of the fields' voxels, metres.
        max_offset: Maximum distance between the two points of a pair; see `FieldPairs`.
        reuse: Items per pair of scans; see `FieldPairs`.
        rgbd: Share of pairs from real frames, if any are given.
        seed: Random seed of the scans, the points and the network's initialisation.
    """

    model: str
    schedule: Schedule
    loss: str = "triplet"
    margin: float = 1.0
    points: int = 64
    arguments: dict[str, Any] = field(default_factory=dict)
    voxel: tuple[float, float] = (0.009, 0.016)
    max_offset: float = 0.5
    reuse: int = 4
    rgbd: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if not 0 <= self.rgbd <= 1 or self.points < 2:
            raise ValueError(
                "a share of real frames in [0, 1] and 2 points are needed, "
                f"got {self.rgbd} and {self.points}"
            )


RECIPES: Mapping[str, DescriptorRecipe] = {
    "slim": DescriptorRecipe(
        "slim",
        Schedule(steps=5000, batch=1, average=0.995),
        loss="softmax",
        voxel=(0.012, 0.028),
    ),
    # For an hour on one CPU core.
    "spin": DescriptorRecipe(
        "spin",
        Schedule(steps=4000, batch=2, average=0.998),
        loss="softmax",
        voxel=(0.024, 0.056),
    ),
    # Zeng et al., 3DMatch, CVPR 2017, section 4, and the authors' solver: as many positive as
    # negative pairs, voxels of 1 cm along the camera's axes, margin 1. The authors use stochastic
    # gradient descent, this recipe AdamW.
    "3dmatch": DescriptorRecipe(
        "3dmatch",
        Schedule(steps=100_000, batch=2, weight_decay=5e-4, average=0.0),
        loss="contrastive",
        voxel=(0.01, 0.01),
        max_offset=0.0,
    ),
}
"""Training recipes by name; ``"3dmatch"`` is the paper's."""
