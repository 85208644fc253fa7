"""Training entry point for embeddings from videos."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from flowmatch import training
from flowmatch.imaging import Generator, Image
from flowmatch.metric_learning.fit import load_backbone
from flowmatch.metric_learning.networks import EmbeddingNet
from flowmatch.selfsupervised.losses import ranking_loss
from flowmatch.selfsupervised.patches import TrackedPatches
from flowmatch.selfsupervised.recipes import VideoRecipe
from flowmatch.training import Run, RunOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

_NEGATIVE_SHARE = 0.75  # share of a batch that certainly shows another object than its first track
_GAIN = 0.2  # largest relative change of exposure


class PatchPair(NamedTuple):
    """A training sample.

    Attributes:
        first: Patch, ``[S, S, 3]`` uint8.
        second: Another patch of the same track, ``[S, S, 3]`` uint8.
        track: Number of the track.
        hard: Whether the step uses hard negatives.
    """

    first: Image
    second: Image
    track: int
    hard: bool


class TrackPairs:
    """Random pairs of patches, each of one track, in a repeatable order.

    Args:
        patches: Patches of the tracks.
        recipe: Recipe with the gap in frames, the size of crops and the start of hard negatives.

    Raises:
        ValueError: No two tracks certainly show different objects, or patches are smaller than the
            recipe's.
    """

    def __init__(self, patches: TrackedPatches, recipe: VideoRecipe) -> None:
        if patches.patches.shape[1] < recipe.size:
            raise ValueError(
                f"patches must have {recipe.size} pixels to a side, got {patches.patches.shape[1]}"
            )
        self.patches, self.recipe = patches, recipe
        self.others = [np.flatnonzero(row) for row in patches.different()]
        if not any(len(others) for others in self.others):
            raise ValueError("training needs two objects that certainly differ, got no such pair")
        self.members = [np.flatnonzero(patches.track == i) for i in range(patches.tracks)]
        self.hard_from = round(recipe.hard_after * recipe.schedule.steps)

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> PatchPair:
        step, place = divmod(index, self.recipe.schedule.batch)
        # The first track of a batch is a function of the step, so that every item knows it.
        leader = int(np.random.default_rng([self.recipe.seed, step]).integers(len(self.members)))
        rng = np.random.default_rng([self.recipe.seed, step, place])
        track = leader
        if place:
            negative = len(self.others[leader]) and rng.random() < _NEGATIVE_SHARE
            track = int(rng.choice(self.others[leader] if negative else len(self.members)))
        first, second = self.sample_pair(rng, track)
        return PatchPair(
            self._augment(rng, first), self._augment(rng, second), track, step >= self.hard_from
        )

    def sample_pair(self, rng: Generator, track: int) -> tuple[int, int]:
        """Sample two patches of a track that are far apart in time.

        Args:
            rng: Source of randomness.
            track: Number of the track.

        Returns:
            Indices of the two patches.
        """
        members = self.members[track]
        first = int(rng.choice(members))
        distance = np.abs(self.patches.frame[members] - self.patches.frame[first])
        far = members[distance >= min(self.recipe.gap, int(distance.max()))]
        return first, int(rng.choice(far))

    def _augment(self, rng: Generator, index: int) -> Image:
        """Return a random crop of a patch, maybe mirrored, with another exposure."""
        patch, size = self.patches.patches[index], self.recipe.size
        y, x = rng.integers(patch.shape[0] - size + 1, size=2)
        crop = patch[y : y + size, x : x + size]
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        exposed = crop.astype(np.float32) * rng.uniform(1 - _GAIN, 1 + _GAIN)
        return np.asarray(np.clip(exposed, 0, 255).round(), np.uint8)


def train_video(
    recipe: VideoRecipe,
    patches: TrackedPatches,
    checkpoint: Path,
    *,
    start: dict[str, Tensor] | None = None,
    every: int = 100,
    **options: "Unpack[RunOptions]",
) -> EmbeddingNet:
    """Train an embedding of patches of tracked objects.

    Args:
        recipe: Training recipe.
        patches: Training patches.
        checkpoint: File of the state of the run.
        start: Initial weights of the backbone.
        every: Number of steps between checkpoints.
        **options: Options of `flowmatch.training.train`; `workers` is 0 by default.

    Returns:
        The trained network, in eval mode.

    Raises:
        TrainingDiverged: The loss became NaN or infinite.
        ValueError: `checkpoint` belongs to another run, `start` to another network, or no two
            tracks certainly show different objects.
    """
    pairs = TrackPairs(patches, recipe)
    model = initial_network(recipe, start)
    options.setdefault("workers", 0)  # pairs are cropped from memory, faster than by processes
    training.train(
        model,
        pairs,
        collate,
        partial(video_loss, different=torch.from_numpy(patches.different()), recipe=recipe),
        recipe.schedule,
        checkpoint=checkpoint,
        run=Run(recipe, {"patches": len(patches), "tracks": patches.tracks}),
        every=every,
        **options,
    )
    return model


def initial_network(recipe: VideoRecipe, start: dict[str, Tensor] | None = None) -> EmbeddingNet:
    """Make the initial network of a training run.

    Args:
        recipe: Recipe with the network's arguments and the seed of its weights.
        start: Initial weights of the backbone.

    Raises:
        ValueError: `start` does not fit the backbone.

    Example:
        >>> network = initial_network(VideoRecipe(training.Schedule(steps=1, batch=2)))
        >>> network(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 64])
    """
    torch.manual_seed(recipe.seed)
    network = EmbeddingNet(recipe.backbone, recipe.dimension, size=recipe.size, metric="cosine")
    if start is not None:
        load_backbone(network, start)
    return network


def collate(items: Sequence[PatchPair]) -> list[Tensor]:
    """Stack samples to a batch: two patches ``[B, 3, S, S]`` uint8, tracks ``[B]``, hard or not."""
    first, second = (
        torch.from_numpy(np.stack([getattr(item, end) for item in items])).movedim(-1, 1)
        for end in ("first", "second")
    )
    return [
        first,
        second,
        torch.tensor([item.track for item in items]),
        torch.tensor(items[0].hard),
    ]


def video_loss(
    model: nn.Module, batch: Sequence[Tensor], *, different: Tensor, recipe: VideoRecipe
) -> tuple[Tensor, dict[str, float]]:
    """Return the ranking loss of a batch and the share of triplets in the wrong order.

    Args:
        model: The network.
        batch: Batch of pairs, from `collate`.
        different: Which tracks show different objects, from `TrackedPatches.different`.
        recipe: Recipe with the margin and the number of negatives.
    """
    first, second, track, hard = batch
    # One stack, so that both patches are normalised by the same batch statistics.
    embeddings = model(torch.cat([first, second]).float() / 255).float()
    half = len(embeddings) // 2
    loss, wrong = ranking_loss(
        embeddings[:half],
        embeddings[half:],
        different.to(track.device)[track[:, None], track],
        bool(hard),
        margin=recipe.margin,
        negatives=recipe.negatives,
    )
    return loss, {"wrong": wrong.item()}
