"""Learning to describe pictures from a folder that nobody labelled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowmatch import training
from flowmatch._opencv import cv2
from flowmatch.matching.compare import evaluating
from flowmatch.retrieval.describe import TrunkDescriber
from flowmatch.retrieval.mining import Pair, Tuple, clusters, hard_tuples
from flowmatch.retrieval.network import RetrievalNet
from flowmatch.retrieval.whitening import learned_whitening
from flowmatch.training import StepReport, Run, Schedule, data_digest

Image = NDArray[np.uint8]

_BATCH = 32  # pictures described at once
MARGIN = 0.7


@dataclass(frozen=True)
class RetrievalRecipe:
    """How to learn from verified pairs.

    Attributes:
        schedule: Of each round.
        rounds: How often negatives are mined anew, each time by the network as it is then.
        negatives: Of each tuple.
        margin: Beyond which a negative is far enough.
        size: Side of the squares that pictures are resized to.
        seed: Of the order of tuples.
    """

    schedule: Schedule
    rounds: int = 3
    negatives: int = 5
    margin: float = MARGIN
    size: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be followed."""
        if min(self.rounds, self.negatives, self.size) < 1:
            raise ValueError(
                "rounds, negatives and size must be positive, "
                f"got {self.rounds}, {self.negatives}, {self.size}"
            )


RECIPES: dict[str, RetrievalRecipe] = {
    # Minutes on a CPU core.
    "retrieval-small": RetrievalRecipe(
        Schedule(steps=40, batch=4, learning_rate=1e-4, average=0.9), size=128
    ),
    # For a GPU and thousands of pictures.
    "retrieval-large": RetrievalRecipe(
        Schedule(steps=5000, batch=16, learning_rate=1e-4), rounds=10, size=320
    ),
}


@dataclass(frozen=True)
class TupleSamples:
    """Tuples as pictures: `samples[k]` is uint8 ``[2 + negatives, 3, size, size]``.

    Attributes:
        pictures: All, RGB ``[H, W, 3]`` or gray.
        tuples: Places of them.
        size: Side.
        seed: Of the order.
    """

    pictures: Sequence[Image]
    tuples: Sequence[Tuple]
    size: int
    seed: int

    def __len__(self) -> int:
        return len(self.tuples)

    def __getitem__(self, index: int, /) -> Tensor:
        order = np.random.default_rng(self.seed).permutation(len(self.tuples))
        query, positive, negatives = self.tuples[order[index]]
        places = (query, positive, *negatives)
        return torch.stack([_square(self.pictures[place], self.size) for place in places])


def train_retrieval(
    recipe: RetrievalRecipe,
    network: RetrievalNet,
    pictures: Sequence[Image],
    pairs: Sequence[Pair],
    checkpoint: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    precision: str = "bfloat16",
    workers: int = 1,
    on_step: Callable[[int, StepReport], None] | None = None,
) -> RetrievalNet:
    """Train a network on pictures of which some pairs are known to be of the same thing.

    Rounds of training, before each of which the hardest negatives are mined; then the whitening is
    learnt from the same pairs.

    Args:
        recipe: How.
        network: With what to begin; it is changed.
        pictures: RGB ``[H, W, 3]`` or gray, uint8.
        pairs: Such as `verified_pairs` finds.
        checkpoint: File the state is kept in; each round has its own, with a number.
        resume: Continue from there.
        device: Where to train.
        precision: Type of the convolutions, as in `flowmatch.training.train`.
        workers: Processes that make samples.
        on_step: Function called after each step with the number of finished rounds and the step.

    Returns:
        The network, in eval mode.

    Raises:
        ValueError: There is no pair, or all pictures are of one thing.

    Reference:
        Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation, PAMI 2019,
        sections 3 and 4; pairs from two-view geometry instead of reconstructions.
    """
    if not pairs:
        raise ValueError(
            f"among {len(pictures)} pictures no two show the same thing: nothing to learn from"
        )
    things = clusters(len(pictures), pairs)
    network.to(device)
    word = data_digest(pictures)
    for done in range(recipe.rounds):
        described = describe_all(network, pictures, recipe.size)
        tuples = hard_tuples(described, pairs, things, recipe.negatives)
        fewest = min(len(one.negatives) for one in tuples)  # so that all can be stacked
        tuples = [one._replace(negatives=one.negatives[:fewest]) for one in tuples]
        training.train(
            _Pooled(network),
            TupleSamples(pictures, tuples, recipe.size, recipe.seed + done),
            _collate,
            partial(tuple_loss, margin=recipe.margin),
            recipe.schedule,
            checkpoint=checkpoint.with_name(f"{checkpoint.stem}-{done}{checkpoint.suffix}"),
            run=Run(recipe, {"round": done, **network.arguments, "data_digest": word}),
            resume=resume,
            workers=workers,
            device=device,
            precision=precision,
            on_step=None if on_step is None else partial(on_step, done),
        )
    # As they will be described: not as squares, and at three scales.
    describer = TrunkDescriber.of_network(network.eval(), "in training", whiten=False)
    learn_whitening(network, torch.stack([describer(picture) for picture in pictures]), pairs)
    return network


