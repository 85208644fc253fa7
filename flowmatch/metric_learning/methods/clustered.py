"""Methods that look at all the data now and then: the class tree, Divide and Conquer."""

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
from flowmatch.metric_learning.methods._base import Features, Method
from flowmatch.metric_learning.miners import SemiHardMiner


class Hierarchical(Method):
    """Plain triplets for half the steps, then the hierarchical triplet loss, a tree an epoch."""

    def __init__(self, recipe: Recipe, images: LabelledImages, seed: int) -> None:
        super().__init__(recipe, images, seed)
        self.plain, self.miner = TripletLoss(), SemiHardMiner()
        self.hierarchical: HierarchicalTripletLoss | None = None

    def begin(self, epoch: int, done: float) -> None:
        """Build the tree anew, once the network has learnt something."""
        if done < 0.5:
            return
        tree = ClassTree(*self.embed_all(self.network))
        self.hierarchical = HierarchicalTripletLoss(tree)
        # Half of a batch's classes are drawn, each with one neighbour.
        pairs = min(2, self.classes)
        self.batches = NeighbourhoodBatches(
            self.labels,
            tree,
            anchors=max(1, self.classes // pairs),
            neighbours=pairs,
            each=self.recipe.each,
            seed=self.seed + epoch,
        )

    def loss(self, pictures: Tensor, labels: Tensor, items: Tensor) -> Tensor:
        """Compute whichever loss it is the time of."""
        found = self.network(pictures)
        if self.hierarchical is None:
            return self.plain(found, labels, self.miner(found, labels))  # type: ignore[no-any-return]
        return self.hierarchical(found, labels)  # type: ignore[no-any-return]


class Divided(Method):
    """Divide and Conquer: clusters every second epoch; all together for the last fifth."""

    def __init__(self, recipe: Recipe, images: LabelledImages, seed: int) -> None:
        super().__init__(recipe, images, seed)
        # Slices of 16 as in the paper would leave small embeddings undivided: of 4 at least.
        self.learners = max(1, min(8, recipe.dimension // 4))
        features = self.network.embedding.in_features
        self.divided = DividedEmbedding(features, recipe.dimension, self.learners)
        self.losses = DivideAndConquerLoss.of_margins(self.learners, len(images.classes))
        self.clusters: Tensor | None = None
        self.together, self.whole = False, self.batches

    def forward(self, pictures: Tensor) -> Tensor:
        """Embed into all slices."""
        found: Tensor = self.divided(self.network.features(pictures))
        return found

    def begin(self, epoch: int, done: float) -> None:
        """Divide every second epoch; conquer at last."""
        self.together = done >= 0.8 or self.learners == 1
        if self.together:
            self.batches = self.whole
        elif epoch % 2 == 0:
            features, labels = self.embed_all(Features(self.network))
            previous = self.clusters
            self.clusters = divide(features, labels, self.learners, previous, self.seed)
            self.batches = ClusterBatches(
                self.labels, self.clusters, self.classes, self.recipe.each, self.seed + epoch
            )

    def loss(self, pictures: Tensor, labels: Tensor, items: Tensor) -> Tensor:
        """Train one learner, or all."""
        features = self.network.features(pictures)
        divided = None if self.together else self.clusters
        cluster = None if divided is None else int(divided[items[0]])
        value: Tensor = self.losses(self.divided, features, labels, cluster)
        return value
