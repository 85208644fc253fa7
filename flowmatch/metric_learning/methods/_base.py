"""Base class of training methods, and their datasets."""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from flowmatch.metric_learning.data.crops import SquareCrops
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.fit import Recipe, embed, initial_network, make_miner
from flowmatch.metric_learning.losses import make_loss
from flowmatch.metric_learning.networks import EmbeddingNet
from flowmatch.metric_learning.samplers import ClassBatches


class Method(nn.Module):
    """A network with its own loss and batches; ``method(pictures)`` embeds, for the test.

    Args:
        recipe: Backbone, embedding dimension and batch size.
        images: Training pictures.
        seed: Random seed of the batches.

    Attributes:
        batches: Batch sampler of the next epoch.
        head_rate: Learning rate of all other parameters, as a multiple of the backbone's.
    """

    head_rate = 1.0

    def __init__(self, recipe: Recipe, images: LabelledImages, seed: int) -> None:
        super().__init__()
        self.recipe, self.images, self.seed = recipe, images, seed
        self.network = initial_network(recipe, images.channels)
        self.labels = images.labels.tolist()
        self.classes = min(recipe.classes, len(set(self.labels)))
        self.batches: Sampler[list[int]] = ClassBatches(
            self.labels, self.classes, recipe.samples_per_class, seed=seed
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute embeddings.

        Args:
            pictures: ``[N, C, H, W]`` in 0..1.

        Returns:
            ``[N, D]``.
        """
        embeddings: Tensor = self.network(pictures)
        return embeddings

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """Return groups of parameters with their learning rates, as multiples of the recipe's."""
        backbone = list(self.network.backbone.parameters())
        others = [p for p in self.parameters() if all(p is not shared for shared in backbone)]
        return [(backbone, 1.0), (others, self.head_rate)]

    def begin_epoch(self, epoch: int, done: float) -> None:
        """Prepare an epoch.

        Args:
            epoch: Number of the epoch, from 0.
            done: Share of the steps that are finished.
        """

    def loss(self, pictures: Tensor, labels: Tensor, items: Tensor) -> Tensor:
        """Compute the loss of a batch.

        Args:
            pictures: ``[N, C, H, W]`` in 0..1.
            labels: ``[N]``.
            items: Indices of the pictures in the training set, ``[N]`` on the CPU.

        Returns:
            A scalar.
        """
        raise NotImplementedError

    def end_step(self) -> None:
        """Take note of the last batch after the step of the optimiser."""

    def embed_all(self, network: nn.Module) -> tuple[Tensor, Tensor]:
        """Embed all training pictures by the network in its current state.

        Args:
            network: Network whose outputs are the embeddings.

        Returns:
            Embeddings ``[N, D]`` and labels ``[N]``.
        """
        mode = self.training
        self.eval()
        embeddings = embed(network, self.images, self.recipe.size)
        self.train(mode)
        return embeddings, torch.tensor(self.labels)


class LossMethod(Method):
    """The recipe's loss and miner, as `train_embedding` uses them."""

    def __init__(self, recipe: Recipe, images: LabelledImages, seed: int) -> None:
        super().__init__(recipe, images, seed)
        self.criterion = make_loss(
            recipe.loss, classes=len(images.classes), dimension=recipe.dimension, **recipe.options
        )
        self.miner = make_miner(recipe, self.criterion)
        self.last: tuple[Tensor, Tensor] | None = None

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """Return the network, and the parameters of the loss with their own learning rate."""
        loss = list(self.criterion.parameters())
        return [(list(self.network.parameters()), 1.0), (loss, self.recipe.loss_rate)]

    def loss(self, pictures: Tensor, labels: Tensor, items: Tensor) -> Tensor:
        """Compute the recipe's loss."""
        embeddings = self.network(pictures)
        self.last = embeddings.detach(), labels
        tuples = None if self.miner is None else self.miner(embeddings, labels)
        return self.criterion(embeddings, labels, tuples)  # type: ignore[no-any-return]

    def end_step(self) -> None:
        """Let the loss remember the batch."""
        if self.last is not None:
            self.criterion.remember(*self.last)


class IndexedDataset(Dataset[tuple[Tensor, int, int]]):
    """Square crops, their labels and their indices."""

    def __init__(self, crops: SquareCrops) -> None:
        self.crops = crops

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return (*self.crops[index], index)


class Backbone(nn.Module):
    """The backbone of a network with its pooling, without the linear layer."""

    def __init__(self, network: EmbeddingNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network.features(pictures)
