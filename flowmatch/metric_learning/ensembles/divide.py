"""Divide and Conquer: clusters of the data, each with a slice of the embedding of its own."""

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
from flowmatch.metric_learning.tuples import check_batch


class DividedEmbedding(nn.Module):
    r"""A linear embedding in contiguous slices, each initialised and normalised by itself.

    Args:
        features: Of the trunk.
        dimension: Of the embedding.
        learners: Slices, at most `dimension`; the first ones are longer where it does not divide.

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
        """Embed into every slice.

        Args:
            features: ``[N, features]``.

        Returns:
            ``[N, size]`` of length 1 for each learner.
        """
        return [F.normalize(head(features), dim=1) for head in self.heads]

    def forward(self, features: Tensor) -> Tensor:
        """Embed into all slices together: what is used at test, and to conquer.

        Args:
            features: ``[N, features]``.

        Returns:
            ``[N, dimension]`` of length 1; each slice has the same share of it.
        """
        whole: Tensor = torch.cat(self.slices(features), 1) / len(self.heads) ** 0.5
        return whole


def match_clusters(clusters: Tensor, previous: Tensor, count: int) -> Tensor:
    """Rename clusters so that as many items as possible keep their cluster's number.

    Args:
        clusters: New ones, ``[N]`` of ``0..count - 1``.
        previous: Old ones, ``[N]``; -1 for items that had none.
        count: How many.

    Returns:
        ``[N]``: the new clusters under the old ones' numbers.

    Raises:
        ValueError: Shapes do not fit.

    Example:
        >>> match_clusters(torch.tensor([1, 1, 0]), torch.tensor([0, 0, 0]), 2).tolist()
        [0, 0, 1]

    Reference:
        Sanakoyeu et al., CVPR 2019, section 3.3. Least L1 distance of membership vectors, by the
        Hungarian method.
    """
    if clusters.dim() != 1 or clusters.shape != previous.shape:
        raise ValueError(
            "clusters and previous must be [N], "
            f"got {tuple(clusters.shape)} and {tuple(previous.shape)}"
        )
    numbers = torch.arange(count)
    new, old = ((t.cpu()[:, None] == numbers).long() for t in (clusters, previous))
    # |a - b|_1 of 0 and 1 is |a| + |b| - 2 a.b.
    cost = new.sum(0)[:, None] + old.sum(0) - 2 * new.T @ old
    rows, names = linear_sum_assignment(cost.numpy())
    renamed = torch.empty(count, dtype=torch.int64)
    renamed[torch.from_numpy(rows)] = torch.from_numpy(names)
    found: Tensor = renamed[clusters.cpu()]
    return found


def divide(
    features: Tensor,
    labels: Tensor,
    learners: int,
    previous: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Divide the training data by k-means of its features.

    Done every second epoch, with the trunk's pooled features, not with the embedding.

    Args:
        features: ``[N, F]``; directions count.
        labels: ``[N]``.
        learners: Clusters.
        previous: What this returned the time before; clusters keep their numbers as far as they
            can. None where there was none.
        seed: Of k-means.

    Returns:
        The cluster of each item, ``[N]``; -1 for one that is alone of its class in its cluster:
        it could be no positive.

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
    both = torch.stack([clusters, labels], 1)
    _, place, count = torch.unique(both, dim=0, return_inverse=True, return_counts=True)
    return torch.where(count[place] > 1, clusters, -1)


class ClusterBatches(Sampler[list[int]]):
    """Class-balanced batches, each from one cluster; clusters in turn by their size.

    Args:
        labels: Of all items.
        clusters: From `divide`; items at -1 are left out.
        classes: In a batch, fewer where a cluster has fewer.
        each: Items of a class in a batch.
        seed: Of the draws.

    Raises:
        ValueError: Lengths do not fit.

    Example:
        >>> batches = ClusterBatches([0, 0, 1, 1, 0], torch.tensor([0, 0, 1, 1, -1]), 1, 2)
        >>> sorted(sorted(batch) for batch in batches)
        [[0, 1], [2, 3]]
    """

    def __init__(
        self, labels: Sequence[int], clusters: Tensor, classes: int, each: int, seed: int = 0
    ) -> None:
        if clusters.shape != (len(labels),):
            raise ValueError(f"clusters must be [{len(labels)}], got {tuple(clusters.shape)}")
        self.parts: list[tuple[list[int], ClassBatches]] = []
        for cluster in range(int(clusters.max()) + 1 if len(labels) else 0):
            items = torch.where(clusters == cluster)[0].tolist()
            if items:
                own = [int(labels[i]) for i in items]
                here = min(classes, len(set(own)))
                self.parts.append((items, ClassBatches(own, here, each, seed=seed + cluster)))
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
    r"""A loss for each learner, on its slice and its cluster's batches; then one for all.

    Divide, some epochs at a time: `divide` the training data, draw `ClusterBatches`, and train the
    slice of the batch's cluster. Conquer, the last epochs: train all slices as one vector on
    batches of everything.

    Args:
        learners: Slices.
        loss: Makes a loss of embeddings; called for each learner and once more for all together.

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
        """Make it of margin losses, as in the paper.

        Args:
            learners: Slices.
            classes: Labels are ``0..classes - 1``.

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
        """Compute the loss of one learner, or of all together.

        Args:
            embedding: Makes slices of features.
            features: ``[N, F]``, all of one cluster if `cluster` is given.
            labels: ``[N]``.
            cluster: Which learner; None conquers.

        Returns:
            A scalar.

        Raises:
            ValueError: There is no such learner.
        """
        if cluster is None:
            whole: Tensor = self.all(embedding(features), labels)
            return whole
        if not 0 <= cluster < len(self.learners):
            raise ValueError(f"cluster must be in 0..{len(self.learners) - 1}, got {cluster}")
        own = F.normalize(embedding.heads[cluster](features), dim=1)
        value: Tensor = self.learners[cluster](own, labels)
        return value
