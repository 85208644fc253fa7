"""Training of descriptors."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from flowmatch import training
from flowmatch.descriptor_losses import contrastive_loss
from flowmatch.registration.networks import MODELS, FieldDescriptor
from flowmatch.registration.synthetic.pairs import PosedScans, SyntheticScans
from flowmatch.registration.training.losses import (
    hardest_triplet_loss,
    softmax_loss,
)
from flowmatch.registration.training.recipes import DescriptorRecipe
from flowmatch.registration.training.samples import FieldPair, FieldPairs, collate
from flowmatch.training import Run, RunOptions, data_digest
from flowmatch.zoo import load_initial_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack


def train_descriptor(
    recipe: DescriptorRecipe,
    checkpoint: Path,
    *,
    rgbd: str | Path | None = None,
    start: dict[str, Tensor] | None = None,
    **options: "Unpack[RunOptions]",
) -> FieldDescriptor:
    """Train a descriptor on scans of synthetic rooms, and on posed frames.

    Args:
        recipe: Training recipe.
        checkpoint: Checkpoint file.
        rgbd: Folder of real frames in the layout of `PosedScans`.
        start: Initial weights.
        **options: Options of the run, see `flowmatch.training.train`. Reports have ``"first"``, the
            share of points whose nearest descriptor in the batch is the correct one.

    Returns:
        The trained network, in eval mode.

    Raises:
        TrainingDiverged: The loss is no longer a number.
        ValueError: `checkpoint` belongs to another run, or `start` to another network.
        FileNotFoundError: `rgbd` is not a folder of posed frames.
    """
    torch.manual_seed(recipe.seed)
    network = MODELS[recipe.model](**recipe.arguments)
    samples = find_samples(recipe, network, rgbd)
    load_initial_weights(network, start, recipe.model)
    frames: list[Path] = [] if rgbd is None else sorted(Path(rgbd).glob("depth/*.png"))
    trained = training.train(
        network,
        samples,
        collate,
        partial(descriptor_loss, recipe=recipe),
        recipe.schedule,
        checkpoint=checkpoint,
        run=Run(recipe, {"real": rgbd is not None, "data_digest": data_digest(frames)}),
        every=50,
        **options,
    )
    return cast(FieldDescriptor, trained)


class _Mixed:
    """Items of synthetic and of real scans, chosen at random in given shares."""

    def __init__(self, synthetic: FieldPairs, real: FieldPairs, share: float, seed: int) -> None:
        self.parts, self.share, self.seed = (synthetic, real), share, seed

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, index: int) -> FieldPair:
        # Items of one pair of scans stay together, so that each pair is made only once.
        group = index // self.parts[0].reuse
        real = np.random.default_rng([self.seed, group, 6]).random() < self.share
        return self.parts[int(real)][index]


def find_samples(
    recipe: DescriptorRecipe, network: FieldDescriptor, rgbd: str | Path | None = None
) -> training.Samples:
    """Return the training samples of a recipe; folders are checked before the first step.

    Raises:
        FileNotFoundError: `rgbd` is not a folder of posed frames.
        ValueError: It has fewer than two frames.
    """
    make = partial(
        FieldPairs,
        count=recipe.points,
        frames=network.frames,
        truncation=network.truncation,
        frame_radius=network.frame_radius,
        voxel=recipe.voxel,
        detail=network.detail,
        max_offset=recipe.max_offset,
        reuse=recipe.reuse,
        seed=recipe.seed,
    )
    synthetic = make([SyntheticScans(recipe.seed)])
    if rgbd is None:
        return synthetic
    return _Mixed(synthetic, make([PosedScans(rgbd, seed=recipe.seed)]), recipe.rgbd, recipe.seed)


def descriptor_loss(
    model: nn.Module, batch: Sequence[Tensor], *, recipe: DescriptorRecipe
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch, and the share of points whose nearest descriptor is correct.

    Args:
        model: A descriptor network.
        batch: Fields ``[2, N, 1, 30, 30, 30]`` and positions ``[N, 3]``, from `collate`.
        recipe: Recipe with the loss and its margin.
    """
    fields, positions = batch
    first, second = model(fields.flatten(0, 1)).float().chunk(2)
    if recipe.loss == "softmax":
        loss = softmax_loss(first, second, positions)
    elif recipe.loss == "triplet":
        loss = hardest_triplet_loss(first, second, positions, margin=recipe.margin)
    else:
        half = len(first) // 2
        # Positive pairs, and as many negative pairs from half a batch away.
        same = torch.arange(2 * len(first), device=first.device) < len(first)
        others = torch.cat([second, second.roll(half, 0)])
        loss = contrastive_loss(torch.cat([first, first]), others, same, margin=recipe.margin)
    with torch.no_grad():
        nearest = torch.cdist(first, second).argmin(1)
        correct = (positions[nearest] - positions).norm(dim=1) < 0.05
    return loss, {"first": correct.float().mean().item()}
