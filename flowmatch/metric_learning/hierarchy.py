"""Hierarchical triplet loss, with margins and batches from a tree of classes."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Sampler

from flowmatch.metric_learning.losses._base import EmbeddingLoss, at_least
from flowmatch.metric_learning.samplers import ShuffledQueues, generator_of, members_of
from flowmatch.metric_learning.tuples import Tuples, as_triplets, check_batch, check_tensors
from flowmatch.ops import pairwise_distance


class ClassTree:
    r"""A tree of class similarity, whose leaves are classes that are merged level by level.

    The distance of two classes is the mean ``|r_i - r_j|^2`` of their members, ``r = x / |x|``. The
    spread ``s_y`` of a class is the mean over its own distinct pairs, and ``d_0`` is the mean
    spread. At level l of L, nodes nearer than ``d_l = d_0 + l (4 - d_0) / L`` are merged; 4 is the
    largest squared distance of unit vectors. Build a new tree each epoch, from the whole training
    set.

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]``.
        levels: Number of levels ``L``.

    Attributes:
        classes: Sorted labels, ``[C]``; the other attributes are in this order.
        distances: Distances of classes, ``[C, C]`` float64, 0 on the diagonal.
        spreads: Spreads ``s_y``, ``[C]``; 0 for a class with one member.
        thresholds: Distances ``d_l`` of the levels, ``[L + 1]``.
        merged_at: First level at which two classes share a node, at most L, ``[C, C]``.

    Raises:
        ValueError: Shapes or types do not fit, or the batch is empty.

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
        check_batch(embeddings, labels)
        if not len(labels):
            raise ValueError("embeddings and labels must be [N, D] and [N] with N of 1 or more")
        self.classes, place = torch.unique(labels.cpu(), return_inverse=True)
        units = F.normalize(embeddings.detach().cpu().double(), dim=1)
        count = torch.bincount(place).double()
        # |a|^2 + |b|^2 - 2 a.b has mean 2 - 2 mean(a).mean(b): class means are enough.
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
        """Merge nodes level by level; the distance of two nodes is the mean over their classes."""
        C, levels = len(self.classes), len(self.thresholds) - 1
        merged_at = torch.full((C, C), levels)
        merged_at.fill_diagonal_(0)
        node = torch.arange(C)  # node of each class
        for level, threshold in enumerate(self.thresholds.tolist()):
            one_hot = F.one_hot(node, C).double()
            size = one_hot.sum(0).clamp(min=1)
            distances = one_hot.T @ self.distances @ one_hot / (size[:, None] * size)
            near = (distances < threshold) & (one_hot.sum(0) > 0)[:, None] & (one_hot.sum(0) > 0)
            node = _components(near)[node]
            merged = node[:, None] == node
            merged_at = torch.where(merged, merged_at.clamp(max=level), merged_at)
        return merged_at

    def places(self, labels: Tensor) -> Tensor:
        """Return the indices of labels in `classes`.

        Args:
            labels: ``[N]``.

        Returns:
            ``[N]`` int64.

        Raises:
            ValueError: The tree has no class of a label.
        """
        check_tensors(labels=labels)
        labels = labels.cpu()
        places = torch.searchsorted(self.classes, labels).clamp(max=len(self.classes) - 1)
        unknown = labels[self.classes[places] != labels]
        if len(unknown):
            raise ValueError(f"the tree has no class of label {int(unknown[0])}; build a new one")
        return places

    def margins(self, anchors: Tensor, negatives: Tensor, beta: float = 0.1) -> Tensor:
        """Return the margins of triplets, ``beta + d_H(y_a, y_n) - s_(y_a)``.

        Args:
            anchors: Labels of the anchors, ``[T]``.
            negatives: Labels of the negatives, ``[T]``.
            beta: Least margin between classes that merge at the lowest level.

        Returns:
            ``[T]`` float64.

        Raises:
            ValueError: The tree has no class of a label.
        """
        a, n = self.places(anchors), self.places(negatives)
        return beta + self.thresholds[self.merged_at[a, n]] - self.spreads[a]


def _components(linked: Tensor) -> Tensor:
    """Return the connected component of each node as its smallest member, [C, C] -> [C]."""
    C = len(linked)
    linked = linked | torch.eye(C, dtype=torch.bool)
    node = torch.arange(C)
    while True:
        lowest = torch.where(linked, node, C).amin(1)
        if torch.equal(lowest, node):
            return node
        node = lowest


class HierarchicalTripletLoss(EmbeddingLoss):
    r"""Hierarchical triplet loss, whose margin grows with the distance of two classes in a tree.

    ``1 / (2 Z) sum_z max(0, |f_a - f_p| - |f_a - f_n| + alpha_z)`` over the Z triplets of
    ``[N, D]``; ``f = x / |x|``, ``alpha_z`` from `ClassTree.margins`. Start from a network trained
    with plain triplets: the tree of an untrained network is meaningless.

    Args:
        tree: Class tree of the current network; replace it each epoch.
        beta: Least margin, see `ClassTree.margins`.

    Raises:
        ValueError: `beta` is negative, or the tree has no class of a label.

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
        """Compute the hinge of each triplet with the margin from the tree."""
        triplets = as_triplets(tuples, labels)
        a, p, n = triplets
        if not len(a):
            return 0 * embeddings.sum()
        units = F.normalize(embeddings, dim=1)
        distances = pairwise_distance(units, units)
        margins = self.tree.margins(labels[a], labels[n], self.beta).to(distances)
        return (distances[a, p] - distances[a, n] + margins).relu().mean() / 2


class NeighbourhoodBatches(Sampler[list[int]]):
    """Batches of anchor neighbourhoods, which are classes that are hard to tell apart.

    A batch has random anchor classes, the nearest classes of each at the tree's lowest level, and
    the same number of items of every class: ``anchors * neighbours * samples_per_class`` items,
    fewer if neighbourhoods overlap.

    Args:
        labels: Class of each item of the dataset.
        tree: Tree of the classes; replace it each epoch.
        anchors: Number of random anchor classes in a batch.
        neighbours: Number of classes in a neighbourhood, the anchor included.
        samples_per_class: Items of each class in a batch.
        batches: Number of batches in an epoch; None takes ``ceil(items / batch size)``. Classes
            are random, so an epoch repeats some items and leaves others out.
        seed: Random seed of the batches.

    Raises:
        ValueError: A number is not positive, or the tree has no class of a label.

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
        samples_per_class: int,
        batches: int | None = None,
        seed: int = 0,
    ) -> None:
        at_least(1, anchors=anchors, neighbours=neighbours, samples_per_class=samples_per_class)
        self.members, self.tree = members_of(labels), tree
        tree.places(torch.tensor(list(self.members), dtype=torch.int64))
        if batches is not None:
            at_least(0, batches=batches)
        self.anchors, self.neighbours = anchors, neighbours
        self.samples_per_class = samples_per_class
        size = anchors * neighbours * samples_per_class
        self.batches = -(-len(labels) // size) if batches is None else batches
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        generator = generator_of(self.seed, self.epoch)
        queues = ShuffledQueues(self.members, generator)
        names = torch.tensor(list(self.members))
        places = self.tree.places(names)
        distances = self.tree.distances[places][:, places]
        order = distances.fill_diagonal_(-1).sort(dim=1, stable=True).indices[:, : self.neighbours]
        for _ in range(self.batches):
            anchors = torch.randperm(len(names), generator=generator)[: self.anchors]
            classes = dict.fromkeys(names[order[anchors]].flatten().tolist())
            yield [item for name in classes for item in queues.take(name, self.samples_per_class)]
        self.epoch += 1
