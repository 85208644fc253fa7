"""Training entry point for patch networks."""

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
from flowmatch.matching.synthetic.pool import PatchMixture, PatchPairs, PatchSource
from flowmatch.matching.training.recipes import PatchRecipe
from flowmatch.metrics import fpr_at_recall
from flowmatch.training import Run, RunOptions, data_digest
from flowmatch.zoo import load_initial_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Points closer than this plus the larger scale are not negatives; pixels or centimetres.
_MIN_DISTANCE = 3.0
_THUMBNAIL = 8  # side of the reduced patches by which hard negatives are found


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
    """Train a patch network on patches of random views of photographs.

    Args:
        recipe: Training recipe.
        photos: Photographs. Without any source of patches, textures are procedural.
        checkpoint: File of the training state.
        rgbd: Folder of RGB-D frames, see `PosedPatches`; half as likely as photographs.
        brown: Folders of Brown's patches, see `BrownSamples`; each as likely as photographs.
        start: Initial weights, such as those of another recipe.
        **options: Options of the run, see `flowmatch.training.train`.

    Returns:
        The trained network, in eval mode.

    Raises:
        TrainingDiverged: The loss is not finite.
        ValueError: `checkpoint` belongs to another run, or `start` to another network.
    """
    torch.manual_seed(recipe.seed)
    model: Any = MODELS[recipe.model](**recipe.arguments)
    load_initial_weights(model, start, recipe.model)
    training.train(
        training_module(recipe, model),
        build_samples(recipe, photos, model, rgbd, brown),
        collate,
        build_loss(recipe),
        recipe.schedule,
        checkpoint=checkpoint,
        run=Run(recipe, {"data_digest": _data_digest(photos, rgbd, brown)}),
        **options,
    )
    return model.eval()  # type: ignore[no-any-return]


def _data_digest(photos: Sequence[Path], rgbd: Path | None, brown: Sequence[Path]) -> list[str]:
    folders = [*brown, *(() if rgbd is None else (rgbd / "color", rgbd / "depth"))]
    return [data_digest(photos), *(data_digest(sorted(folder.iterdir())) for folder in folders)]


class HardPairMiner(nn.Module):
    """Hard pair mining for a Siamese network; the branches run once per patch.

    Args:
        network: Siamese network to train.

    Raises:
        ValueError: The network is not Siamese.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not isinstance(network, SiameseNetwork):
            raise ValueError(
                f"hard pair mining needs a Siamese network, got {type(network).__name__}"
            )
        self.network = network

    def forward(self, first: Tensor, second: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
        """Compare patches ``[N, 1, S, S]`` with their positives and with mined negatives.

        Args:
            first: Patches of N points in the first view.
            second: Patches of the same points in the second view.
            same: ``[N, N]`` bool, pairs that are not negatives, see `same_points`.

        Returns:
            Similarities ``[2, 4, N]`` for both orders of the views: of each pair; of each first
            patch with its most similar negative; of each second patch with its most similar
            negative; and of each first patch with a random negative. And ``[N]`` bool, which points
            have a negative.
        """
        # A network with shared branches needs the features of one branch only.
        branches = (False,) if getattr(self.network, "second", None) is None else (False, True)
        features = [
            [self.network.features(patches, second=branch) for branch in branches]
            for patches in (first, second)
        ]
        similarities = [
            self._compare(features[0][0], features[1][-1], same),
            self._compare(features[1][0], features[0][-1], same.T),
        ]
        return torch.stack(similarities), ~same.all(dim=1)

    def _compare(self, first: Tensor, second: Tensor, same: Tensor) -> Tensor:
        index = torch.arange(len(first), device=first.device)
        with torch.no_grad():
            negatives = self.network.compare_all(first, second).float()
            negatives = negatives.masked_fill(same, -torch.inf)
            random = torch.rand_like(negatives).masked_fill(same, -1)
        i = torch.cat([index, index, negatives.argmax(dim=0), index])
        j = torch.cat([index, negatives.argmax(dim=1), index, random.argmax(dim=1)])
        return self.network.compare(first[i], second[j]).view(4, -1)


def training_module(recipe: PatchRecipe, model: nn.Module) -> nn.Module:
    """Return the module that the recipe's loss calls; it shares the weights of the network."""
    return HardPairMiner(model) if recipe.loss == "hinge-hardest" else model


def build_samples(
    recipe: PatchRecipe,
    photos: Sequence[Path],
    model: Any,
    rgbd: Path | None = None,
    brown: Sequence[Path] = (),
) -> training.Samples:
    """Return the training dataset of a recipe, with patches of the size of its network."""
    common: dict[str, Any] = {
        "size": model.patch_size, "points": recipe.points, "seed": recipe.seed,
    }  # fmt: skip
    views: dict[str, Any] = {
        "magnification": magnification_of(model),
        "pool": recipe.pool,
        "reuse": recipe.reuse,
    }
    sources: list[PatchSource] = []
    if photos or not (rgbd or brown):
        sources += 2 * [SyntheticPatches(photos, **common, **views)]
    for folder in brown:
        sources += 2 * [BrownSamples(folder=folder, **common)]
    if rgbd is not None:
        sources.append(PosedPatches(folder=rgbd, **common, **views))
    is_single = all(source is sources[0] for source in sources)
    return sources[0] if is_single else PatchMixture(sources, recipe.seed)


