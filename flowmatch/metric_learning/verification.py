"""Same or not: curves, error rates and thresholds of distances of pairs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowmatch.metric_learning.samplers import generator_of
from flowmatch.metric_learning.tuples import check_batch
from flowmatch.ops import pairwise_distance


@dataclass(frozen=True)
class Roc:
    """A receiver operating characteristic, from accepting nothing to accepting everything.

    A pair is accepted if its distance is not above the threshold. Points are those where distances
    differ: what is equally far is accepted together.

    Attributes:
        threshold: ``[P]`` ascending; the first is -inf.
        false_accepts: Share of the different pairs that are accepted, ``[P]`` float64.
        true_accepts: Share of the same pairs that are accepted, ``[P]`` float64.
    """

    threshold: Tensor
    false_accepts: Tensor
    true_accepts: Tensor

    @property
    def area(self) -> float:
        """Area under the curve: the chance that a same pair is nearer than a different one."""
        return float(torch.trapezoid(self.true_accepts, self.false_accepts))

    @property
    def equal_error_rate(self) -> float:
        """Where as large a share is falsely accepted as falsely rejected, between points linear."""
        gap = self.false_accepts + self.true_accepts - 1  # false accepts less false rejects
        after = int((gap >= 0).nonzero()[0])
        if after == 0 or gap[after] == 0:
            return float(self.false_accepts[after])
        share = float(-gap[after - 1] / (gap[after] - gap[after - 1]))
        low, high = self.false_accepts[after - 1], self.false_accepts[after]
        return float(low + share * (high - low))

    def false_accepts_at(self, recall: float = 0.95, interpolate: bool = False) -> float:
        """Give the share of false accepts at a share of true ones: FPR95 at its default.

        Three definitions are about. The default here is that of HardNet and HPatches: the first
        point whose recall is at least that much.

        Args:
            recall: Share of the same pairs to accept.
            interpolate: Between the points beside it, linearly, as DeepCompare's evaluation does.

        Returns:
            A share in 0..1.

        Raises:
            ValueError: `recall` is not in 0..1.
        """
        if not 0 <= recall <= 1:
            raise ValueError(f"recall must be in 0..1, got {recall}")
        # Shares of small sets, 19 of 20, are not what 0.95 is in binary.
        after = int((self.true_accepts >= recall - 1e-12).nonzero()[0])
        high, reached = float(self.false_accepts[after]), float(self.true_accepts[after])
        if not interpolate or after == 0 or reached <= recall:
            return high
        low, before = float(self.false_accepts[after - 1]), float(self.true_accepts[after - 1])
        return low + (recall - before) / (reached - before) * (high - low)

    def threshold_for(self, false_accepts: float) -> float:
        """Give the largest threshold that accepts no larger share of different pairs.

        Choose it on validation pairs; what it does on others, `verify` tells.

        Args:
            false_accepts: The share that is wanted at most, in 0..1.

        Returns:
            A distance that occurs; -inf if even the smallest accepts too many.

        Raises:
            ValueError: `false_accepts` is not in 0..1.
        """
        if not 0 <= false_accepts <= 1:
            raise ValueError(f"false_accepts must be in 0..1, got {false_accepts}")
        fits = (self.false_accepts <= false_accepts + 1e-12).nonzero()
        return float(self.threshold[fits[-1, 0]])


def roc(distances: Tensor, same: Tensor) -> Roc:
    """Count accepts at every threshold.

    Args:
        distances: Of pairs, ``[P]`` finite; small is alike.
        same: Which pairs are the same, ``[P]`` bool.

    Raises:
        ValueError: Shapes or types do not fit, distances are not finite, or pairs are all the same
            or all different.

    Example:
        >>> curve = roc(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([1, 1, 0, 0]).bool())
        >>> curve.area, curve.equal_error_rate, curve.false_accepts_at(0.95)
        (1.0, 0.0, 0.0)

    Reference:
        Fawcett, An Introduction to ROC Analysis, 2006, algorithm 1 (ties in one step).
    """
    if distances.dim() != 1 or distances.shape != same.shape or same.dtype != torch.bool:
        raise ValueError(
            "distances and same must be [P] and bool [P], "
            f"got {tuple(distances.shape)} and {same.dtype} {tuple(same.shape)}"
        )
    if not distances.isfinite().all():
        raise ValueError(f"distances must be finite, got {int((~distances.isfinite()).sum())} not")
    if not len(same) or same.all() or not same.any():
        raise ValueError(f"pairs must be of both kinds, got {int(same.sum())} same of {len(same)}")
    values, order = distances.detach().double().sort()
    hits = same[order].double()
    last = torch.ones_like(order, dtype=torch.bool)
    last[:-1] = values[1:] != values[:-1]
    true, false = (part.cumsum(0)[last] / part.sum() for part in (hits, 1 - hits))
    zero = values.new_zeros(1)
    return Roc(
        torch.cat([zero - torch.inf, values[last]]),
        torch.cat([zero, false]),
        torch.cat([zero, true]),
    )


@dataclass(frozen=True)
class Verification:
    """What a threshold does to pairs, shares in 0..1; NaN where there are no such pairs.

    Attributes:
        accuracy: Pairs that are judged rightly.
        false_accepts: Different pairs that are accepted.
        false_rejects: Same pairs that are not.
    """

    accuracy: float
    false_accepts: float
    false_rejects: float


def verify(distances: Tensor, same: Tensor, threshold: float) -> Verification:
    """Judge pairs by a threshold that was chosen elsewhere.

    Args:
        distances: ``[P]``; accepted if not above `threshold`; NaN is not.
        same: ``[P]`` bool.
        threshold: From `Roc.threshold_for` of validation pairs.

    Raises:
        ValueError: Shapes or types do not fit.

    Example:
        >>> verify(torch.tensor([0.1, 0.9]), torch.tensor([True, True]), 0.5).false_rejects
        0.5
    """
    if distances.dim() != 1 or distances.shape != same.shape or same.dtype != torch.bool:
        raise ValueError(
            "distances and same must be [P] and bool [P], "
            f"got {tuple(distances.shape)} and {same.dtype} {tuple(same.shape)}"
        )
    accepted = distances.double() <= threshold
    return Verification(
        accuracy=float((accepted == same).double().mean()),
        false_accepts=float(accepted[~same].double().mean()),
        false_rejects=float((~accepted[same]).double().mean()),
    )


def distances_of_pairs(
    embeddings: Tensor, labels: Tensor, metric: str = "l2", most: int = 2000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """List the distances of all pairs, and which are of one class.

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]``.
        metric: ``"l2"`` or ``"cosine"``.
        most: Of more items than that, so many at random.
        seed: Of that choice.

    Returns:
        Distances and whether they are of one class, each pair once.

    Raises:
        ValueError: Shapes or types do not fit.

    Example:
        >>> distances_of_pairs(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 0, 1]))
        (tensor([1., 3., 2.]), tensor([ True, False, False]))
    """
    check_batch(embeddings, labels)
    if len(labels) > most:
        some = torch.randperm(len(labels), generator=generator_of(seed, 0))[:most]
        embeddings, labels = (part[some.to(part.device)] for part in (embeddings, labels))
    first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    distances = pairwise_distance(embeddings, embeddings, metric)
    return distances[first, second], labels[first] == labels[second]
