"""The one function that follows a recipe for a patch network."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch import training
from flowmatch.patches.keypoints import magnification_of
from flowmatch.patches.metrics import false_positive_rate
from flowmatch.patches.networks import MODELS
from flowmatch.patches.recipes import PatchRecipe
from flowmatch.patches.synthetic import PatchPairs, SyntheticPatches
from flowmatch.similarity.patch_losses import contrastive_loss, hinge_loss, triplet_loss
from flowmatch.training import Progress

_APART = 3.0  # pixels of a photograph, plus the larger scale: closer points are not negatives
_THUMBNAIL = 8


def train_patches(
    recipe: PatchRecipe,
    photos: Sequence[Path],
    checkpoint: Path,
    *,
    start: dict[str, Tensor] | None = None,
    resume: bool = False,
    device: str = "cpu",
    precision: str = "bfloat16",
    workers: int = 1,
    logs: Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> nn.Module:
    """Train a patch network on patches of photographs and views of them.

    Args:
        recipe: What to train, and how.
        photos: Photographs; with none, textures are procedural.
        checkpoint: File the state is kept in.
        start: Weights to begin with, such as those of another recipe.
        resume: Continue from `checkpoint` if it exists.
        device: Where to train.
        precision: Type of the convolutions, as in `flowmatch.training.train`.
        workers: Processes that render.
        logs: Folder for TensorBoard; None writes none.
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
    return training.train(
        model,
        samples_of(recipe, photos, model),
        collate,
        loss_of(recipe),
        recipe.schedule,
        checkpoint=checkpoint,
        run=asdict(recipe) | {"schedule": _plain(asdict(recipe.schedule))},
        resume=resume,
        workers=workers,
        device=device,
        precision=precision,
        logs=logs,
        report=report,
    )


def samples_of(recipe: PatchRecipe, photos: Sequence[Path], model: Any) -> SyntheticPatches:
    """Return what a recipe learns from, as the patches that its network takes."""
    return SyntheticPatches(
        photos,
        model.patch_size,
        recipe.points,
        magnification_of(model),
        pool=recipe.pool,
        reuse=recipe.reuse,
        seed=recipe.seed,
    )


def collate(items: Sequence[PatchPairs]) -> list[Tensor]:
    """Make a batch of N pairs: both patches ``[N, 1, S, S]`` uint8, and places ``[N, 4]``."""
    first, second, place = (
        torch.from_numpy(np.concatenate(parts)) for parts in zip(*items, strict=True)
    )
    return [first[:, None], second[:, None], place]


def same_points(place: Tensor) -> Tensor:
    """Return which of N points are too close to be told apart, ``[N, N]`` bool.

    Args:
        place: ``[N, 4]``: photograph, x, y, scale.
    """
    photo, xy, scale = place[:, 0], place[:, 1:3], place[:, 3]
    apart = torch.cdist(xy, xy) > _APART + torch.maximum(scale[:, None], scale[None])
    return (photo[:, None] == photo[None]) & ~apart


Loss = Callable[[nn.Module, Sequence[Tensor]], tuple[Tensor, dict[str, float]]]


def loss_of(recipe: PatchRecipe) -> Loss:
    """Return the loss of a recipe: ``loss(network, batch)`` -> loss, numbers to report."""
    if recipe.loss == "hinge":
        return partial(similarity_loss, **recipe.loss_arguments)
    compare = triplet_loss if recipe.loss == "triplet" else contrastive_loss
    return partial(descriptor_loss, compare=partial(compare, **recipe.loss_arguments))


def descriptor_loss(
    model: nn.Module,
    batch: Sequence[Tensor],
    *,
    compare: Callable[..., tuple[Tensor, Tensor]] = triplet_loss,
) -> tuple[Tensor, dict[str, float]]:
    """Describe both patches of each pair; return the loss, and the share of pairs it gets wrong.

    Args:
        model: A descriptor network.
        batch: As `collate` makes it.
        compare: As `triplet_loss`.
    """
    first, second, place = batch
    # In one stack, so that batch normalisation sees both alike.
    described = model(torch.cat([first, second]).float() / 255).float()
    loss, far = compare(*described.chunk(2), same_points(place))
    return loss, {
        "wrong": (far[1] <= far[0]).float().mean().item(),
        "positive": far[0].mean().item(),
        "negative": far[1].mean().item(),
    }


def similarity_loss(model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Compare both patches of each pair, and each first patch with one of another point.

    Half of those are what looks most alike from afar, because what is left to a network that
    decides on matches are never two random patches.

    Args:
        model: A similarity network.
        batch: As `collate` makes it.
    """
    first, second, place = (part.float() for part in batch)
    first, second = first / 255, second / 255
    same = same_points(place)
    N = len(first)
    far = torch.cdist(_thumbnails(first), _thumbnails(second)).masked_fill(same, torch.inf)
    at_random = torch.rand(N, N, device=far.device).masked_fill(same, torch.inf)
    hard = torch.rand(N, 1, device=far.device) < 0.5
    other = torch.where(hard, far, at_random).argmin(dim=1)
    # Either order: a network with two different branches has to learn both.
    similarity = model(torch.cat([first, second[other]]), torch.cat([second, first])).float()
    alike = torch.arange(2 * N, device=similarity.device) < N
    with torch.no_grad():
        rate = false_positive_rate(similarity[:N].cpu().numpy(), similarity[N:].cpu().numpy())
    return hinge_loss(similarity, alike), {"fpr95": rate}


def _thumbnails(patches: Tensor) -> Tensor:
    small = F.adaptive_avg_pool2d(patches, _THUMBNAIL).flatten(1)
    return F.normalize(small - small.mean(dim=1, keepdim=True), dim=1)


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Lists for tuples, as a checkpoint gives them back."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in value.items()}
