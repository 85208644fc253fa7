"""The one function that follows a recipe for patches of videos."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn

from flowmatch import training
from flowmatch.metric_learning.fit import load_trunk
from flowmatch.metric_learning.networks import EmbeddingNet
from flowmatch.selfsupervised.losses import ranking_loss
from flowmatch.selfsupervised.patches import TrackedPatches
from flowmatch.selfsupervised.recipes import VideoRecipe
from flowmatch.training import Run, RunOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

_TOGETHER = 0.75  # of a batch shows what is certainly not its first track's: negatives for it
_GAIN = 0.2  # exposures differ by up to this share


class PatchPair(NamedTuple):
    """Two patches of a track, uint8 ``[S, S, 3]``, and when in training they are looked at."""

    first: NDArray[np.uint8]
    second: NDArray[np.uint8]
    track: int
    hard: bool


class TrackPairs:
    """Random pairs of patches, each of one track, in a repeatable order.

    Args:
        patches: What they are taken from.
        recipe: How far apart, how large; when negatives are to be hard.

    Raises:
        ValueError: No two tracks certainly show two things, or patches are smaller than the
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
            raise ValueError("no two things are seen at once: there is nothing to tell apart")
        self.members = [np.flatnonzero(patches.track == i) for i in range(patches.tracks)]
        self.hard_from = round(recipe.hard_after * recipe.schedule.steps)

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> PatchPair:
        step, place = divmod(index, self.recipe.schedule.batch)
        # All of a batch know its first track.
        leader = int(np.random.default_rng([self.recipe.seed, step]).integers(len(self.members)))
        rng = np.random.default_rng([self.recipe.seed, step, place])
        track = leader
        if place:
            near = len(self.others[leader]) and rng.random() < _TOGETHER
            track = int(rng.choice(self.others[leader] if near else len(self.members)))
        first, second = self._pair(rng, track)
        return PatchPair(
            self._view(rng, first), self._view(rng, second), track, step >= self.hard_from
        )

    def _pair(self, rng: Generator, track: int) -> tuple[int, int]:
        members = self.members[track]
        one = int(rng.choice(members))
        distance = np.abs(self.patches.frame[members] - self.patches.frame[one])
        far = members[distance >= min(self.recipe.apart, int(distance.max()))]
        return one, int(rng.choice(far))

    def _view(self, rng: Generator, index: int) -> NDArray[np.uint8]:
        patch, size = self.patches.patches[index], self.recipe.size
        y, x = rng.integers(patch.shape[0] - size + 1, size=2)
        part = patch[y : y + size, x : x + size]
        part = part[:, ::-1] if rng.random() < 0.5 else part
        bright = part.astype(np.float32) * rng.uniform(1 - _GAIN, 1 + _GAIN)
        return np.asarray(np.clip(bright, 0, 255).round(), np.uint8)


def train_video(
    recipe: VideoRecipe,
    patches: TrackedPatches,
    checkpoint: Path,
    *,
    start: dict[str, Tensor] | None = None,
    every: int = 100,
    **options: "Unpack[RunOptions]",
) -> EmbeddingNet:
    """Train an embedding of patches on what was followed through videos.

    Args:
        recipe: What to train, how.
        patches: What with.
        checkpoint: File the state is kept in.
        start: Weights of the trunk to begin with.
        every: Steps between checkpoints.
        **options: Of the run, as in `flowmatch.training.train`, but with no `workers` unless asked.

    Returns:
        The trained network, in eval mode.

    Raises:
        TrainingDiverged: The loss is no longer a number.
        ValueError: `checkpoint` belongs to another run, `start` to another network, or there is
            nothing to tell apart in the patches.
    """
    pairs = TrackPairs(patches, recipe)
    model = initial_network(recipe, start)
    options.setdefault("workers", 0)  # pairs are cut from memory: no other process is faster
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
    """Make the network that training begins with.

    Args:
        recipe: Its kind, and the seed of its weights.
        start: Weights of the trunk.

    Raises:
        ValueError: `start` does not fit.

    Example:
        >>> network = initial_network(VideoRecipe(training.Schedule(steps=1, batch=2)))
        >>> network(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 64])
    """
    torch.manual_seed(recipe.seed)
    network = EmbeddingNet(recipe.trunk, recipe.dimension)
    if start is not None:
        load_trunk(network, start)
    return network


def collate(items: Sequence[PatchPair]) -> list[Tensor]:
    """Make a batch: both patches ``[B, 3, S, S]`` uint8, tracks ``[B]``, whether it is hard."""
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
    """Embed both patches of each pair; return the loss and the share of triplets it gets wrong.

    Args:
        model: The network.
        batch: As `collate` makes it.
        different: ``[tracks, tracks]``, as `TrackedPatches.different` gives it.
        recipe: Margin and negatives.
    """
    first, second, track, hard = batch
    # In one stack, so that batch normalisation sees both alike.
    embedded = model(torch.cat([first, second]).float() / 255).float()
    apart = different.to(track.device)[track[:, None], track]
    one, two = embedded.chunk(2)
    loss, wrong = ranking_loss(
        one, two, apart, bool(hard), margin=recipe.margin, negatives=recipe.negatives
    )
    return loss, {"wrong": wrong.item()}
