"""How well embeddings retrieve their class, and how they cluster."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowmatch.metric_learning._extras import scikit_learn
from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.tuples import check_batch
from flowmatch.ops import nearest

_CHUNK = 2**24  # neighbours that are held at once


@dataclass(frozen=True)
class RetrievalScores:
    """What `retrieval_scores` measures, shares in 0..1; NaN where no query has anything to find.

    Attributes:
        recall: R@K for each K asked for.
        precision_at_1: P@1, which is R@1.
        r_precision: RP.
        map_at_r: MAP@R.
        queries: How many had something to find, and count.
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
    r"""Retrieve by nearest neighbours, exactly, and count what is of the query's class.

    Over queries that have R > 0 of their class to find: R@K, the share with at least one among the
    K nearest; P@1; RP, the mean share of their class among the R nearest; MAP@R,
    ``mean_q 1/R sum_(i <= R) P(i) rel(i)``, P(i) the precision among the i nearest. Of equal
    distances the smaller index comes first. An embedding that is not finite is found by nobody, and
    finds nothing.

    Args:
        embeddings: Queries, ``[N, D]``.
        labels: ``[N]``.
        ks: The K of R@K.
        metric: ``"l2"``, ``"cosine"`` or ``"dot"``.
        gallery: What is searched, ``[M, D]``; None searches the queries, each without itself, which
            is left out by its index, not its distance.
        gallery_labels: ``[M]``.

    Raises:
        ValueError: Shapes or types do not fit, a K is not positive, or one of gallery and its
            labels is missing.

    Example:
        >>> x = torch.tensor([[0.0], [0.1], [5.0], [0.3]])
        >>> scores = retrieval_scores(x, torch.tensor([0, 0, 1, 1]), ks=(1, 2))
        >>> scores.recall
        {1: 0.75, 2: 0.75}

    Reference:
        R@K: Jégou et al., Product Quantization, PAMI 2011, as Song et al., CVPR 2016, use it. RP,
        MAP@R: Musgrave, Belongie & Lim, A Metric Learning Reality Check, ECCV 2020.
    """
    check_batch(embeddings, labels)
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels come together, got one of them")
    for k in ks:
        at_least(1, k=k)
    itself = gallery is None
    if gallery is None or gallery_labels is None:
        gallery, gallery_labels = embeddings, labels
    check_batch(gallery, gallery_labels)
    names, place = torch.unique(gallery_labels, return_inverse=True)
    size = torch.bincount(place, minlength=len(names))
    at = torch.searchsorted(names, labels).clamp(max=max(len(names) - 1, 0))
    present = names[at] == labels if len(names) else torch.zeros_like(labels, dtype=torch.bool)
    R = torch.where(present, size[at], 0) if len(names) else torch.zeros_like(labels)
    R = R - 1 if itself else R
    queries = torch.where(R > 0)[0]
    if not len(queries):
        return RetrievalScores(dict.fromkeys(ks, torch.nan), torch.nan, torch.nan, torch.nan, 0)
    wanted = min(max(*ks, int(R.max()), 1), len(gallery) - itself)
    sums = torch.zeros(len(ks) + 3, dtype=torch.float64, device=labels.device)
    step = max(1, _CHUNK // (wanted + 1))
    for some in torch.split(queries, step):
        index = _neighbours(embeddings[some], gallery, wanted, metric, some if itself else None)
        found = (gallery_labels[index.clamp(min=0)] == labels[some, None]) & (index >= 0)
        sums += _count(found, R[some], ks)
    *recalls, first, r_precision, map_at_r = (sums / len(queries)).tolist()
    recall = dict(zip(ks, recalls, strict=True))
    return RetrievalScores(recall, first, r_precision, map_at_r, len(queries))


def _neighbours(
    queries: Tensor, gallery: Tensor, k: int, metric: str, own: Tensor | None
) -> Tensor:
    """Indices of the k nearest, [N, k], without each query's own index."""
    index = nearest(queries, gallery, k + (own is not None), metric).index
    if own is None:
        return index
    # Among equals it need not be first, and need not be among the k + 1 at all: then the last goes.
    others = index != own[:, None]
    others[:, -1] &= ~others.all(1)
    return index[others].view(len(queries), k)


def _count(found: Tensor, R: Tensor, ks: Sequence[int]) -> Tensor:
    """Sums over queries of R@K for each K, P@1, RP and MAP@R."""
    places = torch.arange(1, found.shape[1] + 1, device=found.device)
    within = found & (places <= R[:, None])
    precision = found.cumsum(1).double() / places
    recalls = [found[:, :k].any(1).double().sum() for k in ks]
    first = found[:, 0].double().sum()
    r_precision = (within.sum(1).double() / R).sum()
    return torch.stack([*recalls, first, r_precision, ((precision * within).sum(1) / R).sum()])


@dataclass(frozen=True)
class ClusteringScores:
    """What `clustering_scores` measures.

    Attributes:
        nmi: Normalised mutual information, by the arithmetic mean of the entropies, as scikit-learn
            has it today.
        nmi_geometric: By the geometric mean, as older papers have it.
        ami: Adjusted for chance: 0 for random clusters.
    """

    nmi: float
    nmi_geometric: float
    ami: float


def clustering_scores(embeddings: Tensor, labels: Tensor, seed: int = 0) -> ClusteringScores:
    """Cluster by k-means, as many clusters as classes, and compare the two.

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]``.
        seed: Of k-means.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: Shapes or types do not fit, or there is nothing to cluster.

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
    # Fewer distinct points than clusters are clusters as they are; k-means would warn.
    clusters = (
        means.fit_predict(array)
        if k_distinct >= k
        else torch.unique(embeddings.detach(), dim=0, return_inverse=True)[1].cpu().numpy()
    )
    return compare_clusterings(torch.from_numpy(clusters), torch.from_numpy(truth))


def compare_clusterings(clusters: Tensor, labels: Tensor) -> ClusteringScores:
    """Compare given clusters with classes.

    Args:
        clusters: ``[N]`` whole numbers.
        labels: ``[N]`` whole numbers.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: Shapes do not fit.

    Example:
        >>> compare_clusterings(torch.tensor([5, 5, 2]), torch.tensor([0, 0, 1])).ami
        1.0
    """
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
