"""Training of a retrieval network on verified pairs of images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flowmatch import training
from flowmatch.descriptor_losses import contrastive_terms, row_distances
from flowmatch.imaging import Image, as_rgb, resize
from flowmatch.matching.compare import evaluating
from flowmatch.retrieval.backbone_describer import BackboneDescriber
from flowmatch.retrieval.network import RetrievalNet
from flowmatch.retrieval.training.mining import (
    TrainingTuple,
    VerifiedPair,
    mine_tuples,
    object_labels,
)
from flowmatch.retrieval.training.recipes import MARGIN, RetrievalRecipe
from flowmatch.retrieval.whitening import learned_whitening
from flowmatch.training import Run, StepReport, data_digest

_BATCH = 32  # images described at once


@dataclass(frozen=True)
class TupleSamples:
    """Training tuples as images: `samples[k]` is uint8 ``[2 + negatives, 3, size, size]``.

    Attributes:
        images: All images, RGB ``[H, W, 3]`` or gray.
        tuples: Tuples of indices into `images`.
        size: Side of the squares to which images are resized, pixels.
        seed: Random seed of the order.
    """

    images: Sequence[Image]
    tuples: Sequence[TrainingTuple]
    size: int
    seed: int

    def __len__(self) -> int:
        return len(self.tuples)

    def __getitem__(self, index: int, /) -> Tensor:
        order = np.random.default_rng(self.seed).permutation(len(self.tuples))
        query, positive, negatives = self.tuples[order[index]]
        indices = (query, positive, *negatives)
        return torch.stack([_square(self.images[k], self.size) for k in indices])


def train_retrieval(
    recipe: RetrievalRecipe,
    network: RetrievalNet,
    images: Sequence[Image],
    pairs: Sequence[VerifiedPair],
    checkpoint: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    precision: str = "bfloat16",
    workers: int = 1,
    on_step: Callable[[int, StepReport], None] | None = None,
) -> RetrievalNet:
    """Train a network on images of which some pairs are known to show the same object.

    Before each round of training, the hardest negatives are mined; after the last round, the
    whitening is learned from the same pairs.

    Args:
        recipe: Training recipe.
        network: Initial network, which is trained in place.
        images: uint8, RGB ``[H, W, 3]`` or gray.
        pairs: Pairs of images of the same object, from `find_verified_pairs`.
        checkpoint: File of the training state; each round has its own, with a number.
        resume: Whether to continue from the checkpoints.
        device: Device of the training.
        precision: Precision of the convolutions, ``"bfloat16"`` or ``"float32"``.
        workers: Number of processes that prepare samples.
        on_step: Function called after each step with the number of finished rounds and a report.

    Returns:
        The network, in eval mode.

    Raises:
        ValueError: There is no pair, or all images show one object.

    Reference:
        Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation, PAMI 2019,
        sections 3 and 4, but with pairs from two-view geometry instead of reconstructions.
    """
    if not pairs:
        raise ValueError(
            f"no two of the {len(images)} images show the same object: there is nothing to learn"
        )
    labels = object_labels(len(images), pairs)
    network.to(device)
    digest = data_digest(images)
    for number in range(recipe.rounds):
        descriptors = describe_all(network, images, recipe.size)
        tuples = mine_tuples(descriptors, pairs, labels, recipe.negatives)
        fewest = min(len(item.negatives) for item in tuples)  # tuples of a batch have equal length
        tuples = [item._replace(negatives=item.negatives[:fewest]) for item in tuples]
        training.train(
            _Pooled(network),
            TupleSamples(images, tuples, recipe.size, recipe.seed + number),
            _collate,
            partial(tuple_loss, margin=recipe.margin),
            recipe.schedule,
            checkpoint=round_checkpoint(checkpoint, number),
            run=Run(recipe, {"round": number, **network.arguments, "data_digest": digest}),
            resume=resume,
            workers=workers,
            device=device,
            precision=precision,
            on_step=None if on_step is None else partial(on_step, number),
        )
    # The whitening is learned for images as an index describes them: uncropped, at three scales.
    describer = BackboneDescriber.of_network(network.eval(), "in training", whiten=False)
    learn_whitening(network, torch.stack([describer(image) for image in images]), pairs)
    return network


def round_checkpoint(checkpoint: Path, number: int) -> Path:
    """Return the checkpoint file of a round, counted from 0."""
    return checkpoint.with_name(f"{checkpoint.stem}-{number}{checkpoint.suffix}")


def learn_whitening(
    network: RetrievalNet, descriptors: Tensor, pairs: Sequence[VerifiedPair]
) -> None:
    """Learn the whitening of a network from pairs of images of the same object.

    Args:
        network: Network whose whitening is set.
        descriptors: Descriptors of all images without whitening, ``[N, D]``.
        pairs: Pairs of these images.
    """
    first, second = (torch.tensor([pair[k] for pair in pairs]) for k in (0, 1))
    # Few pairs hardly differ in some directions by chance, which would be amplified.
    ridge = descriptors.shape[1] / len(pairs)
    network.whitening = learned_whitening(descriptors, first, second, ridge=ridge)


def describe_all(network: RetrievalNet, images: Sequence[Image], size: int) -> Tensor:
    """Describe images as squares, without whitening, as in training: ``[N, D]`` on the CPU."""
    parts = []
    device = next(network.parameters()).device
    with evaluating(network):
        for start in range(0, len(images), _BATCH):
            squares = [_square(image, size) for image in images[start : start + _BATCH]]
            parts.append(network.pooled(torch.stack(squares).to(device).float() / 255).cpu())
    return torch.cat(parts)


def contrastive_tuple_loss(descriptors: Tensor, margin: float = MARGIN) -> Tensor:
    """Return ``1/2 (|q - p|^2 + sum_n max(0, margin - |q - n|)^2)``, the mean over tuples.

    Args:
        descriptors: ``[B, 2 + negatives, D]``: query q, positive p, negatives n.
        margin: Distance beyond which a negative costs nothing.

    Returns:
        A scalar.

    Example:
        >>> tuples = torch.tensor([[[0.0, 0.0], [0.6, 0.8], [0.5, 0.0]]])
        >>> contrastive_tuple_loss(tuples, 0.7)
        tensor(0.5200)

    Reference:
        Radenovic et al., PAMI 2019, equation 4.
    """
    distance = row_distances(descriptors[:, 1:], descriptors[:, :1])
    is_positive = torch.arange(distance.shape[1], device=distance.device) == 0
    return contrastive_terms(distance, is_positive, margin=margin).sum(1).mean()


def tuple_loss(
    model: nn.Module, batch: Sequence[Tensor], *, margin: float
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch, and how often the positive is closer than all negatives.

    Args:
        model: Network from images to descriptors.
        batch: One tensor of tuples, uint8 ``[B, 2 + negatives, 3, size, size]``.
        margin: Distance beyond which a negative costs nothing.
    """
    images = batch[0]
    descriptors = model(images.flatten(0, 1).float() / 255).unflatten(0, images.shape[:2])
    with torch.no_grad():
        similarity = (descriptors[:, 1:] * descriptors[:, :1]).sum(-1)
        first = (similarity.argmax(1) == 0).float().mean().item()
    return contrastive_tuple_loss(descriptors, margin), {"first": first}


class _Pooled(nn.Module):
    """The trained part of a network: everything but the whitening."""

    def __init__(self, network: RetrievalNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.pooled(images)


def _square(image: Image, size: int) -> Tensor:
    rgb = as_rgb(resize(image, (size, size)))
    return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))


def _collate(samples: Sequence[Tensor]) -> list[Tensor]:
    return [torch.stack(list(samples))]