def collate(items: Sequence[PatchPairs]) -> list[Tensor]:
    """Return a batch of N pairs: two uint8 ``[N, 1, S, S]`` patches, and locations ``[N, 5]``."""
    first, second, location = (
        torch.from_numpy(np.concatenate(parts)) for parts in zip(*items, strict=True)
    )
    return [first[:, None], second[:, None], location]


def same_points(location: Tensor) -> Tensor:
    """Return which of N points are too close to be negatives of each other, ``[N, N]`` bool.

    Args:
        location: Locations ``[N, 5]``, see `PatchPairs`.
    """
    photo, xyz, scale = location[:, 0], location[:, 1:-1], location[:, -1]
    limit = _MIN_DISTANCE + torch.maximum(scale[:, None], scale[None])
    return (photo[:, None] == photo[None]) & (torch.cdist(xyz, xyz) <= limit)


Loss = Callable[[nn.Module, Sequence[Tensor]], tuple[Tensor, dict[str, float]]]


def build_loss(recipe: PatchRecipe) -> Loss:
    """Return the loss of a recipe, ``loss(network, batch)`` -> loss and numbers to report."""
    if recipe.loss == "hinge":
        return partial(similarity_loss, **recipe.loss_arguments)
    if recipe.loss == "hinge-hardest":
        return partial(hard_pair_loss, **recipe.loss_arguments)
    pair_loss = triplet_loss if recipe.loss == "triplet" else hardest_contrastive_loss
    return partial(descriptor_loss, pair_loss=partial(pair_loss, **recipe.loss_arguments))


def descriptor_loss(
    model: nn.Module,
    batch: Sequence[Tensor],
    *,
    pair_loss: Callable[..., tuple[Tensor, Tensor]] = triplet_loss,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of descriptors, and the share of pairs with a closer negative.

    Args:
        model: Descriptor network.
        batch: Batch of `collate`.
        pair_loss: Loss of pairs with the signature of `triplet_loss`.
    """
    first, second, location = batch
    # Both views are one batch, so that they share the statistics of batch normalisation.
    descriptors = model(torch.cat([first, second]).float() / 255).float()
    loss, (positive, negative) = pair_loss(*descriptors.chunk(2), same_points(location))
    return loss, {
        "wrong": (negative <= positive).float().mean().item(),
        "positive": positive.mean().item(),
        "negative": negative.mean().item(),
    }


def similarity_loss(model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Return the hinge loss of positive pairs and as many negative ones, and its FPR95.

    Half of the negatives are random, half are the most similar at low resolution, because a network
    that filters matches compares similar patches.

    Args:
        model: Network that compares patches.
        batch: Batch of `collate`.
    """
    first, second, location = (part.float() for part in batch)
    first, second = first / 255, second / 255
    same = same_points(location)
    N = len(first)
    distance = torch.cdist(_thumbnails(first), _thumbnails(second)).masked_fill(same, torch.inf)
    random = torch.rand(N, N, device=distance.device).masked_fill(same, torch.inf)
    is_hard = torch.rand(N, 1, device=distance.device) < 0.5
    other = torch.where(is_hard, distance, random).argmin(dim=1)
    # In either order, because a network with two different branches has to learn both.
    similarity = model(torch.cat([first, second[other]]), torch.cat([second, first])).float()
    positive = torch.arange(2 * N, device=similarity.device) < N
    with torch.no_grad():
        rate = fpr_at_recall(similarity[:N].cpu().numpy(), similarity[N:].cpu().numpy())
    return hinge_loss(similarity, positive), {"fpr95": rate}


def hard_pair_loss(model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Return the hinge loss of positive pairs and of mined negatives, error rate and FPR95.

    Two thirds of the negatives are the most similar ones, because a filter network compares the
    nearest neighbours of a descriptor; the rest are random.

    Args:
        model: `HardPairMiner` of the network.
        batch: Batch of `collate`.
    """
    first, second, location = (part.float() for part in batch)
    similarity, has_negative = model(first / 255, second / 255, same_points(location))
    positive = similarity[:, 0].float()
    negative = similarity[:, 1:, has_negative].float()
    loss = 0.5 * _hinge(positive, True)
    if has_negative.any():
        loss = loss + 0.5 * _hinge(negative, False)
    with torch.no_grad():
        rate = fpr_at_recall(positive.flatten().cpu(), negative[:, 2].flatten().cpu())
        wrong = (negative[:, :2].amax(dim=1) >= positive[:, has_negative]).float().mean().item()
    return loss, {"wrong": wrong, "fpr95": rate}


def _hinge(similarity: Tensor, same: bool) -> Tensor:
    values = similarity.flatten()
    return hinge_loss(values, torch.full_like(values, same, dtype=torch.bool))


def _thumbnails(patches: Tensor) -> Tensor:
    small = F.adaptive_avg_pool2d(patches, _THUMBNAIL).flatten(1)
    return F.normalize(small - small.mean(dim=1, keepdim=True), dim=1)
