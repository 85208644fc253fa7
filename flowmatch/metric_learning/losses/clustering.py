"""Losses of the clustering of a whole batch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.metric_learning.losses._base import EmbeddingLoss, at_least
from flowmatch.metric_learning.tuples import Tuples
from flowmatch.ops import pairwise_distance


class DeepSpectralLoss(EmbeddingLoss):
    r"""Deep spectral clustering learning: the embeddings span the class indicators.

    ``-tr(C F F^+)``, F the embeddings ``[N, D]``, ``F^+`` its pseudo-inverse, ``C = J J^T`` with
    ``J = Y diag(max(n_c, 1))^(-1/2)`` of the one-hot classes Y: minus the squared norm of the
    projection of the k normalised class indicators onto the span of F, in ``[-k, 0]``. Because N
    vectors of N or more entries span everything, the batch must be larger than D.

    Raises:
        ValueError: The batch is not larger than the dimension of the embeddings.

    Example:
        >>> x = torch.tensor([[1.0], [1.0], [0.0]])
        >>> round(DeepSpectralLoss()(x, torch.tensor([0, 0, 1])).item(), 4)
        -1.0

    Reference:
        Law, Urtasun & Zemel, Deep Spectral Clustering Learning, ICML 2017, equation 9.
    """

    metric = "l2"
    normalises = False

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Project the class indicators onto the embeddings, in float64 for the inverse."""
        N, D = embeddings.shape
        if N <= D:
            raise ValueError(
                "DeepSpectralLoss needs more embeddings than dimensions (its gradient is 0 "
                f"otherwise), got {N} of {D}"
            )
        _, index = torch.unique(labels, return_inverse=True)
        indicators = F.one_hot(index).double()
        indicators = indicators / indicators.sum(0).sqrt()
        wide = embeddings.double()
        inverse = torch.linalg.pinv(wide, rtol=1e-15 * N)
        # The trace tr(J J^T F F^+) without [N, N] matrices.
        value: Tensor = -((indicators.T @ wide) * (inverse @ indicators).T).sum()
        return value.to(embeddings.dtype)


class FacilityLocationLoss(EmbeddingLoss):
    r"""Facility location: a structured hinge between the best wrong clustering and the true one.

    With ``F(S) = -sum_i min_{j in S} |x_i - x_j|^2`` of medoids S of ``[N, D]``, and
    ``delta(S) = 1 - NMI`` of the clusters of S and the classes:
    ``max(0, max_S F(S) + g delta(S) - F~)``, F~ the score of the classes with their best medoids.
    The maximum is searched greedily, one medoid after another, then by exchanging medoids within
    their clusters. NMI is divided by the geometric mean of the entropies.

    Args:
        gamma: Weight ``g`` of the clustering error.
        refinements: Largest number of rounds of exchanges.

    Raises:
        ValueError: An argument is negative.

    Example:
        >>> x = torch.tensor([[0.0], [5.0], [5.0], [0.0]])
        >>> loss = FacilityLocationLoss()
        >>> loss(x, torch.tensor([0, 1, 1, 0])).item(), loss(x, torch.tensor([0, 0, 1, 1])).item()
        (0.0, 51.0)

    Reference:
        Song, Jegelka, Rathod & Murphy, Deep Metric Learning via Facility Location, CVPR 2017.
    """

    metric = "l2"
    normalises = False

    def __init__(self, gamma: float = 1.0, refinements: int = 5) -> None:
        super().__init__()
        at_least(0, gamma=gamma, refinements=refinements)
        self.gamma, self.refinements = gamma, refinements

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Search on the CPU without gradients, then differentiate the decisive distances."""
        if not len(labels):
            return embeddings.sum()
        squares = pairwise_distance(embeddings, embeddings).square()
        costs = squares.detach().double().cpu()
        _, truth = torch.unique(labels.cpu(), return_inverse=True)
        medoids = self._refine(costs, truth, self._search(costs, truth))
        nearest = medoids[costs[:, medoids].argmin(1)].to(labels.device)
        own = _class_medoids(costs, truth)[truth].to(labels.device)
        rows = torch.arange(len(labels), device=labels.device)
        error = self.gamma * _clustering_error(nearest.cpu()[None], truth).item()
        return (squares[rows, own].sum() - squares[rows, nearest].sum() + error).relu()

    def _score(self, costs: Tensor, medoids: Tensor, truth: Tensor) -> Tensor:
        """Return F + g delta of each row of `medoids`, [T, k] -> [T]."""
        least, cluster = costs[:, medoids].min(2)  # [N, T]
        return -least.sum(0) + self.gamma * _clustering_error(cluster.T, truth)

    def _search(self, costs: Tensor, truth: Tensor) -> Tensor:
        """Add the best medoids one by one."""
        medoids = torch.empty(0, dtype=torch.int64)
        for _ in range(int(truth.max()) + 1):
            free = torch.ones(len(costs), dtype=torch.bool)
            free[medoids] = False
            candidates = torch.where(free)[0]
            trials = torch.cat([medoids.expand(len(candidates), -1), candidates[:, None]], 1)
            best = self._score(costs, trials, truth).argmax()
            medoids = trials[best]
        return medoids

    def _refine(self, costs: Tensor, truth: Tensor, medoids: Tensor) -> Tensor:
        """Exchange each medoid for the best one of its cluster, until nothing changes."""
        for _ in range(self.refinements):
            before = medoids
            for place in range(len(medoids)):
                members = torch.where(costs[:, medoids].argmin(1) == place)[0]
                if not len(members):  # a duplicate of another medoid
                    continue
                trials = medoids.repeat(len(members) + 1, 1)
                trials[1:, place] = members  # the first row is unchanged, and wins ties
                medoids = trials[self._score(costs, trials, truth).argmax()]
            if torch.equal(before, medoids):
                break
        return medoids


def _class_medoids(costs: Tensor, truth: Tensor) -> Tensor:
    """Return the best single medoid of each class, [k]."""
    medoids = []
    for label in range(int(truth.max()) + 1):
        members = torch.where(truth == label)[0]
        medoids.append(members[costs[members][:, members].sum(0).argmin()])
    return torch.stack(medoids)


def _clustering_error(clusters: Tensor, truth: Tensor) -> Tensor:
    """Return 1 - NMI of each row of clusters, [T, N] in 0..N - 1, and the classes; [T] float64."""
    T, N = clusters.shape
    k = int(truth.max()) + 1
    cells = (torch.arange(T)[:, None] * N + clusters) * k + truth
    joint = torch.bincount(cells.flatten(), minlength=T * N * k).view(T, N, k).double() / N
    entropies = [-torch.xlogy(p, p).sum(1) for p in (joint.sum(2), joint.sum(1))]
    mutual = entropies[0] + entropies[1] + torch.xlogy(joint, joint).sum((1, 2))
    scale = (entropies[0] * entropies[1]).clamp(min=0).sqrt()
    # NMI is undefined for a single cluster or class; it counts as 1 only if both are single.
    single = (entropies[0] + entropies[1]) < math.sqrt(torch.finfo(torch.float64).eps)
    nmi = torch.where(scale > 1e-12, mutual / scale.clamp(min=1e-12), single.double())
    return 1 - nmi.clamp(0, 1)
