"""Experimental reconstructions of two methods whose full descriptions are not public.

The abstracts are what could be read, and summaries by others. Each class states its equations, and
what in them is an interpretation. Results do not reproduce the papers' figures.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.fit import Recipe
from flowmatch.metric_learning.losses import HadsellLoss, TripletLoss
from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.methods._base import Method
from flowmatch.metric_learning.samplers import generator_of
from flowmatch.metric_learning.tuples import Pairs, Triplets, check_batch
from flowmatch.units import unit_vectors


def spanning_trees(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return the edges of the minimum spanning tree of each class.

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]``.

    Returns:
        Pairs of indices, ``[N - classes, 2]`` int64; a class of one item has none.

    Raises:
        ValueError: Shapes or types do not fit.

    Example:
        >>> x = torch.tensor([[0.0], [5.0], [1.0]])
        >>> spanning_trees(x, torch.tensor([0, 0, 0])).sort(1).values.tolist()
        [[0, 2], [1, 2]]
    """
    from scipy.sparse.csgraph import minimum_spanning_tree  # type: ignore[import-untyped]

    check_batch(embeddings, labels)
    edges = []
    for label in torch.unique(labels):
        items = torch.where(labels == label)[0].cpu()
        part = embeddings.detach()[items].double().cpu()
        # Plus one, because a distance of 0 would be no edge; the tree stays the same.
        tree = minimum_spanning_tree((torch.cdist(part, part) + 1).numpy()).tocoo()
        edges.append(items[torch.from_numpy(np.stack([tree.row, tree.col], 1)).long()])
    return torch.cat(edges) if edges else torch.empty(0, 2, dtype=torch.int64)


