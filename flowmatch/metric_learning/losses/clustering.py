"""Losses that judge how a batch clusters, rather than its pairs."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.metric_learning.losses._base import SimilarityLoss, at_least
from flowmatch.metric_learning.tuples import Tuples
from flowmatch.ops import pairwise_distance


class DeepSpectralLoss(SimilarityLoss):
    r"""Deep spectral clustering learning: the embeddings span what indicates the classes.

    ``-tr(C F F^+)``, F the embeddings ``[N, D]``, ``F^+`` its pseudo-inverse, ``C = J J^T`` with
    ``J = Y diag(max(n_c, 1))^(-1/2)`` of the one-hot classes Y: minus the squared length of what
    projecting the k normalised class indicators on the span of F leaves, in ``[-k, 0]``. As
    N vectors of N or more entries span everything, the batch must be larger than D.

    Raises:
        ValueError: The batch is not larger than the embedding.

    Example:
        >>> x = torch.tensor([[1.0], [1.0], [0.0]])
        >>> round(DeepSpectralLoss()(x, torch.tensor([0, 0, 1])).item(), 4)
        -1.0

    Reference:
        Law, Urtasun & Zemel, Deep Spectral Clustering Learning, ICML 2017, equation 9.
    """

    metric = "l2"

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Project the class indicators; in float64, as inverses want it."""
        N, D = embeddings.shape
        if N <= D:
            raise ValueError(
                "DeepSpectralLoss needs more embeddings than they have entries (with fewer its "
                f"gradient is 0), got {N} of {D}"
            )
        _, index = torch.unique(labels, return_inverse=True)
        indicators = F.one_hot(index).double()
        indicators = indicators / indicators.sum(0).sqrt()
        wide = embeddings.double()
        inverse = torch.linalg.pinv(wide, rtol=1e-15 * N)
        # tr(J J^T F F^+) without the [N, N] matrices.
        value: Tensor = -((indicators.T @ wide) * (inverse @ indicators).T).sum()
        return value.to(embeddings.dtype)


class FacilityLocationLoss(SimilarityLoss):
    r"""Facility location: the best wrong clustering of a batch is to score less than the true one.

    With ``F(S) = -sum_i min_{j in S} |x_i - x_j|^2`` of medoids S of ``[N, D]``, and
    ``delta(S) = 1 - NMI`` of the clusters S makes and the classes:
    ``max(0, max_S F(S) + g delta(S) - F~)``, F~ that of one best medoid for each class, fixed to
    the class. The maximum is looked for greedily, one medoid after another, then by exchanging
    medoids within their clusters. NMI is divided by the geometric mean of the entropies.

    Args:
        gamma: ``g``, how much a clustering's being wrong weighs.
        refinements: Most rounds of exchanges.

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

    def __init__(self, gamma: float = 1.0, refinements: int = 5) -> None:
        super().__init__()
        at_least(0, gamma=gamma, refinements=refinements)
        self.gamma, self.refinements = gamma, refinements

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Search on the CPU without gradients, then derive the distances that were decisive."""
        if not len(labels):
            return embeddings.sum()
        squares = pairwise_distance(embeddings, embeddings).square()
        figures = squares.detach().double().cpu()
        _, truth = torch.unique(labels.cpu(), return_inverse=True)
        medoids = self._refined(figures, truth, self._greedy(figures, truth))
        nearest = medoids[figures[:, medoids].argmin(1)].to(labels.device)
        own = _class_medoids(figures, truth)[truth].to(labels.device)
        rows = torch.arange(len(labels), device=labels.device)
        wrong = self.gamma * _unlike(nearest.cpu()[None], truth).item()
        return (squares[rows, own].sum() - squares[rows, nearest].sum() + wrong).relu()

    def _score(self, figures: Tensor, medoids: Tensor, truth: Tensor) -> Tensor:
        """F + g delta for each row of `medoids`, [T, k] -> [T]."""
        least, which = figures[:, medoids].min(2)  # [N, T]
        return -least.sum(0) + self.gamma * _unlike(which.T, truth)

    def _greedy(self, figures: Tensor, truth: Tensor) -> Tensor:
        chosen = torch.empty(0, dtype=torch.int64)
        for _ in range(int(truth.max()) + 1):
            free = torch.ones(len(figures), dtype=torch.bool)
            free[chosen] = False
            candidates = torch.where(free)[0]
            tries = torch.cat([chosen.expand(len(candidates), -1), candidates[:, None]], 1)
            best = self._score(figures, tries, truth).argmax()
            chosen = tries[best]
        return chosen

    def _refined(self, figures: Tensor, truth: Tensor, medoids: Tensor) -> Tensor:
        """Exchange each medoid for the best of its own cluster, until nothing changes."""
        for _ in range(self.refinements):
            before = medoids
            for place in range(len(medoids)):
                members = torch.where(figures[:, medoids].argmin(1) == place)[0]
                if not len(members):  # a duplicate of another medoid
                    continue
                tries = medoids.repeat(len(members) + 1, 1)
                tries[1:, place] = members  # the first row is the medoid itself: it stays if equal
                medoids = tries[self._score(figures, tries, truth).argmax()]
            if torch.equal(before, medoids):
                break
        return medoids


def _class_medoids(figures: Tensor, truth: Tensor) -> Tensor:
    """The best single medoid of each class, [k]."""
    medoids = []
    for label in range(int(truth.max()) + 1):
        members = torch.where(truth == label)[0]
        medoids.append(members[figures[members][:, members].sum(0).argmin()])
    return torch.stack(medoids)


def _unlike(clusters: Tensor, truth: Tensor) -> Tensor:
    """1 - NMI of each row of clusters, [T, N] of 0..N - 1, and the truth, [N]; [T] float64."""
    T, N = clusters.shape
    k = int(truth.max()) + 1
    cells = (torch.arange(T)[:, None] * N + clusters) * k + truth
    joint = torch.bincount(cells.flatten(), minlength=T * N * k).view(T, N, k).double() / N
    of_cluster, of_class = joint.sum(2), joint.sum(1)
    entropies = [-torch.xlogy(p, p).sum(1) for p in (of_cluster, of_class)]
    shared = entropies[0] + entropies[1] + torch.xlogy(joint, joint).sum((1, 2))
    scale = (entropies[0] * entropies[1]).clamp(min=0).sqrt()
    # Of a single class or cluster there is nothing to know: alike only if both are that.
    single = (entropies[0] + entropies[1]) < math.sqrt(torch.finfo(torch.float64).eps)
    likeness = torch.where(scale > 1e-12, shared / scale.clamp(min=1e-12), single.double())
    return 1 - likeness.clamp(0, 1)
