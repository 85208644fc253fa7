"""Retrieval and clustering metrics of embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowmatch.metric_learning._extras import scikit_learn
from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.tuples import check_batch, check_tensors
from flowmatch.ops import nearest

_CHUNK = 2**24  # neighbours in memory at a time


@dataclass(frozen=True)
class RetrievalScores:
    """Retrieval metrics in 0..1; NaN if no query has another item of its class.

    Attributes:
        recall: R@K for each requested K.
        precision_at_1: P@1, equal to R@1.
        r_precision: RP.
        map_at_r: MAP@R.
        queries: Number of queries that count, those with another item of their class.
    """

    recall: dict[int, float]
    precision_at_1: float
    r_precision: float
    map_at_r: float
    queries: int


def retrieval_scores(
    embeddings: Tensor,
    labels: Tensor,
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    metric: str = "l2",
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
) -> RetrievalScores:
    r"""Measure exact nearest-neighbour retrieval of the query's class.

    Metrics are means over the queries with R > 0 items of their class in the gallery: R@K, the
    share of queries with at least one of them among the K nearest; P@1; RP, the share of the class
    among the R nearest; MAP@R, ``mean_q 1/R sum_(i <= R) P(i) rel(i)``, with P(i) the precision
    among the i nearest. Of equal distances the smaller index comes first. An embedding that is not
    finite is never retrieved, and retrieves nothing.

    Args:
        embeddings: Queries, ``[N, D]``.
        labels: Classes of the queries, ``[N]``.
        ks: Values of K of R@K.
        metric: ``"l2"``, ``"cosine"`` or ``"dot"``.
        gallery: Embeddings to search, ``[M, D]``; None searches the queries, where each query
            leaves itself out, by its index.
        gallery_labels: Classes of the gallery, ``[M]``.

    Raises:
        ValueError: Shapes or types do not fit, a K is not positive, or one of gallery and its
            labels is missing.

    Example:
        >>> x = torch.tensor([[0.0], [0.1], [5.0], [0.3]])
        >>> scores = retrieval_scores(x, torch.tensor([0, 0, 1, 1]), ks=(1, 2))
        >>> scores.recall
        {1: 0.75, 2: 0.75}

    Reference:
        R@K: Jégou et al., Product Quantization, PAMI 2011, as used by Song et al., CVPR 2016. RP,
        MAP@R: Musgrave, Belongie & Lim, A Metric Learning Reality Check, ECCV 2020.
    """
    check_batch(embeddings, labels)
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels come together, got one of them")
    for k in ks:
        at_least(1, k=k)
    self_search = gallery is None
    if gallery is None or gallery_labels is None:
        gallery, gallery_labels = embeddings, labels
    check_batch(gallery, gallery_labels)
    names, place = torch.unique(gallery_labels, return_inverse=True)
    size = torch.bincount(place, minlength=len(names))
    at = torch.searchsorted(names, labels).clamp(max=max(len(names) - 1, 0))
    present = names[at] == labels if len(names) else torch.zeros_like(labels, dtype=torch.bool)
    R = torch.where(present, size[at], 0) if len(names) else torch.zeros_like(labels)
    R = R - 1 if self_search else R
    queries = torch.where(R > 0)[0]
    if not len(queries):
        return RetrievalScores(dict.fromkeys(ks, torch.nan), torch.nan, torch.nan, torch.nan, 0)
    depth = min(max(*ks, int(R.max()), 1), len(gallery) - self_search)
    sums = torch.zeros(len(ks) + 3, dtype=torch.float64, device=labels.device)
    step = max(1, _CHUNK // (depth + 1))
    for part in torch.split(queries, step):
        index = nearest_others(
            embeddings[part], gallery, depth, metric, part if self_search else None
        )
        hits = (gallery_labels[index.clamp(min=0)] == labels[part, None]) & (index >= 0)
        sums += _count(hits, R[part], ks)
    *recalls, first, r_precision, map_at_r = (sums / len(queries)).tolist()
    recall = dict(zip(ks, recalls, strict=True))
    return RetrievalScores(recall, first, r_precision, map_at_r, len(queries))


def nearest_others(
    queries: Tensor, gallery: Tensor, k: int, metric: str, own: Tensor | None
) -> Tensor:
    """Return the indices of the nearest items of a gallery, without the queries themselves.

    Args:
        queries: ``[N, D]``.
        gallery: ``[M, D]``.
        k: Number of neighbours.
        metric: Distance, as in `flowmatch.ops.nearest`.
        own: Index of each query in the gallery, ``[N]``; None if the queries are not in it.

    Returns:
        ``[N, k]`` int64, from near to far; -1 where there are fewer.
    """
    index = nearest(queries, gallery, k + (own is not None), metric).index
    if own is None:
        return index
    # With ties, a query need not be among its k + 1 nearest: then the last of them is dropped.
    others = index != own[:, None]
    others[:, -1] &= ~others.all(1)
    return index[others].view(len(queries), k)


def _count(hits: Tensor, R: Tensor, ks: Sequence[int]) -> Tensor:
    """Return the sums over queries of R@K for each K, P@1, RP and MAP@R."""
    places = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    within = hits & (places <= R[:, None])
    precision = hits.cumsum(1).double() / places
    recalls = [hits[:, :k].any(1).double().sum() for k in ks]
    first = hits[:, 0].double().sum()
    r_precision = (within.sum(1).double() / R).sum()
    return torch.stack([*recalls, first, r_precision, ((precision * within).sum(1) / R).sum()])


@dataclass(frozen=True)
class ClusteringScores:
    """Agreement of clusters with classes.

    Attributes:
        nmi: Normalised mutual information, divided by the arithmetic mean of the entropies, as in
            scikit-learn today.
        nmi_geometric: Mutual information divided by the geometric mean, as in older papers.
        ami: Adjusted mutual information, 0 for random clusters.
    """

    nmi: float
    nmi_geometric: float
    ami: float


def clustering_scores(embeddings: Tensor, labels: Tensor, seed: int = 0) -> ClusteringScores:
    """Cluster embeddings by k-means, with as many clusters as classes, and compare the two.

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]``.
        seed: Random seed of k-means.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: Shapes or types do not fit, or the batch is empty.

    Example:
        >>> x = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
        >>> round(clustering_scores(x, torch.tensor([3, 3, 1, 1])).nmi, 3)
        1.0

    Reference:
        Vinh, Epps & Bailey, Information Theoretic Measures for Clusterings Comparison, JMLR 2010.
    """
    check_batch(embeddings, labels)
    if not len(labels):
        raise ValueError("embeddings must be [N, D] with N of 1 or more, got none")
    truth = labels.cpu().numpy()
    array = embeddings.detach().float().cpu().numpy()
    k = len(torch.unique(labels))
    means = scikit_learn("cluster").KMeans(n_clusters=k, n_init=1, random_state=seed)
    k_distinct = len(torch.unique(embeddings.detach(), dim=0))
    # With fewer distinct points than clusters, each is a cluster of its own; k-means would warn.
    clusters = (
        means.fit_predict(array)
        if k_distinct >= k
        else torch.unique(embeddings.detach(), dim=0, return_inverse=True)[1].cpu().numpy()
    )
    return compare_clusterings(torch.from_numpy(clusters), torch.from_numpy(truth))


def compare_clusterings(clusters: Tensor, labels: Tensor) -> ClusteringScores:
    """Compare clusters with classes.

    Args:
        clusters: Cluster of each item, ``[N]`` integers.
        labels: Class of each item, ``[N]`` integers.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: Shapes do not fit.

    Example:
        >>> compare_clusterings(torch.tensor([5, 5, 2]), torch.tensor([0, 0, 1])).ami
        1.0
    """
    check_tensors(clusters=clusters, labels=labels)
    if clusters.dim() != 1 or clusters.shape != labels.shape:
        raise ValueError(
            f"clusters and labels must be [N], got {tuple(clusters.shape)}, {tuple(labels.shape)}"
        )
    scores = scikit_learn("metrics")
    a, b = labels.cpu().numpy(), clusters.cpu().numpy()
    nmi = scores.normalized_mutual_info_score
    return ClusteringScores(
        nmi=float(nmi(a, b)),
        nmi_geometric=float(nmi(a, b, average_method="geometric")),
        ami=float(scores.adjusted_mutual_info_score(a, b)),
    )
