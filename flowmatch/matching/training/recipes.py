"""Training recipes of patch networks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowmatch.training import Schedule

LOSSES = ("triplet", "contrastive", "hinge", "hinge-hardest")


@dataclass(frozen=True)
class PatchRecipe:
    """Recipe of one set of patch weights: network, loss, schedule and samples.

    Attributes:
        model: Name of the network in `MODELS`.
        schedule: Training schedule; its batch counts items of `points` pairs.
        loss: ``"triplet"`` or ``"contrastive"`` for descriptors, ``"hinge"`` for networks that
            compare patches, ``"hinge-hardest"`` for Siamese ones.
        arguments: Arguments of the network's constructor.
        loss_arguments: Arguments of the loss.
        points: Points per item; the points of all items of a batch are each other's negatives.
        pool: Number of pairs of views kept in memory, see `PatchPool`.
        reuse: Items per pair of views, see `PatchPool`.
        seed: Random seed of the samples and of the initial weights.
    """

    model: str
    schedule: Schedule
    loss: str
    arguments: dict[str, Any] = field(default_factory=dict)
    loss_arguments: dict[str, Any] = field(default_factory=dict)
    points: int = 128
    pool: int = 128
    reuse: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the loss.

        Raises:
            ValueError: `loss` is not one of `LOSSES`.
        """
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")


_SOSNET = {"second_order": 1.0}

_SHIPPED: Mapping[str, PatchRecipe] = {
    # Half as wide as HardNet: three quarters of an hour on half a core.
    "hardnet-half": PatchRecipe(
        "hardnet",
        Schedule(steps=2750, batch=3, learning_rate=2e-3, clip=10.0),
        "triplet",
        {"width": 0.5, "dropout": 0.0, "magnification": 12.0},
        {"second_order": 0.5},
        points=96,
    ),
    # Continued with more negatives for each patch; an hour on a core.
    "hardnet-half-long": PatchRecipe(
        "hardnet",
        Schedule(steps=5000, batch=4, learning_rate=1e-3, clip=10.0, average=0.998),
        "triplet",
        {"width": 0.5, "dropout": 0.0, "magnification": 12.0},
        {"second_order": 0.5},
        seed=1,
    ),
    # The networks and the loss of DeepCompare; five minutes each on one core.
    **{
        f"{name}-start": PatchRecipe(
            name,
            Schedule(steps=420, batch=2, learning_rate=1e-3, weight_decay=5e-4, average=0.99),
            "hinge",
            points=64,
            pool=64,
            reuse=12,
        )
        for name in ("siam", "2ch")
    },
    # Continued with larger patches and frames of an RGB-D camera; 3 and 12 minutes.
    "siam": PatchRecipe(
        "siam",
        Schedule(steps=500, batch=2, learning_rate=7e-4, weight_decay=5e-4, average=0.998),
        "hinge-hardest",
        {"magnification": 12.0},
        points=48,
        pool=64,
        reuse=6,
    ),
    "2ch": PatchRecipe(
        "2ch",
        Schedule(steps=2600, batch=1, learning_rate=6e-4, weight_decay=5e-4, average=0.998),
        "hinge",
        {"magnification": 12.0},
        points=64,
        pool=64,
        reuse=3,
    ),
}

# 20 million pairs in batches of 1024, with Adam and a learning rate that decays to 0.
_LONG = Schedule(steps=20_000, batch=8, learning_rate=1e-3, warmup=0.02)

# The published networks trained on synthetic pairs; these need a GPU.
_LARGE: Mapping[str, PatchRecipe] = {
    "hardnet": PatchRecipe("hardnet", _LONG, "triplet", {"dropout": 0.1}),
    "sosnet": PatchRecipe("sosnet", _LONG, "triplet", {}, _SOSNET),
    "hynet": PatchRecipe("hynet", _LONG, "triplet", {"dropout": 0.1}, {"margin": 1.2}),
    "tfeat": PatchRecipe("tfeat", _LONG, "triplet", {}, {"mining": "semihard"}),
}

RECIPES: dict[str, PatchRecipe] = {**_SHIPPED, **_LARGE}
