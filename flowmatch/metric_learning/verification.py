"""Verification of pairs by their distances: ROC curves, error rates, thresholds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowmatch.metric_learning.samplers import generator_of
from flowmatch.metric_learning.tuples import check_batch, check_tensors
from flowmatch.ops import pairwise_distance


@dataclass(frozen=True)
class Roc:
    """A receiver operating characteristic, from accepting no pair to accepting all.

    A pair is accepted if its distance is not above the threshold. The curve has one point for each
    distinct distance: pairs at equal distances are accepted together.

    Attributes:
        threshold: Thresholds in ascending order, ``[P]``; the first is -inf.
        false_accept_rate: Share of the negative pairs that are accepted, ``[P]`` float64.
        true_accept_rate: Share of the positive pairs that are accepted, ``[P]`` float64.
    """

    threshold: Tensor
    false_accept_rate: Tensor
    true_accept_rate: Tensor

    @property
    def area(self) -> float:
        """Area under the curve: the chance that a positive pair is nearer than a negative one."""
        return float(torch.trapezoid(self.true_accept_rate, self.false_accept_rate))

    @property
    def equal_error_rate(self) -> float:
        """Rate at which false accepts equal false rejects, linear between the points."""
        gap = self.false_accept_rate + self.true_accept_rate - 1  # false accepts less false rejects
        after = int((gap >= 0).nonzero()[0])
        if after == 0 or gap[after] == 0:
            return float(self.false_accept_rate[after])
        share = float(-gap[after - 1] / (gap[after] - gap[after - 1]))
        low, high = self.false_accept_rate[after - 1], self.false_accept_rate[after]
        return float(low + share * (high - low))

    def false_accept_rate_at(self, recall: float = 0.95, interpolate: bool = False) -> float:
        """Return the false accept rate at a true accept rate; at its default, FPR95.

        The literature has several definitions. The default is that of HardNet and HPatches: the
        first point whose true accept rate is at least `recall`.

        Args:
            recall: True accept rate.
            interpolate: Whether to interpolate linearly between the two points around `recall`, as
                the evaluation of DeepCompare does.

        Returns:
            A share in 0..1.

        Raises:
            ValueError: `recall` is not in 0..1.
        """
        if not 0 <= recall <= 1:
            raise ValueError(f"recall must be in 0..1, got {recall}")
        # A tolerance, because 19 / 20 and 0.95 may differ in binary.
        after = int((self.true_accept_rate >= recall - 1e-12).nonzero()[0])
        high, reached = float(self.false_accept_rate[after]), float(self.true_accept_rate[after])
        if not interpolate or after == 0 or reached <= recall:
            return high
        low, before = (
            float(self.false_accept_rate[after - 1]),
            float(self.true_accept_rate[after - 1]),
        )
        return low + (recall - before) / (reached - before) * (high - low)

    def threshold_for(self, false_accept_rate: float) -> float:
        """Return the largest threshold whose false accept rate does not exceed a limit.

        Choose it on validation pairs; `verify_pairs` measures it on others.

        Args:
            false_accept_rate: Largest share of negative pairs that may be accepted, in 0..1.

        Returns:
            One of the distances; -inf if even the smallest accepts too many pairs.

        Raises:
            ValueError: `false_accept_rate` is not in 0..1.
        """
        if not 0 <= false_accept_rate <= 1:
            raise ValueError(f"false_accept_rate must be in 0..1, got {false_accept_rate}")
        fits = (self.false_accept_rate <= false_accept_rate + 1e-12).nonzero()
        return float(self.threshold[fits[-1, 0]])


def roc(distances: Tensor, same: Tensor) -> Roc:
    """Compute the ROC curve of distances of pairs.

    Args:
        distances: Distance of each pair, ``[P]``, finite.
        same: Whether each pair is positive, of one class, ``[P]`` bool.

    Raises:
        ValueError: Shapes or types do not fit, distances are not finite, or all pairs are positive
            or all negative.

    Example:
        >>> curve = roc(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([1, 1, 0, 0]).bool())
        >>> curve.area, curve.equal_error_rate, curve.false_accept_rate_at(0.95)
        (1.0, 0.0, 0.0)

    Reference:
        Fawcett, An Introduction to ROC Analysis, 2006, algorithm 1 (ties in one step).
    """
    check_tensors(distances=distances, same=same)
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
    """Error rates of a threshold in 0..1; NaN without pairs of that kind.

    Attributes:
        accuracy: Share of all pairs that are decided correctly.
        false_accept_rate: Share of the negative pairs that are accepted.
        false_reject_rate: Share of the positive pairs that are rejected.
    """

    accuracy: float
    false_accept_rate: float
    false_reject_rate: float


def verify_pairs(distances: Tensor, same: Tensor, threshold: float) -> Verification:
    """Measure a threshold on pairs that it was not chosen on.

    Args:
        distances: Distance of each pair, ``[P]``; a pair is accepted if it is not above
            `threshold`, and rejected if it is NaN.
        same: Whether each pair is positive, of one class, ``[P]`` bool.
        threshold: Threshold, such as `Roc.threshold_for` of validation pairs.

    Raises:
        ValueError: Shapes or types do not fit.

    Example:
        >>> distances, same = torch.tensor([0.1, 0.9]), torch.tensor([True, True])
        >>> verify_pairs(distances, same, 0.5).false_reject_rate
        0.5
    """
    check_tensors(distances=distances, same=same)
    if distances.dim() != 1 or distances.shape != same.shape or same.dtype != torch.bool:
        raise ValueError(
            "distances and same must be [P] and bool [P], "
            f"got {tuple(distances.shape)} and {same.dtype} {tuple(same.shape)}"
        )
    accepted = distances.double() <= threshold
    return Verification(
        accuracy=float((accepted == same).double().mean()),
        false_accept_rate=float(accepted[~same].double().mean()),
        false_reject_rate=float((~accepted[same]).double().mean()),
    )


def pair_distances(
    embeddings: Tensor, labels: Tensor, metric: str = "l2", most: int = 2000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the distances of all pairs of embeddings, and which pairs are of one class.

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]``.
        metric: Distance between embeddings, ``"l2"`` or ``"cosine"``.
        most: Largest number of items; of more, a random subset of this size is used.
        seed: Random seed of the subset.

    Returns:
        Distance of each pair and whether it is of one class, ``[N (N - 1) / 2]`` each.

    Raises:
        ValueError: Shapes or types do not fit.

    Example:
        >>> pair_distances(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 0, 1]))
        (tensor([1., 3., 2.]), tensor([ True, False, False]))
    """
    check_batch(embeddings, labels)
    if len(labels) > most:
        subset = torch.randperm(len(labels), generator=generator_of(seed, 0))[:most]
        embeddings, labels = (part[subset.to(part.device)] for part in (embeddings, labels))
    first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    distances = pairwise_distance(embeddings, embeddings, metric)
    return distances[first, second], labels[first] == labels[second]
