"""Divide and Conquer: clusters of the training data, each with its own slice of the embedding."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.utils.data import Sampler

from flowmatch.metric_learning._extras import scikit_learn
from flowmatch.metric_learning.losses import MarginLoss
from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.samplers import ClassBatches, generator_of
from flowmatch.metric_learning.tuples import check_batch, check_tensors
from flowmatch.units import unit_vectors


class DividedEmbedding(nn.Module):
    r"""A linear embedding in contiguous slices, each initialised and normalised by itself.

    Args:
        features: Number of features of the backbone.
        dimension: Dimension of the whole embedding.
        learners: Number of slices, at most `dimension`; the first ones are longer if it is not a
            divisor.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> embedding = DividedEmbedding(16, 12, learners=3)
        >>> [part.shape[1] for part in embedding.slices(torch.randn(2, 16))]
        [4, 4, 4]

    Reference:
        Sanakoyeu, Tschernezki, Büchler & Ommer, Divide and Conquer the Embedding Space for Metric
        Learning, CVPR 2019, section 3.
    """

    def __init__(self, features: int, dimension: int = 128, learners: int = 8) -> None:
        super().__init__()
        at_least(1, features=features, learners=learners)
        at_least(learners, dimension=dimension)
        sizes = [len(part) for part in torch.tensor_split(torch.empty(dimension), learners)]
        self.heads = nn.ModuleList(nn.Linear(features, size) for size in sizes)
        for head in self.heads:
            nn.init.xavier_uniform_(head.weight)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def slices(self, features: Tensor) -> list[Tensor]:
        """Compute the embedding of each slice.

        Args:
            features: ``[N, features]``.

        Returns:
            Unit vectors ``[N, size]`` of each learner.
        """
        return [unit_vectors(head(features)) for head in self.heads]

    def forward(self, features: Tensor) -> Tensor:
        """Compute the whole embedding, for the test and for the last part of training.

        Args:
            features: ``[N, features]``.

        Returns:
            Unit vectors ``[N, dimension]``, in which all slices have the same norm.
        """
        whole: Tensor = torch.cat(self.slices(features), 1) / len(self.heads) ** 0.5
        return whole


def match_clusters(clusters: Tensor, previous: Tensor, count: int) -> Tensor:
    """Renumber clusters so that as many items as possible keep their number.

    Args:
        clusters: New cluster of each item, ``[N]`` in ``0..count - 1``.
        previous: Previous cluster of each item, ``[N]``; -1 without one.
        count: Number of clusters.

    Returns:
        The new clusters, renumbered, ``[N]``.

    Raises:
        ValueError: Shapes do not fit.

    Example:
        >>> match_clusters(torch.tensor([1, 1, 0]), torch.tensor([0, 0, 0]), 2).tolist()
        [0, 0, 1]

    Reference:
        Sanakoyeu et al., CVPR 2019, section 3.3: the least L1 distance of membership vectors, by
        the Hungarian method.
    """
    check_tensors(clusters=clusters, previous=previous)
    if clusters.dim() != 1 or clusters.shape != previous.shape:
        raise ValueError(
            "clusters and previous must be [N], "
            f"got {tuple(clusters.shape)} and {tuple(previous.shape)}"
        )
    numbers = torch.arange(count)
    new, old = ((t.cpu()[:, None] == numbers).long() for t in (clusters, previous))
    # For entries 0 and 1, |a - b|_1 is |a| + |b| - 2 a.b.
    cost = new.sum(0)[:, None] + old.sum(0) - 2 * new.T @ old
    rows, columns = linear_sum_assignment(cost.numpy())
    number = torch.empty(count, dtype=torch.int64)
    number[torch.from_numpy(rows)] = torch.from_numpy(columns)
    renumbered: Tensor = number[clusters.cpu()]
    return renumbered


def divide(
    features: Tensor,
    labels: Tensor,
    learners: int,
    previous: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Cluster the training data by k-means of its features.

    The paper does so every second epoch, with the pooled features of the backbone, not with the
    embedding.

    Args:
        features: ``[N, F]``; they are normalised first.
        labels: ``[N]``.
        learners: Number of clusters.
        previous: Previous result of this function, whose cluster numbers are kept as far as
            possible; None for the first.
        seed: Random seed of k-means.

    Returns:
        The cluster of each item, ``[N]``; -1 for an item without others of its class in its
        cluster, which has no positives.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: Shapes do not fit, or there are fewer items than clusters.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1.0, 0.1], [1.0, 0.2]])
        >>> clusters = divide(x, torch.tensor([0, 0, 0, 0, 1]), 2)
        >>> clusters[0] == clusters[1], clusters[0] == clusters[2], clusters[4].item()
        (tensor(True), tensor(False), -1)

    Reference:
        Sanakoyeu et al., CVPR 2019, section 3.1.
    """
    check_batch(features, labels)
    at_least(1, learners=learners)
    if len(features) < learners:
        raise ValueError(f"{learners} clusters need that many items, got {len(features)}")
    means = scikit_learn("cluster").KMeans(
        n_clusters=learners, n_init=5, max_iter=100, random_state=seed
    )
    units = F.normalize(features.detach().float().cpu(), dim=1)
    clusters = torch.from_numpy(means.fit_predict(units.numpy())).long()
    if previous is not None:
        clusters = match_clusters(clusters, previous, learners)
    labels = labels.cpu()
    cells = torch.stack([clusters, labels], 1)
    _, place, count = torch.unique(cells, dim=0, return_inverse=True, return_counts=True)
    return torch.where(count[place] > 1, clusters, -1)


