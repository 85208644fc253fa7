"""Training methods of ensembles: BIER and A-BIER, HDC, ABE."""

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
from flowmatch.units import unit_vectors


class BierMethod(Method):
    """BIER: boosted learners with a penalty on the correlation of their activations."""

    head_rate = 10.0

    def __init__(self, recipe: Recipe, images: LabelledImages, seed: int) -> None:
        super().__init__(recipe, images, seed)
        # In the proportions of the paper, 96, 160 and 256 of 512.
        first, second = max(1, recipe.dimension * 3 // 16), max(1, recipe.dimension * 5 // 16)
        self.sizes = (first, second, max(1, recipe.dimension - first - second))
        self.heads = BoostedHeads(self.network.embedding.in_features, self.sizes)
        self.bier = BierLoss()
        self.diversity: nn.Module = ActivationDiversity()

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute the embeddings of all learners."""
        return self.heads.combine(self.heads(self.network.features(pictures)))

    def loss(self, pictures: Tensor, labels: Tensor, items: Tensor) -> Tensor:
        """Compute the sum of the boosted and the diversity loss."""
        features = self.network.features(pictures)
        value: Tensor = self.bier(self.heads(features), labels)
        return value + self.diversity(self.heads, features)  # type: ignore[no-any-return]


class AdversarialBierMethod(BierMethod):
    """A-BIER: boosted learners with an adversarial diversity loss."""

    def __init__(self, recipe: Recipe, images: LabelledImages, seed: int) -> None:
        super().__init__(recipe, images, seed)
        self.diversity = AdversarialDiversity(self.sizes)


class CascadeMethod(Method):
    """HDC: a head after each of the backbone's three stages, a third of the embedding each."""

    def __init__(self, recipe: Recipe, images: LabelledImages, seed: int) -> None:
        super().__init__(recipe, images, seed)
        _, widths = self.network.backbone.parts()
        size = max(1, recipe.dimension // 3)
        grid = self.network.backbone.grid**2
        self.heads = nn.ModuleList(nn.Linear(width * grid, size) for width in widths)
        self.cascade = CascadeLoss()

    def embeddings(self, pictures: Tensor) -> list[Tensor]:
        """Compute the embedding of each head.

        Args:
            pictures: ``[N, C, H, W]`` in 0..1.

        Returns:
            Three tensors ``[N, dimension / 3]`` of unit vectors.
        """
        backbone = self.network.backbone
        x, embeddings = backbone.prepare(pictures), []
        for stage, head in zip(backbone.parts()[0], self.heads, strict=True):
            x = stage(x)
            features = F.adaptive_avg_pool2d(x, backbone.grid).flatten(1)
            embeddings.append(unit_vectors(head(features)))
        return embeddings

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute the embeddings of all heads, concatenated."""
        return self.cascade.combine(self.embeddings(pictures))

    def loss(self, pictures: Tensor, labels: Tensor, items: Tensor) -> Tensor:
        """Compute the loss of the cascade."""
        value: Tensor = self.cascade(self.embeddings(pictures), labels)
        return value


class AttentionEnsembleMethod(Method):
    """ABE: an ensemble of attention masks between the backbone's first and second stage."""

    def __init__(self, recipe: Recipe, images: LabelledImages, seed: int) -> None:
        super().__init__(recipe, images, seed)
        (first, *rest), widths = self.network.backbone.parts()
        # The paper has eight learners of 64. At least 4 dimensions each, as in Divide and Conquer:
        # in two, only a few classes can be separated by the margin.
        size = recipe.dimension
        learners = next((n for n in (8, 4, 2) if size % n == 0 and size // n >= 4), 1)
        self.first = first
        self.ensemble = AttentionEnsemble(
            branch=copy.deepcopy(rest[0]),
            branch_channels=widths[1],
            channels=widths[0],
            backbone=nn.Sequential(*rest),
            backbone_channels=widths[2],
            learners=learners,
            dimension=recipe.dimension,
        )
        self.contrast = AttentionEnsembleLoss()

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute the embeddings of all learners, concatenated."""
        parts = self.ensemble(self.first(self.network.backbone.prepare(pictures)))
        return self.ensemble.combine(parts)

    def loss(self, pictures: Tensor, labels: Tensor, items: Tensor) -> Tensor:
        """Compute the loss of the ensemble."""
        parts = self.ensemble(self.first(self.network.backbone.prepare(pictures)))
        value: Tensor = self.contrast(parts, labels)
        return value