class StreamBatches(Sampler[list[int]]):
    """Batches of the next edges of one stream, and the next items of another, longer one.

    Both streams are shuffled once and repeated, each from its own end. Because their lengths
    differ, an edge meets other items in each pass.

    Args:
        edges: Positive pairs, ``[E, 2]``.
        count: Number of items of the dataset; the other stream has all of them.
        pairs: Number of edges in a batch.
        singles: Number of items of the other stream in a batch.
        seed: Random seed of the streams.

    Raises:
        ValueError: There are no edges, or a number is not positive.

    Example:
        >>> batches = StreamBatches(torch.tensor([[0, 1], [2, 3]]), 4, pairs=1, singles=2)
        >>> [len(batch) for batch in batches]
        [4, 4]
    """

    def __init__(self, edges: Tensor, count: int, pairs: int, singles: int, seed: int = 0) -> None:
        at_least(1, edges=len(edges), count=count, pairs=pairs, singles=singles)
        generator = generator_of(seed, 0)
        self.edges = edges[torch.randperm(len(edges), generator=generator)]
        self.items = torch.randperm(count, generator=generator)
        self.pairs, self.singles, self.step = pairs, singles, 0

    def __len__(self) -> int:
        return -(-len(self.edges) // self.pairs)

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(len(self)):
            first = (self.step * self.pairs + torch.arange(self.pairs)) % len(self.edges)
            second = (self.step * self.singles + torch.arange(self.singles)) % len(self.items)
            self.step += 1
            # The first ends of the edges, their second ends, and the items of the other stream.
            yield torch.cat([self.edges[first].T.flatten(), self.items[second]]).tolist()


class AsymmetricStreamsMethod(Method):
    r"""DAMLRRM, experimental: positives along spanning trees, negatives between two streams.

    With ``T_c`` the minimum spanning tree of class c by the distances of current embeddings,
    stream A the edges of all trees and stream B all items, a step takes k edges of A and m items
    of B, and

    ``L = 1/2 mean_((i, j) in A) d_ij^2 + 1/2 mean_(i in A, n in B, y_i != y_n) max(0, 1 - d_in)^2``

    From the paper: two streams of different structure and unequal length, which interlace, so that
    pairs are new in each pass; a minimum-cost spanning tree within each category, instead of all
    positive pairs; an existing loss of pairs. Interpreted: that stream A consists of edges and
    stream B of items; that trees are rebuilt after each pass, with current embeddings (maybe the
    paper's come from fixed features); contrastive loss (`HadsellLoss`) as the existing one; a third
    of the batch for B. Not reconstructed: the exact lengths of the streams, and how the paper
    weights the two kinds of pairs.

    Reference:
        Xu, Yang, Deng & Zheng, Deep Asymmetric Metric Learning via Rich Relationship Mining, CVPR
        2019, abstract.
    """

    def __init__(self, recipe: Recipe, images: LabelledImages, seed: int) -> None:
        super().__init__(recipe, images, seed)
        self.criterion = HadsellLoss()
        size = self.classes * recipe.samples_per_class
        self.pairs = max(1, size // 3)
        self.singles = max(1, size - 2 * self.pairs)

    def begin_epoch(self, epoch: int, done: float) -> None:
        """Build the trees, and the streams from them."""
        embeddings, labels = self.embed_all(self)
        edges = spanning_trees(embeddings, labels)
        count = len(self.labels)
        self.batches = StreamBatches(edges, count, self.pairs, self.singles, self.seed + epoch)

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute embeddings of length 1."""
        return unit_vectors(self.network(pictures))

    def loss(self, pictures: Tensor, labels: Tensor, items: Tensor) -> Tensor:
        """Compute the contrastive loss of the edges, and of pairs between the streams."""
        ends = torch.arange(self.pairs, device=labels.device)
        different = labels[: 2 * self.pairs, None] != labels[2 * self.pairs :]
        anchors, negatives = torch.where(different)
        tuples = Pairs(ends, ends + self.pairs, anchors, negatives + 2 * self.pairs)
        return self.criterion(self(pictures), labels, tuples)  # type: ignore[no-any-return]


class SamplingPolicy(nn.Module):
    """Probabilities of positives and negatives for anchors, from embeddings of an earlier state.

    The score of item j for anchor a is ``(W f_a) . (V f_j) / sqrt(D) - u |f_a - f_j|``, the softmax
    of which over the items of the anchor's class, and over those of others, is the policy.

    Args:
        dimension: Dimension ``D`` of the embeddings.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        at_least(1, dimension=dimension)
        self.query = nn.Linear(dimension, dimension, bias=False)
        self.key = nn.Linear(dimension, dimension, bias=False)
        self.closeness = nn.Parameter(torch.zeros(2))

    def forward(self, features: Tensor, labels: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Compute log-probabilities.

        Args:
            features: Embeddings of all items, ``[N, D]``.
            labels: ``[N]``.
            anchors: Indices of anchors, ``[A]``, each with another item of its class and one of
                another class.

        Returns:
            Log-probabilities of positives and of negatives, ``[A, N]``, minus infinity for items
            that are none.
        """
        chosen = features[anchors]
        scores = self.query(chosen) @ self.key(features).T / math.sqrt(features.shape[1])
        distances = torch.cdist(chosen, features)
        same = labels[anchors, None] == labels
        positives = same.clone()
        positives[torch.arange(len(anchors)), anchors] = False
        parts = []
        for mask, weight in zip((positives, ~same), self.closeness, strict=True):
            logits = (scores - weight * distances).masked_fill(~mask, -math.inf)
            parts.append(logits.log_softmax(1))
        return parts[0], parts[1]


class PolicyBatches(Sampler[list[int]]):
    """Triplets that a policy samples: the anchors, their positives, their negatives.

    Args:
        policy: The policy; its parameters may change while batches are taken.
        features: Embeddings of all items, ``[N, D]``.
        labels: ``[N]``.
        triplets: Number of triplets in a batch.
        seed: Random seed.

    Raises:
        ValueError: No class has two items, or there is one class.
    """

    def __init__(
        self, policy: SamplingPolicy, features: Tensor, labels: Tensor, triplets: int, seed: int
    ) -> None:
        at_least(1, triplets=triplets)
        counts = torch.bincount(labels)
        self.anchors = torch.where((counts[labels] > 1) & (counts[labels] < len(labels)))[0]
        if not len(self.anchors):
            raise ValueError("triplets need a class of two items and another class")
        self.policy, self.features, self.labels = policy, features, labels
        self.triplets, self.generator = triplets, generator_of(seed, 0)

    def __len__(self) -> int:
        return -(-len(self.labels) // (3 * self.triplets))

    def __iter__(self) -> Iterator[list[int]]:
        device = self.policy.closeness.device
        features, labels = self.features.to(device), self.labels.to(device)
        for _ in range(len(self)):
            drawn = torch.randint(len(self.anchors), (self.triplets,), generator=self.generator)
            anchors = self.anchors[drawn]
            with torch.no_grad():
                parts = self.policy(features, labels, anchors.to(device))
            others = [
                torch.multinomial(part.exp().cpu(), 1, generator=self.generator)[:, 0]
                for part in parts
            ]
            yield torch.cat([anchors, *others]).tolist()


class SamplingPolicyMethod(Method):
    r"""DE-DSP, experimental: a sampler network, trained jointly, chooses the triplets.

    Embedding: ``mean_t l_t``, with ``l_t = max(0, d_ap^2 - d_an^2 + 0.2)`` over triplets
    ``p ~ pi_+(. | a)``, ``n ~ pi_-(. | a)``, with `SamplingPolicy` as ``pi``. Sampler, by the
    policy gradient with the batch's mean reward as baseline:
    ``-mean_t (r_t - mean r) (log pi_+(p | a) + log pi_-(n | a))``, the reward ``r_t`` being ``l_t``
    without a gradient.

    From the paper: a sampler network and an embedding that are trained simultaneously; the sampler
    takes relations among samples as its prior, so that the hardness of all samples need not be
    computed; several embedding losses. Interpreted: relations are embeddings of the last pass
    over the data, and their distances; the sampler is bilinear; policy gradient as its training;
    the reward is the loss of the triplet; triplet loss as the embedding's. Not reconstructed: the
    architecture and the objective of the paper's sampler.

    Reference:
        Duan, Chen, Lu & Zhou, Deep Embedding Learning with Discriminative Sampling Policy, CVPR
        2019, abstract.
    """

    def __init__(self, recipe: Recipe, images: LabelledImages, seed: int) -> None:
        super().__init__(recipe, images, seed)
        self.policy = SamplingPolicy(recipe.dimension)
        self.criterion = TripletLoss()
        self.triplets = max(1, self.classes * recipe.samples_per_class // 3)
        self.features: Tensor | None = None

    def begin_epoch(self, epoch: int, done: float) -> None:
        """Embed the training set, from which the policy chooses until the next epoch."""
        features, labels = self.embed_all(self)
        self.features = features
        seed = self.seed + epoch
        self.batches = PolicyBatches(self.policy, features, labels, self.triplets, seed)

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute embeddings of length 1."""
        return unit_vectors(self.network(pictures))

    def loss(self, pictures: Tensor, labels: Tensor, items: Tensor) -> Tensor:
        """Compute the sum of the embedding's and the sampler's loss, which share no parameters."""
        if self.features is None:
            raise ValueError("begin_epoch must be called before the loss")
        places = torch.arange(3 * self.triplets, device=labels.device).view(3, -1)
        embeddings = self(pictures)
        value: Tensor = self.criterion(embeddings, labels, Triplets(*places))
        anchor, positive, negative = embeddings.detach()[places]
        margins = (anchor - positive).square().sum(1) - (anchor - negative).square().sum(1)
        rewards = (margins + 0.2).clamp(min=0)
        features = self.features.to(labels.device)
        every_label = torch.tensor(self.labels, device=labels.device)
        anchors, positives, negatives = items.to(labels.device)[places]
        to_positive, to_negative = self.policy(features, every_label, anchors)
        chosen = to_positive.gather(1, positives[:, None]) + to_negative.gather(
            1, negatives[:, None]
        )
        policy: Tensor = ((rewards - rewards.mean()) * chosen[:, 0]).mean()
        return value - policy
