"""Training recipes of the shipped weights and of the papers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowmatch.flow.data.augment import Augmentation
from flowmatch.flow.networks.flownet import STRIDE
from flowmatch.flow.training.losses import FLOWNET_WEIGHTS, sequence_weights
from flowmatch.training import Schedule

VIDEO = "video"
"""Name of the unsupervised loss, which compares frames with each other."""


@dataclass(frozen=True)
class FlowRecipe:
    """Network, schedule, loss and data of a training run.

    Attributes:
        model: Name of the network in `MODELS`.
        schedule: Steps, batch size, learning rate.
        loss: Name of the loss in `LOSSES`, or `VIDEO` for unsupervised training.
        loss_weights: Weight of each flow that the network returns.
        arguments: Arguments of the network's constructor.
        size: Height and width of the training frames.
        motion: Factors on synthetic motions and their weights (`SyntheticFlow`).
        mix: Real datasets by name, and their weights; if empty, pairs are synthetic, or half of
            them if datasets are given.
        augmentation: Arguments of `Augmentation` for the real datasets.
        reuse: Number of uses of each synthetic pair, augmented after the first.
        norms: Train with temporary batch norms (`networks.norms`).
        passes: Number of RAFT's iterations in training; 0 takes the network's own number.
        matching: Weight of `matching_loss` on FlowNetC's correlation, or of `global_matching_loss`.
        choice: Weight of `choice_loss`.
        initial: Give each pair an initial flow of a random kind (`WithInitialFlows`).
        added: Prefixes of layers that begin anew.
        kept: Share of the initial weights in the result, but for layers that begin anew (Wortsman
            et al., Robust fine-tuning of zero-shot models, CVPR 2022).
        seed: Random seed of the samples and of the network's initial weights.
    """

    model: str
    schedule: Schedule
    loss: str
    loss_weights: tuple[float, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (192, 256)
    motion: tuple[tuple[float, float], ...] = ((0.3, 0.2), (1.0, 0.5), (2.5, 0.3))
    mix: tuple[tuple[str, float], ...] = ()
    augmentation: dict[str, Any] = field(default_factory=dict)
    reuse: int = 1
    norms: bool = False
    passes: int = 0
    matching: float = 0.0
    choice: float = 0.0
    initial: bool = False
    added: tuple[str, ...] = ()
    kept: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the size of the frames."""
        step = STRIDE if self.model == "flownetc" else 32
        if self.matching and any(side % step for side in self.size):
            raise ValueError(f"matching needs a size of multiples of {step}, got {self.size}")

    def augment(self) -> Augmentation:
        """Return the augmentation of the real pairs."""
        return Augmentation(self.size, **self.augmentation)


# Weights of the full resolution, and for each pass of each level, finest first, of the corrected
# flow and of the initial one. Earlier passes of a level weigh half; the flows that the passes at
# 1/4 and 1/8 begin with weigh less, and the global match least.
_LATER, _EARLIER, _BEGUN = (1.0, 0.3), (0.5, 0.2), (0.3, 0.1)
_RECURRENT = (
    *(2.0, *_LATER, *_LATER, _BEGUN[0]),
    *(*_LATER, *_EARLIER * 2, *_BEGUN),
    *(*_LATER, *_EARLIER) * 2,
)
_PYRAMID = (1.0, *(1.0, 0.5) * 4)
_FLOWNET = (1.0, 0.5, 0.25, 0.25, 0.25)
_PYRAMID_VIDEO = (1.0, *(0.0 for _ in _PYRAMID[1:]))
_LONG_MOTION = ((0.0, 0.03), (0.1, 0.1), (0.4, 0.2), (1.0, 0.3), (2.5, 0.22), (5.0, 0.15))
_LONGER_MOTION = (*_LONG_MOTION, (8.0, 0.05))
_LONGEST_MOTION = (*_LONG_MOTION, (8.0, 0.12))

