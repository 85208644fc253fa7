"""Recipes for flow networks, and the one function that follows them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowmatch import training
from flowmatch.flow.estimate import to_full_resolution
from flowmatch.flow.losses import FLOWNET_WEIGHTS, LOSSES, Loss
from flowmatch.flow.networks import MODELS
from flowmatch.flow.scene import FlowSample
from flowmatch.flow.synthetic import Sources, SyntheticFlow
from flowmatch.training import Progress, Schedule


@dataclass(frozen=True)
class FlowRecipe:
    """All that makes one set of weights, except the pictures.

    Attributes:
        model: Name in `MODELS`.
        arguments: Of its constructor.
        loss: Name in `LOSSES`.
        loss_weights: One for each flow that the network gives.
        schedule: Steps, batch size, learning rate.
        size: Height and width of the training frames.
        motion: As in `SyntheticFlow`.
        seed: Of the samples and of the network's first weights.
    """

    model: str
    schedule: Schedule
    loss: str
    loss_weights: tuple[float, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (192, 256)
    motion: tuple[tuple[float, float], ...] = ((0.3, 0.2), (1.0, 0.5), (2.5, 0.3))
    seed: int = 0


# The full resolution, then at each level the corrected flow and the first guess.
_LATER, _EARLIER = (1.0, 0.3), (0.5, 0.2)  # passes of a level: the corrected flow, its guess
_PYRAMID_LOSS = (
    "robust",
    (2.0, *_LATER, *_LATER, *_LATER, *_EARLIER * 2, *(*_LATER, *_EARLIER) * 2),
)
_FLOWNET_LOSS = ("multiscale-epe", FLOWNET_WEIGHTS)
_LONG_MOTION = ((0.4, 0.2), (1.0, 0.35), (2.5, 0.25), (5.0, 0.2))

RECIPES: dict[str, FlowRecipe] = {
    # Small frames and motions first: the network learns to match within minutes. The second stage
    # starts from the first's weights (--start), with larger frames and longer motions.
    "pyramid-small": FlowRecipe("pyramid", Schedule(steps=2200, batch=4), *_PYRAMID_LOSS),
    "pyramid-large": FlowRecipe(
        "pyramid",
        Schedule(steps=4000, batch=4, learning_rate=6e-4),
        *_PYRAMID_LOSS,
        size=(256, 384),
        motion=_LONG_MOTION,
        seed=1,
    ),
    # What is learnt last is kept best: the third stage brings sub-pixel motion back.
    "pyramid-fine": FlowRecipe(
        "pyramid",
        Schedule(steps=2200, batch=4, learning_rate=4e-4),
        *_PYRAMID_LOSS,
        size=(256, 384),
        motion=((0.2, 0.25), (0.6, 0.25), (1.0, 0.25), (2.5, 0.15), (5.0, 0.1)),
        seed=2,
    ),
    "flownets-thin": FlowRecipe(
        "flownets",
        Schedule(steps=100_000, batch=8, learning_rate=4e-4, weight_decay=4e-4),
        *_FLOWNET_LOSS,
        arguments={"width": 0.375},
        size=(320, 448),
        motion=_LONG_MOTION,
    ),
    "flownetc-thin": FlowRecipe(
        "flownetc",
        Schedule(steps=100_000, batch=8, learning_rate=4e-4, weight_decay=4e-4),
        *_FLOWNET_LOSS,
        arguments={"width": 0.375},
        size=(320, 448),
        motion=_LONG_MOTION,
    ),
}


def train_flow(
    recipe: FlowRecipe,
    sources: Sources,
    checkpoint: Path,
    *,
    start: dict[str, Tensor] | None = None,
    resume: bool = False,
    device: str = "cpu",
    precision: str = "bfloat16",
    workers: int = 1,
    report: Callable[[Progress], None] = lambda progress: None,
) -> nn.Module:
    """Train a flow network on synthetic pairs.

    Args:
        recipe: What to train, how, on what motions.
        sources: Pictures that the pairs are made from.
        checkpoint: File the state is kept in.
        start: Weights to begin with, such as an earlier stage's.
        resume: Continue from `checkpoint` if it exists.
        device: Where to train.
        precision: Type of the convolutions, as in `flowmatch.training.train`.
        workers: Processes that render pairs.
        report: Called after every step.

    Returns:
        The trained network, in eval mode.

    Raises:
        TrainingDiverged: The loss is no longer a number.
        ValueError: `checkpoint` belongs to another run, or `start` to another network.
    """
    torch.manual_seed(recipe.seed)
    model = MODELS[recipe.model](**recipe.arguments)
    if start is not None:
        shapes = [{key: t.shape for key, t in of.items()} for of in (start, model.state_dict())]
        if shapes[0] != shapes[1]:
            raise ValueError(f"the weights to start from do not fit {recipe.model}")
        model.load_state_dict(start)
    samples = SyntheticFlow(sources, recipe.size, recipe.motion, recipe.seed)
    return training.train(
        model,
        samples,
        collate,
        partial(flow_loss, loss=LOSSES[recipe.loss], weights=recipe.loss_weights),
        recipe.schedule,
        checkpoint=checkpoint,
        run=_plain(asdict(recipe)),
        resume=resume,
        workers=workers,
        device=device,
        precision=precision,
        report=report,
    )


def collate(samples: Sequence[FlowSample]) -> list[Tensor]:
    """Make a batch: both images ``[B, 3, H, W]`` uint8 and the flow ``[B, 2, H, W]``."""
    return [
        torch.from_numpy(np.stack([getattr(sample, part) for sample in samples])).movedim(-1, 1)
        for part in ("first", "second", "flow")
    ]


def flow_loss(
    model: nn.Module, batch: Sequence[Tensor], *, loss: Loss, weights: Sequence[float]
) -> tuple[Tensor, dict[str, float]]:
    """Run the network on a batch; return its loss and the endpoint error of the finest flow."""
    first, second, truth = batch
    flows = model(first.float() / 255, second.float() / 255)
    with torch.no_grad():
        error = to_full_resolution(flows[0].float(), *truth.shape[-2:]) - truth
        epe = torch.linalg.vector_norm(error, dim=1).mean().item()
    return loss(flows, truth, weights), {"epe": epe}


def _plain(value: Any) -> Any:
    """Lists for tuples, as a checkpoint gives them back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
