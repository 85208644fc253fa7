"""Methods that cluster the whole training set every epoch or two."""

from torch import Tensor

from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.ensembles import (
    ClusterBatches,
    DivideAndConquerLoss,
    DividedEmbedding,
    divide,
)
from flowmatch.metric_learning.fit import Recipe
from flowmatch.metric_learning.hierarchy import (
    ClassTree,
    HierarchicalTripletLoss,
    NeighbourhoodBatches,
)
from flowmatch.metric_learning.losses import TripletLoss
from flowmatch.metric_learning.methods._base import Backbone, Method
from flowmatch.metric_learning.miners import SemiHardMiner


class HierarchicalTripletMethod(Method):
    """Triplet loss for half of the steps, then hierarchical triplet loss with a tree per epoch."""

    def __init__(self, recipe: Recipe, images: LabelledImages, seed: int) -> None:
        super().__init__(recipe, images, seed)
        self.triplet, self.miner = TripletLoss(), SemiHardMiner()
        self.hierarchical: HierarchicalTripletLoss | None = None

    def begin_epoch(self, epoch: int, done: float) -> None:
        """Build a new tree in the second half of training."""
        if done < 0.5:
            return
        tree = ClassTree(*self.embed_all(self.network))
        self.hierarchical = HierarchicalTripletLoss(tree)
        # Half of a batch's classes are random, the others their nearest neighbours.
        neighbours = min(2, self.classes)
        self.batches = NeighbourhoodBatches(
            self.labels,
            tree,
            anchors=max(1, self.classes // neighbours),
            neighbours=neighbours,
            samples_per_class=self.recipe.samples_per_class,
            seed=self.seed + epoch,
        )

    def loss(self, pictures: Tensor, labels: Tensor, items: Tensor) -> Tensor:
        """Compute the triplet loss, or the hierarchical one once there is a tree."""
        embeddings = self.network(pictures)
        if self.hierarchical is None:
            triplets = self.miner(embeddings, labels)
            return self.triplet(embeddings, labels, triplets)  # type: ignore[no-any-return]
        return self.hierarchical(embeddings, labels)  # type: ignore[no-any-return]


class DivideAndConquerMethod(Method):
    """Divide and Conquer: new clusters every second epoch, one embedding in the last fifth."""

    def __init__(self, recipe: Recipe, images: LabelledImages, seed: int) -> None:
        super().__init__(recipe, images, seed)
        # Slices of 16 as in the paper would leave small embeddings undivided, hence 4.
        self.learners = max(1, min(8, recipe.dimension // 4))
        features = self.network.embedding.in_features
        self.divided = DividedEmbedding(features, recipe.dimension, self.learners)
        self.losses = DivideAndConquerLoss.of_margins(self.learners, len(images.classes))
        self.clusters: Tensor | None = None
        self.together, self.all_batches = False, self.batches

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute the embeddings of all slices."""
        embeddings: Tensor = self.divided(self.network.features(pictures))
        return embeddings

    def begin_epoch(self, epoch: int, done: float) -> None:
        """Cluster every second epoch, and merge the slices in the last fifth of training."""
        self.together = done >= 0.8 or self.learners == 1
        if self.together:
            self.batches = self.all_batches
        elif epoch % 2 == 0:
            features, labels = self.embed_all(Backbone(self.network))
            previous = self.clusters
            self.clusters = divide(features, labels, self.learners, previous, self.seed)
            self.batches = ClusterBatches(
                self.labels,
                self.clusters,
                self.classes,
                self.recipe.samples_per_class,
                self.seed + epoch,
            )

    def loss(self, pictures: Tensor, labels: Tensor, items: Tensor) -> Tensor:
        """Compute the loss of the batch's learner, or of the whole embedding."""
        features = self.network.features(pictures)
        divided = None if self.together else self.clusters
        cluster = None if divided is None else int(divided[items[0]])
        value: Tensor = self.losses(self.divided, features, labels, cluster)
        return value
