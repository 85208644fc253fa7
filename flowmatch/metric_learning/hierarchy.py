"""Hierarchical triplet loss: a tree of classes decides batches and margins."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Sampler

from flowmatch.metric_learning.losses._base import SimilarityLoss, at_least
from flowmatch.metric_learning.samplers import Decks, generator_of, members_of
from flowmatch.metric_learning.tuples import Tuples, triplets_of
from flowmatch.ops import pairwise_distance


class ClassTree:
    r"""How alike classes are: a tree whose leaves are classes, merged level by level.

    Distance of two classes: the mean ``|r_i - r_j|^2`` of their members, ``r = x / |x|``. A class's
    spread ``s_y`` is that of its own distinct pairs, ``d_0`` the mean spread. At level l of L,
    classes or merged classes nearer than ``d_l = d_0 + l (4 - d_0) / L`` are merged, 4 being the
    largest squared distance there is. Build it anew each epoch, from the whole training set.

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]``.
        levels: ``L``.

    Attributes:
        classes: Labels, sorted, ``[C]``; what follows is in this order.
        distances: Of classes, ``[C, C]`` float64; the diagonal is 0.
        spreads: ``s_y``, ``[C]``; 0 for a class with one member.
        thresholds: ``d_l``, ``[L + 1]``.
        merged_at: The first level at which two classes share a node, ``[C, C]``; L at most.

    Raises:
        ValueError: Shapes do not fit, or there is nothing to build from.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [-1.0, 0.0]])
        >>> ClassTree(x, torch.tensor([0, 0, 1, 2])).merged_at.tolist()
        [[0, 1, 16], [1, 0, 16], [16, 16, 0]]

    Reference:
        Ge, Huang, Dong & Scott, Deep Metric Learning with Hierarchical Triplet Loss, ECCV 2018,
        section 4.1.
    """

    def __init__(self, embeddings: Tensor, labels: Tensor, levels: int = 16) -> None:
        at_least(1, levels=levels)
        if embeddings.dim() != 2 or labels.shape != embeddings.shape[:1] or not len(labels):
            raise ValueError(
                "embeddings and labels must be [N, D] and [N] with N of 1 or more, "
                f"got {tuple(embeddings.shape)} and {tuple(labels.shape)}"
            )
        self.classes, place = torch.unique(labels.cpu(), return_inverse=True)
        units = F.normalize(embeddings.detach().cpu().double(), dim=1)
        count = torch.bincount(place).double()
        # |a|^2 + |b|^2 - 2 a.b has mean 2 - 2 mean(a).mean(b): no pair has to be looked at.
        length = torch.zeros(len(count), dtype=torch.float64)
        length = length.index_add(0, place, units.square().sum(1)) / count
        sums = torch.zeros(len(count), units.shape[1], dtype=torch.float64)
        means = sums.index_add(0, place, units) / count[:, None]
        products = means @ means.T
        self.distances = (length[:, None] + length - 2 * products).clamp(min=0)
        within = 2 * (length - products.diagonal()).clamp(min=0) * count / (count - 1).clamp(min=1)
        self.spreads = torch.where(count > 1, within, 0)
        self.distances.fill_diagonal_(0)
        several = count > 1
        d0 = float(self.spreads[several].mean()) if several.any() else 0.0
        self.thresholds = torch.linspace(d0, 4.0, levels + 1, dtype=torch.float64)
        self.merged_at = self._merge()

    def _merge(self) -> Tensor:
        """Merge nodes level by level; what two nodes are apart is the mean over their classes."""
        C, levels = len(self.classes), len(self.thresholds) - 1
        merged_at = torch.full((C, C), levels)
        merged_at.fill_diagonal_(0)
        node = torch.arange(C)  # of each class
        for level, threshold in enumerate(self.thresholds.tolist()):
            one_hot = F.one_hot(node, C).double()
            size = one_hot.sum(0).clamp(min=1)
            apart = one_hot.T @ self.distances @ one_hot / (size[:, None] * size)
            near = (apart < threshold) & (one_hot.sum(0) > 0)[:, None] & (one_hot.sum(0) > 0)
            node = _components(near)[node]
            together = node[:, None] == node
            merged_at = torch.where(together, merged_at.clamp(max=level), merged_at)
        return merged_at

    def places(self, labels: Tensor) -> Tensor:
        """Find labels among `classes`.

        Args:
            labels: ``[N]``.

        Returns:
            ``[N]`` int64.

        Raises:
            ValueError: A label is of no class of the tree.
        """
        labels = labels.cpu()
        found = torch.searchsorted(self.classes, labels).clamp(max=len(self.classes) - 1)
        strange = labels[self.classes[found] != labels]
        if len(strange):
            raise ValueError(f"label {int(strange[0])} is no class of the tree; build it anew")
        return found

    def margins(self, anchors: Tensor, negatives: Tensor, beta: float = 0.1) -> Tensor:
        """Give the margin of triplets: ``beta + d_H(y_a, y_n) - s_(y_a)``.

        Args:
            anchors: Labels, ``[T]``.
            negatives: Labels, ``[T]``.
            beta: What classes merged at the lowest level are still to be apart.

        Returns:
            ``[T]`` float64.

        Raises:
            ValueError: A label is of no class of the tree.
        """
        a, n = self.places(anchors), self.places(negatives)
        return beta + self.thresholds[self.merged_at[a, n]] - self.spreads[a]


def _components(linked: Tensor) -> Tensor:
    """The smallest node that each can be reached from, [C, C] -> [C]."""
    C = len(linked)
    linked = linked | torch.eye(C, dtype=torch.bool)
    node = torch.arange(C)
    while True:
        lowest = torch.where(linked, node, C).amin(1)
        if torch.equal(lowest, node):
            return node
        node = lowest


class HierarchicalTripletLoss(SimilarityLoss):
    r"""A triplet loss whose margin grows with how far apart two classes are in the tree.

    ``1 / (2 Z) sum_z max(0, |f_a - f_p| - |f_a - f_n| + alpha_z)`` over the Z triplets of
    ``[N, D]``; ``f = x / |x|``, ``alpha_z`` from `ClassTree.margins`. Start from a network trained
    with plain triplets: before that, a tree means nothing.

    Args:
        tree: From the network as it is; replace it each epoch.
        beta: Of the margins.

    Raises:
        ValueError: `beta` is negative, or a label is of no class of the tree.

    Example:
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0, 1])
        >>> round(HierarchicalTripletLoss(ClassTree(x, y))(x, y).item(), 4)
        0.4036

    Reference:
        Ge, Huang, Dong & Scott, Deep Metric Learning with Hierarchical Triplet Loss, ECCV 2018,
        equation 6.
    """

    takes_tuples = True

    def __init__(self, tree: ClassTree, beta: float = 0.1) -> None:
        super().__init__()
        at_least(0, beta=beta)
        self.tree, self.beta = tree, beta

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Look up each triplet's margin."""
        triplets = triplets_of(tuples, labels)
        a, p, n = triplets
        if not len(a):
            return 0 * embeddings.sum()
        units = F.normalize(embeddings, dim=1)
        distances = pairwise_distance(units, units)
        margins = self.tree.margins(labels[a], labels[n], self.beta).to(distances)
        return (distances[a, p] - distances[a, n] + margins).relu().mean() / 2