def learn_whitening(network: RetrievalNet, described: Tensor, pairs: Sequence[Pair]) -> None:
    """Learn a network's whitening from pairs of pictures of the same thing.

    Args:
        network: Whose whitening is set.
        described: Pictures as the network describes them without a whitening, ``[N, D]``.
        pairs: Between them.
    """
    first, second = (torch.tensor([pair[k] for pair in pairs]) for k in (0, 1))
    # Of few pairs, directions in which they happen not to differ would be blown up.
    ridge = described.shape[1] / len(pairs)
    network.whitening = learned_whitening(described, first, second, ridge=ridge)


def describe_all(network: RetrievalNet, pictures: Sequence[Image], size: int) -> Tensor:
    """Describe pictures without the whitening, ``[N, D]`` on the CPU, as in training."""
    found = []
    device = next(network.parameters()).device
    with evaluating(network):
        for start in range(0, len(pictures), _BATCH):
            squares = [_square(one, size) for one in pictures[start : start + _BATCH]]
            found.append(network.pooled(torch.stack(squares).to(device).float() / 255).cpu())
    return torch.cat(found)


def contrastive_tuples(described: Tensor, margin: float = MARGIN) -> Tensor:
    """Return ``1/2 (|q - p|^2 + sum_n max(0, margin - |q - n|)^2)``, the mean over tuples.

    Args:
        described: ``[B, 2 + negatives, D]``: query, positive, negatives.
        margin: Beyond which a negative costs nothing.

    Returns:
        A scalar.

    Example:
        >>> contrastive_tuples(torch.tensor([[[0.0, 0.0], [0.6, 0.8], [0.5, 0.0]]]), 0.7)
        tensor(0.5200)

    Reference:
        Radenovic et al., PAMI 2019, equation 4.
    """
    difference = described[:, 1:] - described[:, :1]
    # The root's derivative at 0 is infinite.
    distance = (difference.square().sum(-1) + 1e-12).sqrt()
    far = (margin - distance[:, 1:]).clamp_min(0).square().sum(1)
    return (distance[:, 0].square() + far).mean() / 2


def tuple_loss(
    model: nn.Module, batch: Sequence[Tensor], *, margin: float
) -> tuple[Tensor, dict[str, float]]:
    """Run the network on a batch of tuples; return its loss and how often the positive is first."""
    images = batch[0]
    described = model(images.flatten(0, 1).float() / 255).unflatten(0, images.shape[:2])
    with torch.no_grad():
        similar = (described[:, 1:] * described[:, :1]).sum(-1)
        first = (similar.argmax(1) == 0).float().mean().item()
    return contrastive_tuples(described, margin), {"first": first}


class _Pooled(nn.Module):
    """What is trained of a network: all but the whitening."""

    def __init__(self, network: RetrievalNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.pooled(images)


def _square(picture: Image, size: int) -> Tensor:
    small = np.asarray(cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    colour = small if small.ndim == 3 else small[..., None].repeat(3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(colour.transpose(2, 0, 1)))


def _collate(samples: Sequence[Tensor]) -> list[Tensor]:
    return [torch.stack(list(samples))]
