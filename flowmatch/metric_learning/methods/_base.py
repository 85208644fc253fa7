"""What methods share: a network, batches, epochs."""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from flowmatch.metric_learning.data.crops import Squares
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.fit import Recipe, embed
from flowmatch.metric_learning.networks import EmbeddingNet
from flowmatch.metric_learning.samplers import ClassBatches


class Method(nn.Module):
    """A network with a training of its own; ``method(pictures)`` embeds, for the test.

    Args:
        recipe: Trunk, sizes of embedding and batches.
        images: What it is trained with.
        seed: Of batches.

    Attributes:
        batches: Of the epoch to come, as indices.
        head_rate: How many times the trunk's learning rate for all else.
    """

    head_rate = 1.0

    def __init__(self, recipe: Recipe, images: LabelledImages, seed: int) -> None:
        super().__init__()
        self.recipe, self.images, self.seed = recipe, images, seed
        self.network = EmbeddingNet(
            recipe.trunk, recipe.dimension, images.channels, recipe.frozen_norm
        )
        self.labels = images.labels.tolist()
        self.classes = min(recipe.classes, len(set(self.labels)))
        self.batches: Sampler[list[int]] = ClassBatches(
            self.labels, self.classes, recipe.each, seed=seed
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Embed.

        Args:
            pictures: ``[N, C, H, W]`` in 0..1.

        Returns:
            ``[N, D]``.
        """
        found: Tensor = self.network(pictures)
        return found

    def begin(self, epoch: int, done: float) -> None:
        """Prepare an epoch.

        Args:
            epoch: From 0.
            done: Share of the steps that are done.
        """

    def loss(self, pictures: Tensor, labels: Tensor, items: Tensor) -> Tensor:
        """Compute the loss of a batch.

        Args:
            pictures: ``[N, C, H, W]`` in 0..1.
            labels: ``[N]``.
            items: Which of the training pictures they are, ``[N]`` on the CPU.

        Returns:
            A scalar.
        """
        raise NotImplementedError

    def embed_all(self, of: nn.Module) -> tuple[Tensor, Tensor]:
        """Embed all training pictures as the network is now.

        Args:
            of: What embeds.

        Returns:
            Embeddings ``[N, D]`` and labels ``[N]``.
        """
        mode = self.training
        self.eval()
        found = embed(of, self.images, self.recipe.size), torch.tensor(self.labels)
        self.train(mode)
        return found


class Numbered(Dataset[tuple[Tensor, int, int]]):
    """Pictures, labels, and which they are."""

    def __init__(self, squares: Squares) -> None:
        self.squares = squares

    def __len__(self) -> int:
        return len(self.squares)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return (*self.squares[index], index)


class Features(nn.Module):
    """A network without its linear layer, for `embed`."""

    def __init__(self, network: EmbeddingNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network.features(pictures)