_OURS: Mapping[str, FlowRecipe] = {
    # Small frames and motions first: the network learns to match within minutes. The second stage
    # starts from the first stage's weights (--start), with larger frames and longer motions.
    "pyramid-small": FlowRecipe("pyramid", Schedule(steps=3000, batch=6), "robust", _PYRAMID),
    "pyramid-large": FlowRecipe(
        "pyramid",
        Schedule(steps=4000, batch=4, learning_rate=6e-4),
        "robust",
        _PYRAMID,
        size=(256, 384),
        motion=_LONG_MOTION,
        seed=1,
    ),
    # A network is best at its last stage's data: the third stage brings sub-pixel motion back.
    "pyramid-fine": FlowRecipe(
        "pyramid",
        Schedule(steps=2200, batch=4, learning_rate=4e-4),
        "robust",
        _PYRAMID,
        size=(256, 384),
        motion=((0.2, 0.25), (0.6, 0.25), (1.0, 0.25), (2.5, 0.15), (5.0, 0.1)),
        seed=2,
    ),
    "recurrent-small": FlowRecipe(
        "recurrent-pyramid", Schedule(steps=2200, batch=4), "robust", _RECURRENT
    ),
    "recurrent-large": FlowRecipe(
        "recurrent-pyramid",
        Schedule(steps=2300, batch=4, learning_rate=6e-4),
        "robust",
        _RECURRENT,
        size=(256, 384),
        motion=_LONG_MOTION,
        seed=1,
    ),
    # From the second stage's weights, with longer motions; while long motion still improves, again,
    # with each pair three times; then with the global match and the initial flow, whose layers
    # begin anew; at last with more of the longest motions.
    **{
        name: FlowRecipe(
            "recurrent-pyramid",
            Schedule(steps=steps, batch=4, learning_rate=rate),
            "robust",
            _RECURRENT,
            size=(256, 384),
            motion=_LONGEST_MOTION if name == "recurrent-farthest" else _LONGER_MOTION,
            reuse=reuse,
            initial=name in ("recurrent-hypotheses", "recurrent-farthest"),
            added=("choose_", "global_") if name == "recurrent-hypotheses" else (),
            seed=seed,
        )
        for name, steps, rate, reuse, seed in (
            ("recurrent-long", 2200, 5e-4, 1, 2),
            ("recurrent-longer", 2800, 5e-4, 3, 3),
            ("recurrent-longest", 3400, 4e-4, 3, 4),
            ("recurrent-hypotheses", 3600, 6e-4, 3, 5),
            ("recurrent-farthest", 2800, 5e-4, 3, 7),
        )
    },
    # Larger frames, on which the longest motions keep their target in view, and a choice that is
    # trained by itself: the flow's error alone hardly reaches it. So few steps cost the rest of the
    # network accuracy, which a mean of old and new weights does not lose.
    "recurrent-choice": FlowRecipe(
        "recurrent-pyramid",
        Schedule(steps=2100, batch=3, learning_rate=4e-4),
        "robust",
        _RECURRENT,
        size=(288, 448),
        motion=_LONGEST_MOTION,
        reuse=3,
        matching=1.0,
        choice=2.0,
        initial=True,
        added=("choose_",),
        kept=0.7,
        seed=8,
    ),
    # Unsupervised, on the frames of a video, from trained weights (--start).
    "pyramid-video": FlowRecipe(
        "pyramid",
        Schedule(steps=2000, batch=2, learning_rate=1e-4, average=0.99),
        VIDEO,
        _PYRAMID_VIDEO,
        size=(256, 384),
    ),
    # RAFT-small for a CPU core: a third of its iterations first, then half of them on larger
    # frames.
    "raft-small-near": FlowRecipe(
        "raft-small",
        Schedule(steps=3500, batch=4, learning_rate=6e-4),
        "robust",
        sequence_weights(4),
        passes=4,
        reuse=3,
    ),
    "raft-small-far": FlowRecipe(
        "raft-small",
        Schedule(steps=2200, batch=4, learning_rate=4e-4),
        "robust",
        sequence_weights(6),
        passes=6,
        size=(256, 384),
        motion=_LONG_MOTION,
        reuse=3,
        seed=1,
    ),
    "raft-small-farther": FlowRecipe(
        "raft-small",
        Schedule(steps=1600, batch=4, learning_rate=3e-4),
        "robust",
        sequence_weights(6),
        passes=6,
        size=(256, 384),
        motion=_LONGER_MOTION,
        reuse=3,
        seed=2,
    ),
    # For a GPU: RAFT-small from synthetic pairs alone.
    "raft-small-synthetic": FlowRecipe(
        "raft-small",
        Schedule(steps=100_000, batch=10, learning_rate=4e-4, warmup=0.05),
        "sequence",
        sequence_weights(12),
        size=(320, 448),
        motion=_LONG_MOTION,
    ),
    # For 20 to 25 minutes of a large GPU at 5 steps a second, with pairs rendered there (--render
    # device). The first two continue what ships (--start); FlowNetC at full width begins anew.
    **{
        f"{model}-gpu": FlowRecipe(
            model,
            Schedule(steps=6500, batch=batch, learning_rate=rate, warmup=0.05),
            "robust",
            weights,
            size=(320, 448),
            motion=_LONGER_MOTION,
            passes=passes,
            norms=model == "flownetc",
            matching=2.0 if model == "flownetc" else 0.0,
            seed=6,
        )
        for model, batch, rate, weights, passes in (
            ("recurrent-pyramid", 24, 5e-4, _RECURRENT, 0),
            ("raft-small", 24, 4e-4, sequence_weights(8), 8),
            ("flownetc", 32, 4e-4, _FLOWNET, 0),
        )
    },
    **{
        f"{model}-thin": FlowRecipe(
            model,
            Schedule(steps=100_000, batch=8, learning_rate=4e-4, weight_decay=4e-4),
            "multiscale-epe",
            FLOWNET_WEIGHTS,
            arguments={"width": 0.375},
            size=(320, 448),
            motion=_LONG_MOTION,
        )
        for model in ("flownets", "flownetc")
    },
    # For a CPU core, where rendering takes longer than learning: every pair four times.
    **{
        f"{model}-thin-small": FlowRecipe(
            model,
            Schedule(steps=4000, batch=8),
            "robust",
            _FLOWNET,
            arguments={"width": 0.375},
            motion=((0.2, 0.2), (0.5, 0.4), (1.0, 0.3), (2.5, 0.1)),
            reuse=4,
            norms=True,
            matching=matching,
        )
        for model, matching in (("flownets", 0.0), ("flownetc", 2.0))
    },
    # From the stage before, without its norms: they are needed at the beginning only, and the noise
    # of batch statistics costs more than they bring later.
    **{
        name: FlowRecipe(
            model,
            Schedule(steps=steps, batch=8, learning_rate=3e-4),
            "robust",
            _FLOWNET,
            arguments={"width": 0.375},
            motion=((0.2, 0.25), (0.5, 0.35), (1.0, 0.25), (2.5, 0.15)),
            reuse=4,
            seed=seed,
        )
        for name, model, steps, seed in (
            ("flownets-thin-fine", "flownets", 5000, 1),
            ("flownetc-thin-fine", "flownetc", 5000, 1),
            ("flownetc-thin-finer", "flownetc", 3000, 2),
        )
    },
}


