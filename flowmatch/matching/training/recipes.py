"""All that makes one set of patch weights, except the photographs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowmatch.training import Schedule

LOSSES = ("triplet", "contrastive", "hinge", "hinge-hardest")


@dataclass(frozen=True)
class PatchRecipe:
    """What to train, how, on what.

    Attributes:
        model: Name in `MODELS`.
        schedule: Steps, items of a batch, learning rate.
        loss: ``"triplet"`` or ``"contrastive"`` for descriptors, ``"hinge"`` for similarities,
            ``"hinge-hardest"`` for those of Siamese networks.
        arguments: Of the network's constructor.
        loss_arguments: Of the loss.
        points: Of an item; all items of a batch are each other's negatives.
        pool: As in `PatchPool`.
        reuse: As in `PatchPool`.
        seed: Of the samples and of the network's first weights.
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
        """Refuse a loss there is not.

        Raises:
            ValueError: `loss` is none of `LOSSES`.
        """
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")


_SOSNET = {"second_order": 1.0}

_OURS: Mapping[str, PatchRecipe] = {
    # Half as wide as HardNet: three quarters of an hour on half a core.
    "hardnet-half": PatchRecipe(
        "hardnet",
        Schedule(steps=2750, batch=3, learning_rate=2e-3, clip=10.0),
        "triplet",
        {"width": 0.5, "dropout": 0.0, "magnification": 12.0},
        {"second_order": 0.5},
        points=96,
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
    # What follows: wider patches, and frames of an RGB-D camera mixed in; 3 and 12 minutes.
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

# 20 million pairs in batches of 1024, with Adam and a rate that falls to nothing.
_LONG = Schedule(steps=20_000, batch=8, learning_rate=1e-3, warmup=0.02)

# For a GPU: the published networks, on synthetic pairs.
_LARGE: Mapping[str, PatchRecipe] = {
    "hardnet": PatchRecipe("hardnet", _LONG, "triplet", {"dropout": 0.1}),
    "sosnet": PatchRecipe("sosnet", _LONG, "triplet", {}, _SOSNET),
    "hynet": PatchRecipe("hynet", _LONG, "triplet", {"dropout": 0.1}, {"margin": 1.2}),
    "tfeat": PatchRecipe("tfeat", _LONG, "triplet", {}, {"mining": "semihard"}),
}

RECIPES: dict[str, PatchRecipe] = {**_OURS, **_LARGE}