class ClusterBatches(Sampler[list[int]]):
    """Class-balanced batches, each from one cluster, in random order.

    Args:
        labels: Class of each item of the dataset.
        clusters: Cluster of each item, from `divide`; items at -1 are left out.
        classes: Number of classes in a batch, fewer if a cluster has fewer.
        samples_per_class: Items of each class in a batch.
        seed: Random seed of the batches.

    Raises:
        ValueError: Lengths do not fit.

    Example:
        >>> batches = ClusterBatches([0, 0, 1, 1, 0], torch.tensor([0, 0, 1, 1, -1]), 1, 2)
        >>> sorted(sorted(batch) for batch in batches)
        [[0, 1], [2, 3]]
    """

    def __init__(
        self,
        labels: Sequence[int],
        clusters: Tensor,
        classes: int,
        samples_per_class: int,
        seed: int = 0,
    ) -> None:
        check_tensors(clusters=clusters)
        if clusters.shape != (len(labels),):
            raise ValueError(f"clusters must be [{len(labels)}], got {tuple(clusters.shape)}")
        self.parts: list[tuple[list[int], ClassBatches]] = []
        for cluster in range(int(clusters.max()) + 1 if len(labels) else 0):
            items = torch.where(clusters == cluster)[0].tolist()
            if items:
                own = [int(labels[i]) for i in items]
                count = min(classes, len(set(own)))
                batches = ClassBatches(own, count, samples_per_class, seed=seed + cluster)
                self.parts.append((items, batches))
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        return sum(len(batches) for _, batches in self.parts)

    def __iter__(self) -> Iterator[list[int]]:
        turns = [part for part, (_, batches) in enumerate(self.parts) for _ in range(len(batches))]
        for _, batches in self.parts:
            batches.set_epoch(self.epoch)
        streams = [(items, iter(batches)) for items, batches in self.parts]
        order = torch.randperm(len(turns), generator=generator_of(self.seed, self.epoch)).tolist()
        for turn in order:
            items, stream = streams[turns[turn]]
            yield [items[i] for i in next(stream)]
        self.epoch += 1


class DivideAndConquerLoss(nn.Module):
    r"""A loss for each learner, on its slice and its cluster's batches, and one for all slices.

    Most epochs divide: `divide` clusters the training data, `ClusterBatches` samples batches, and
    each batch trains the slice of its cluster. The last epochs conquer: batches of all data train
    all slices as one vector.

    Args:
        learners: Number of slices.
        loss: Constructor of a loss of embeddings, called once for each learner and once for all.

    Raises:
        ValueError: `learners` is not positive.

    Example:
        >>> embedding, loss = DividedEmbedding(16, 8, 2), DivideAndConquerLoss.of_margins(2, 5)
        >>> features, labels = torch.randn(4, 16), torch.tensor([0, 0, 4, 4])
        >>> divided = loss(embedding, features, labels, cluster=1)
        >>> conquered = loss(embedding, features, labels)

    Reference:
        Sanakoyeu et al., CVPR 2019, algorithm 1.
    """

    def __init__(self, learners: int, loss: Callable[[], nn.Module]) -> None:
        super().__init__()
        at_least(1, learners=learners)
        self.learners = nn.ModuleList(loss() for _ in range(learners))
        self.all = loss()

    @classmethod
    def of_margins(cls, learners: int, classes: int) -> "DivideAndConquerLoss":
        """Make the loss from margin losses, as in the paper.

        Args:
            learners: Number of slices.
            classes: Number of classes; labels are ``0..classes - 1``.

        Raises:
            ImportError: pytorch-metric-learning is missing.
        """
        return cls(learners, lambda: MarginLoss(classes))

    def forward(
        self,
        embedding: DividedEmbedding,
        features: Tensor,
        labels: Tensor,
        cluster: int | None = None,
    ) -> Tensor:
        """Compute the loss of one learner, or of the whole embedding.

        Args:
            embedding: The embedding layer.
            features: ``[N, F]``, all of one cluster if `cluster` is given.
            labels: ``[N]``.
            cluster: Index of the learner; None trains the whole embedding.

        Returns:
            A scalar.

        Raises:
            ValueError: `cluster` is out of range.
        """
        if cluster is None:
            whole: Tensor = self.all(embedding(features), labels)
            return whole
        if not 0 <= cluster < len(self.learners):
            raise ValueError(f"cluster must be in 0..{len(self.learners) - 1}, got {cluster}")
        own = unit_vectors(embedding.heads[cluster](features))
        value: Tensor = self.learners[cluster](own, labels)
        return value