def _flownet(model: str, fine: bool) -> FlowRecipe:
    """Return a schedule of FlowNet 2.0: S_long on Chairs, or S_fine on Things3D after it.

    Reference:
        Ilg et al., FlowNet 2.0, CVPR 2017, section 3.
    """
    halve = (200, 300, 400) if fine else (400, 600, 800, 1000)
    schedule = Schedule(
        steps=500_000 if fine else 1_200_000,
        batch=8,
        learning_rate=1e-5 if fine else 1e-4,
        weight_decay=4e-4,
        # FlowNetC diverges without a warm-up: 10,000 steps from a hundredth of the rate.
        warmup=0.0 if fine or model == "flownets" else 1 / 120,
        clip=float("inf"),
        halve=tuple(1000 * at for at in halve),
        average=0.0,
    )
    data, size = ("things", (384, 768)) if fine else ("chairs", (320, 448))
    return FlowRecipe(
        model, schedule, "multiscale-epe", FLOWNET_WEIGHTS, size=size, mix=((data, 1.0),)
    )


def _raft(
    size: tuple[int, int],
    mix: dict[str, float],
    *,
    model: str = "raft",
    batch: int = 6,
    steps: int = 100_000,
    rate: float = 1.25e-4,
    decay: float = 1e-5,
    gamma: float = 0.85,
    scale: tuple[float, float],
) -> FlowRecipe:
    """Return a training stage of RAFT.

    Two things differ from the released code: the learning rate falls along a cosine, not linearly,
    and batch normalisation is not frozen after the first stage.

    Reference:
        Teed & Deng, RAFT, ECCV 2020, section 4, and the released training commands.
    """
    return FlowRecipe(
        model,
        Schedule(steps, batch, rate, decay, warmup=0.05, average=0.0),
        "sequence",
        sequence_weights(12, gamma),
        size=size,
        mix=tuple(mix.items()),
        augmentation={"scale": scale},
    )


_RAFT_SINTEL = {"sintel": 0.71, "kitti": 0.135, "hd1k": 0.135, "things": 0.02}

_PAPERS: Mapping[str, FlowRecipe] = {
    **{
        f"{model}-{'fine' if fine else 'long'}": _flownet(model, fine)
        for model in ("flownets", "flownetc")
        for fine in (False, True)
    },
    **{
        f"{model}-chairs": _raft(
            (368, 496),
            {"chairs": 1.0},
            model=model,
            batch=10,
            rate=4e-4,
            decay=1e-4,
            gamma=0.8,
            scale=(-0.1, 1.0),
        )
        for model in ("raft", "raft-small")
    },
    "raft-things": _raft((400, 720), {"things": 1.0}, decay=1e-4, gamma=0.8, scale=(-0.4, 0.8)),
    "raft-sintel": _raft((368, 768), _RAFT_SINTEL, scale=(-0.2, 0.6)),
    "raft-kitti": _raft((288, 960), {"kitti": 1.0}, steps=50_000, rate=1e-4, scale=(-0.2, 0.4)),
}

RECIPES: dict[str, FlowRecipe] = {**_OURS, **_PAPERS}