class NeighbourhoodBatches(Sampler[list[int]]):
    """Anchor neighbourhoods: batches of classes that are hard to tell apart.

    `anchors` classes at random, each with its ``neighbours - 1`` nearest at the tree's lowest
    level, `each` items of every one: ``anchors * neighbours * each`` items, fewer where
    neighbourhoods overlap.

    Args:
        labels: Of all items.
        tree: Of their classes; replace it each epoch.
        anchors: Classes drawn at random.
        neighbours: Classes in a neighbourhood, the drawn one included.
        each: Items of a class.
        batches: In an epoch; None takes as many as cover all items about once.
        seed: Of the draws.

    Raises:
        ValueError: A number is not positive, or a label is of no class of the tree.

    Example:
        >>> x, y = torch.randn(12, 4), torch.arange(4).repeat_interleave(3)
        >>> batches = NeighbourhoodBatches(y.tolist(), ClassTree(x, y), 1, 2, 3)
        >>> len(batches), {len(batch) for batch in batches}
        (2, {6})

    Reference:
        Ge, Huang, Dong & Scott, Deep Metric Learning with Hierarchical Triplet Loss, ECCV 2018,
        section 4.2.
    """

    def __init__(
        self,
        labels: Sequence[int],
        tree: ClassTree,
        anchors: int,
        neighbours: int,
        each: int,
        batches: int | None = None,
        seed: int = 0,
    ) -> None:
        at_least(1, anchors=anchors, neighbours=neighbours, each=each)
        tree.places(torch.tensor(list(labels)))
        self.members, self.tree = members_of(labels), tree
        self.anchors, self.neighbours, self.each = anchors, neighbours, each
        size = anchors * neighbours * each
        self.batches = -(-len(labels) // size) if batches is None else batches
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        generator = generator_of(self.seed, self.epoch)
        decks = Decks(self.members, generator)
        names = torch.tensor(list(self.members))
        places = self.tree.places(names)
        apart = self.tree.distances[places][:, places]
        order = apart.fill_diagonal_(-1).sort(dim=1, stable=True).indices[:, : self.neighbours]
        for _ in range(self.batches):
            drawn = torch.randperm(len(names), generator=generator)[: self.anchors]
            chosen = dict.fromkeys(names[order[drawn]].flatten().tolist())
            yield [item for name in chosen for item in decks.draw(name, self.each)]
        self.epoch += 1
