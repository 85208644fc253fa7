"""The one function that follows a recipe for a patch network."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch import training
from flowmatch.descriptor_losses import hardest_contrastive_loss, hinge_loss, triplet_loss
from flowmatch.matching.data.brown import BrownSamples
from flowmatch.matching.data.rgbd import PosedPatches
from flowmatch.matching.networks import MODELS, SiameseNetwork
from flowmatch.matching.patches import magnification_of
from flowmatch.matching.synthetic.pairs import SyntheticPatches
from flowmatch.matching.synthetic.pool import Mixture, PatchPairs, PatchSource
from flowmatch.matching.training.recipes import PatchRecipe
from flowmatch.metrics import fpr_at_recall
from flowmatch.training import Run, RunOptions, data_digest
from flowmatch.zoo import load_initial_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

_APART = 3.0  # pixels or centimetres, plus the larger scale: closer points are not negatives
_THUMBNAIL = 8


def train_patches(
    recipe: PatchRecipe,
    photos: Sequence[Path],
    checkpoint: Path,
    *,
    rgbd: Path | None = None,
    brown: Sequence[Path] = (),
    start: dict[str, Tensor] | None = None,
    **options: "Unpack[RunOptions]",
) -> nn.Module:
    """Train a patch network on patches of photographs and views of them.

    Args:
        recipe: What to train, and how.
        photos: Photographs; with none, and nothing else, textures are procedural.
        checkpoint: File the state is kept in.
        rgbd: Frames of an RGB-D camera, see `PosedPatches`; half as many items as photographs give.
        brown: Sets of Brown's patches, see `BrownSamples`; each as many as photographs give.
        start: Weights to begin with, such as those of another recipe.
        **options: Of the run, as in `flowmatch.training.train`.

    Returns:
        The trained network, in eval mode.

    Raises:
        TrainingDiverged: The loss is no longer a number.
        ValueError: `checkpoint` belongs to another run, or `start` to another network.
    """
    torch.manual_seed(recipe.seed)
    model: Any = MODELS[recipe.model](**recipe.arguments)
    load_initial_weights(model, start, recipe.model)
    training.train(
        trained_form(recipe, model),
        samples_of(recipe, photos, model, rgbd, brown),
        collate,
        loss_of(recipe),
        recipe.schedule,
        checkpoint=checkpoint,
        run=Run(recipe, {"data_digest": _data_digest(photos, rgbd, brown)}),
        **options,
    )
    return model.eval()  # type: ignore[no-any-return]


def _data_digest(photos: Sequence[Path], rgbd: Path | None, brown: Sequence[Path]) -> list[str]:
    folders = [*brown, *(() if rgbd is None else (rgbd / "color", rgbd / "depth"))]
    return [data_digest(photos), *(data_digest(sorted(folder.iterdir())) for folder in folders)]


class Mined(nn.Module):
    """What trains a Siamese network on the hardest pairs of a batch: each patch is looked at once.

    Args:
        network: Whose weights learn.

    Raises:
        ValueError: It is not Siamese.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not isinstance(network, SiameseNetwork):
            raise ValueError(
                f"the hardest of all pairs are for Siamese networks, got {type(network).__name__}"
            )
        self.network = network

    def forward(self, first: Tensor, second: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
        """Compare patches ``[N, 1, S, S]`` with others, in this order and the other.

        Args:
            first: Of N points.
            second: Of the same points.
            same: ``[N, N]`` bool, as `same_points` has it.

        Returns:
            Similarities ``[2, 4, N]``: of each pair; of each first patch and the second one of
            another point that seems most similar; of each second patch and such a first one; and
            of each first patch and any other. And ``[N]`` bool: which have another point.
        """
        # Branches that are shared need not look twice.
        roles = (False,) if getattr(self.network, "second", None) is None else (False, True)
        sides = [
            [self.network.features(patches, second=later) for later in roles]
            for patches in (first, second)
        ]
        judged = [
            self._judge(sides[k][0], sides[1 - k][-1], same if k == 0 else same.T) for k in (0, 1)
        ]
        return torch.stack(judged), ~same.all(dim=1)

    def _judge(self, first: Tensor, second: Tensor, same: Tensor) -> Tensor:
        pairs = torch.arange(len(first), device=first.device)
        with torch.no_grad():
            others = self.network.compare_all(first, second).float().masked_fill(same, -torch.inf)
            at_random = torch.rand_like(others).masked_fill(same, -1)
        i = torch.cat([pairs, pairs, others.argmax(dim=0), pairs])
        j = torch.cat([pairs, others.argmax(dim=1), pairs, at_random.argmax(dim=1)])
        return self.network.compare(first[i], second[j]).view(4, -1)


def trained_form(recipe: PatchRecipe, model: nn.Module) -> nn.Module:
    """Return the module that the loss of a recipe calls; its weights are the network's."""
    return Mined(model) if recipe.loss == "hinge-hardest" else model


def samples_of(
    recipe: PatchRecipe,
    photos: Sequence[Path],
    model: Any,
    rgbd: Path | None = None,
    brown: Sequence[Path] = (),
) -> training.Samples:
    """Return what a recipe learns from, as the patches that its network takes."""
    about: dict[str, Any] = {
        "size": model.patch_size, "points": recipe.points, "seed": recipe.seed,
    }  # fmt: skip
    views: dict[str, Any] = {
        "magnification": magnification_of(model),
        "pool": recipe.pool,
        "reuse": recipe.reuse,
    }
    sources: list[PatchSource] = []
    if photos or not (rgbd or brown):
        sources += 2 * [SyntheticPatches(photos, **about, **views)]
    for folder in brown:
        sources += 2 * [BrownSamples(folder=folder, **about)]
    if rgbd is not None:
        sources.append(PosedPatches(folder=rgbd, **about, **views))
    one = all(source is sources[0] for source in sources)
    return sources[0] if one else Mixture(sources, recipe.seed)


def collate(items: Sequence[PatchPairs]) -> list[Tensor]:
    """Make a batch of N pairs: both patches ``[N, 1, S, S]`` uint8, and places ``[N, 5]``."""
    first, second, place = (
        torch.from_numpy(np.concatenate(parts)) for parts in zip(*items, strict=True)
    )
    return [first[:, None], second[:, None], place]


def same_points(place: Tensor) -> Tensor:
    """Return which of N points are too close to be told apart, ``[N, N]`` bool.

    Args:
        place: ``[N, 5]``, as in `PatchPairs`.
    """
    photo, where, scale = place[:, 0], place[:, 1:-1], place[:, -1]
    apart = torch.cdist(where, where) > _APART + torch.maximum(scale[:, None], scale[None])
    return (photo[:, None] == photo[None]) & ~apart


Loss = Callable[[nn.Module, Sequence[Tensor]], tuple[Tensor, dict[str, float]]]


def loss_of(recipe: PatchRecipe) -> Loss:
    """Return the loss of a recipe: ``loss(network, batch)`` -> loss, numbers to report."""
    if recipe.loss == "hinge":
        return partial(similarity_loss, **recipe.loss_arguments)
    if recipe.loss == "hinge-hardest":
        return partial(mined_loss, **recipe.loss_arguments)
    compare = triplet_loss if recipe.loss == "triplet" else hardest_contrastive_loss
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
        rate = fpr_at_recall(similarity[:N].cpu().numpy(), similarity[N:].cpu().numpy())
    return hinge_loss(similarity, alike), {"fpr95": rate}


def mined_loss(model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Ask of each patch that its pair is similar, and the most similar other one, and any, is not.

    Two thirds of what is not one point are the hardest, because a decision is asked about a
    descriptor's nearest neighbours; the rest keeps easy pairs in their place.

    Args:
        model: `Mined`.
        batch: As `collate` makes it.
    """
    first, second, place = (part.float() for part in batch)
    similarity, useful = model(first / 255, second / 255, same_points(place))
    alike, different = similarity[:, 0].float(), similarity[:, 1:, useful].float()
    loss = 0.5 * _hinge(alike, True)
    if useful.any():
        loss = loss + 0.5 * _hinge(different, False)
    with torch.no_grad():
        rate = fpr_at_recall(alike.flatten().cpu(), different[:, 2].flatten().cpu())
        wrong = (different[:, :2].amax(dim=1) >= alike[:, useful]).float().mean().item()
    return loss, {"wrong": wrong, "fpr95": rate}


def _hinge(similarity: Tensor, alike: bool) -> Tensor:
    values = similarity.flatten()
    return hinge_loss(values, torch.full_like(values, alike, dtype=torch.bool))


def _thumbnails(patches: Tensor) -> Tensor:
    small = F.adaptive_avg_pool2d(patches, _THUMBNAIL).flatten(1)
    return F.normalize(small - small.mean(dim=1, keepdim=True), dim=1)
