"""Ensembles as methods: BIER and A-BIER, HDC, ABE."""

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.ensembles import (
    ActivationDiversity,
    AdversarialDiversity,
    AttentionEnsemble,
    AttentionEnsembleLoss,
    BierLoss,
    BoostedHeads,
    CascadeLoss,
)
from flowmatch.metric_learning.fit import Recipe
from flowmatch.metric_learning.methods._base import Method


class Boosted(Method):
    """BIER: boosted learners, kept apart by their activations."""

    head_rate = 10.0

    def __init__(self, recipe: Recipe, images: LabelledImages, seed: int) -> None:
        super().__init__(recipe, images, seed)
        # 96, 160, 256 of 512, whatever the dimension.
        first, second = max(1, recipe.dimension * 3 // 16), max(1, recipe.dimension * 5 // 16)
        self.sizes = (first, second, max(1, recipe.dimension - first - second))
        self.heads = BoostedHeads(self.network.embedding.in_features, self.sizes)
        self.bier = BierLoss()
        self.apart: nn.Module = ActivationDiversity()

    def forward(self, pictures: Tensor) -> Tensor:
        """Embed by all learners."""
        return self.heads.combine(self.heads(self.network.features(pictures)))

    def loss(self, pictures: Tensor, labels: Tensor, items: Tensor) -> Tensor:
        """Add the boosted loss and the auxiliary one."""
        features = self.network.features(pictures)
        value: Tensor = self.bier(self.heads(features), labels) + self.apart(self.heads, features)
        return value


class AdversariallyBoosted(Boosted):
    """A-BIER: boosted learners, kept apart by adversaries."""

    def __init__(self, recipe: Recipe, images: LabelledImages, seed: int) -> None:
        super().__init__(recipe, images, seed)
        self.apart = AdversarialDiversity(self.sizes)


class Cascaded(Method):
    """HDC: heads after each of the trunk's three parts, a third of the embedding each."""

    def __init__(self, recipe: Recipe, images: LabelledImages, seed: int) -> None:
        super().__init__(recipe, images, seed)
        _, widths = self.network.trunk.parts()
        size = max(1, recipe.dimension // 3)
        grid = self.network.trunk.grid**2
        self.heads = nn.ModuleList(nn.Linear(width * grid, size) for width in widths)
        self.cascade = CascadeLoss()

    def embeddings(self, pictures: Tensor) -> list[Tensor]:
        """Embed at each depth.

        Args:
            pictures: ``[N, C, H, W]`` in 0..1.

        Returns:
            Three of ``[N, dimension / 3]``, of length 1.
        """
        trunk = self.network.trunk
        x, found = trunk.prepare(pictures), []
        for part, head in zip(trunk.parts()[0], self.heads, strict=True):
            x = part(x)
            means = F.adaptive_avg_pool2d(x, trunk.grid).flatten(1)
            found.append(F.normalize(head(means), dim=1))
        return found

    def forward(self, pictures: Tensor) -> Tensor:
        """Embed at all depths."""
        return self.cascade.combine(self.embeddings(pictures))

    def loss(self, pictures: Tensor, labels: Tensor, items: Tensor) -> Tensor:
        """Compute the cascade's loss."""
        value: Tensor = self.cascade(self.embeddings(pictures), labels)
        return value


class Attentive(Method):
    """ABE: attentions between the trunk's first and second part."""

    def __init__(self, recipe: Recipe, images: LabelledImages, seed: int) -> None:
        super().__init__(recipe, images, seed)
        (first, *rest), widths = self.network.trunk.parts()
        # Eight of 64 in the paper. Of 4 at least, as in Divide and Conquer: within a circle only a
        # few classes can be further apart than the loss asks for.
        size = recipe.dimension
        learners = next((n for n in (8, 4, 2) if size % n == 0 and size // n >= 4), 1)
        self.first = first
        self.ensemble = AttentionEnsemble(
            branch=copy.deepcopy(rest[0]),
            branch_channels=widths[1],
            channels=widths[0],
            trunk=nn.Sequential(*rest),
            trunk_channels=widths[2],
            learners=learners,
            dimension=recipe.dimension,
        )
        self.contrast = AttentionEnsembleLoss()

    def forward(self, pictures: Tensor) -> Tensor:
        """Embed by all attentions."""
        parts = self.ensemble(self.first(self.network.trunk.prepare(pictures)))
        return self.ensemble.combine(parts)

    def loss(self, pictures: Tensor, labels: Tensor, items: Tensor) -> Tensor:
        """Compute the ensemble's loss."""
        parts = self.ensemble(self.first(self.network.trunk.prepare(pictures)))
        value: Tensor = self.contrast(parts, labels)
        return value
