"""Training of tracking networks."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from flowmatch import training
from flowmatch.flow.synthetic import Sources
from flowmatch.tracking.networks import MODELS
from flowmatch.tracking.synthetic import CropPair
from flowmatch.tracking.training.losses import box_loss
from flowmatch.tracking.training.recipes import TrackRecipe
from flowmatch.training import Run, RunOptions, data_digest
from flowmatch.zoo import load_initial_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack


def train_tracker(
    recipe: TrackRecipe,
    sources: Sources,
    checkpoint: Path,
    *,
    start: dict[str, Tensor] | None = None,
    **options: "Unpack[RunOptions]",
) -> nn.Module:
    """Train a tracking network on rendered objects.

    Args:
        recipe: Training recipe.
        sources: Sources of the textures.
        checkpoint: Checkpoint file.
        start: Initial weights, such as those of an earlier run.
        **options: Options of the run, see `flowmatch.training.train`.

    Returns:
        The trained network, in eval mode.

    Raises:
        TrainingDiverged: The loss is no longer a number.
        ValueError: `checkpoint` belongs to another run, or `start` to another network.
    """
    torch.manual_seed(recipe.seed)
    model = MODELS[recipe.model](**recipe.arguments)
    load_initial_weights(model, start, recipe.model)
    training.train(
        model,
        recipe.samples(sources),
        collate,
        batch_loss,
        recipe.schedule,
        checkpoint=checkpoint,
        run=Run(recipe, {"data_digest": data_digest([*sources.photos, *sources.cutouts])}),
        every=100,
        **options,
    )
    return model


def collate(samples: Sequence[CropPair]) -> list[Tensor]:
    """Return a batch: both crops ``[B, 3, S, S]`` uint8, true boxes ``[B, 4]``, present ``[B]``."""
    crops = [
        torch.from_numpy(np.stack([getattr(sample, part) for sample in samples])).movedim(-1, 1)
        for part in ("first", "second")
    ]
    numbers = [
        torch.from_numpy(np.stack([getattr(sample, part) for sample in samples]))
        for part in ("code", "present")
    ]
    return [*crops, *numbers]


def batch_loss(model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch, its parts, and the share of rightly judged visibilities."""
    first, second, true_code, present = batch
    code, logits = model(first.float() / 255, second.float() / 255)
    loss = box_loss(code.float(), logits.float(), true_code, present)
    judged = ((logits > 0) == (present > 0.5)).float().mean().item()
    return loss.total, {"box": loss.box.item(), "judged": judged}
