"""All that makes one set of a descriptor's weights, except the scans."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowmatch.training import Schedule

LOSSES = ("softmax", "triplet", "contrastive")


@dataclass(frozen=True)
class DescriptorRecipe:
    """What to train, how, on what.

    Attributes:
        model: Name in `MODELS`.
        schedule: Steps, batch size (in pairs of scans), learning rate.
        loss: ``"softmax"`` over the batch, ``"triplet"``, hardest in the batch, or
            ``"contrastive"``.
        margin: Of the last two.
        points: That are taken from each pair of scans.
        arguments: Of the network's constructor.
        voxel: Least and largest side of the fields' voxels, metres.
        max_offset: As in `FieldPairs`.
        reuse: As in `FieldPairs`.
        rgbd: Share of the pairs that come from real frames, where there are some.
        seed: Of the scans, the points and the network's first weights.
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
        """Refuse what cannot be followed."""
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
    # Made to be trained on one CPU core, in an hour.
    "spin": DescriptorRecipe(
        "spin",
        Schedule(steps=4000, batch=2, average=0.998),
        loss="softmax",
        voxel=(0.024, 0.056),
    ),
    # Zeng et al., 3DMatch, CVPR 2017, section 4 and the authors' solver: as many pairs of the same
    # point as of different ones, voxels of 1 cm along the camera's axes, margin 1. Stochastic
    # gradient descent there, AdamW here.
    "3dmatch": DescriptorRecipe(
        "3dmatch",
        Schedule(steps=100_000, batch=2, weight_decay=5e-4, average=0.0),
        loss="contrastive",
        voxel=(0.01, 0.01),
        max_offset=0.0,
    ),
}
"""Recipes by name: ours, and the paper's."""
