"""Training of alignment networks."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from flowmatch import training
from flowmatch.align.losses import matching_loss, stages_loss
from flowmatch.align.metrics import grid_distance
from flowmatch.align.networks import MODELS, CorrelationHead
from flowmatch.align.recipes import AlignRecipe
from flowmatch.align.synthetic import AlignSample
from flowmatch.align.transforms import pixel_grid, transform_points
from flowmatch.training import Run, RunOptions, data_digest
from flowmatch.zoo import load_initial_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack


def train_align(
    recipe: AlignRecipe,
    photos: tuple[Path, ...],
    checkpoint: Path,
    *,
    start: dict[str, Tensor] | None = None,
    **options: "Unpack[RunOptions]",
) -> nn.Module:
    """Train an alignment network on pairs made from photographs.

    Args:
        recipe: Training recipe.
        photos: Photographs to make the pairs from.
        checkpoint: Checkpoint file.
        start: Initial weights, such as those of an earlier run.
        **options: Options of the run, see `flowmatch.training.train`.

    Returns:
        The trained network, in eval mode.

    Raises:
        TrainingDiverged: The loss is no longer a number.
        ValueError: `checkpoint` belongs to another run, `start` to another network, or there are no
            photographs.
    """
    samples = recipe.samples(photos)
    torch.manual_seed(recipe.seed)
    model = MODELS[recipe.model](**recipe.arguments)
    load_initial_weights(model, start, recipe.model)
    fits = model.head == "fit"
    training.train(
        CorrelationHead(model) if fits else model,
        samples,
        collate,
        match_loss if fits else partial(align_loss, early=recipe.early),
        recipe.schedule,
        checkpoint=checkpoint,
        run=Run(recipe, {"data_digest": data_digest(photos)}),
        every=100,
        **options,
    )
    return model


def collate(samples: Sequence[AlignSample]) -> list[Tensor]:
    """Return a batch: both images ``[B, 3, S, S]`` uint8, ``[B, 6]`` and ``[B, 18]``."""
    images = [
        torch.from_numpy(np.stack([getattr(sample, part) for sample in samples])).movedim(-1, 1)
        for part in ("first", "second")
    ]
    affine = torch.from_numpy(np.stack([sample.affine for sample in samples]))
    thin_plate = torch.from_numpy(np.stack([sample.thin_plate for sample in samples]))
    return [*images, affine, thin_plate]


def align_loss(
    model: nn.Module, batch: Sequence[Tensor], *, early: float
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch and the mean `grid_distance`."""
    first, second, *truth = batch
    stages = [theta.float() for theta in model(first.float() / 255, second.float() / 255)]
    with torch.no_grad():
        distance = grid_distance(stages, truth).mean().item()
    return stages_loss(stages, truth, early), {"distance": distance}


def match_loss(model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch and the share of positions that are matched correctly.

    A match is correct if it is the cell of the true position or adjacent to it.
    """
    first, second, *truth = batch
    scores = model(first.float() / 255, second.float() / 255)
    side = round(scores.shape[1] ** 0.5)
    with torch.no_grad():
        places = pixel_grid(side, side).to(scores)
        ends = transform_points(truth, places.expand(len(scores), -1, -1))
        inside = (ends.abs() <= 1).all(-1)
        near = (places[scores.argmax(1)] - ends).abs().amax(-1) <= 3 / side
        matched = ((near & inside).sum() / inside.sum().clamp_min(1)).item()
    return matching_loss(scores, truth, side), {"matched": matched}
