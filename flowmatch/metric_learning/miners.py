"""Miners, which select pairs or triplets of a batch for a loss: ``miner(embeddings, labels)``."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.metric_learning._extras import metric_learning
from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.tuples import (
    Pairs,
    Triplets,
    Tuples,
    check_batch,
    same_and_different,
)
from flowmatch.ops import pairwise_distance


class Miner(nn.Module):
    """A selection of tuples of a batch: ``miner(embeddings, labels) -> Triplets or Pairs``.

    Attributes:
        kind: Type of the tuples.
    """

    kind: type[Triplets] | type[Pairs] = Triplets

    @torch.no_grad()
    def forward(self, embeddings: Tensor, labels: Tensor) -> Tuples:
        """Select tuples of a batch, without gradients.

        Args:
            embeddings: ``[N, D]``; their lengths are ignored.
            labels: ``[N]``.

        Returns:
            Indices into the batch; empty if the batch has no suitable tuples or embeddings are not
            finite.

        Raises:
            ValueError: Shapes or types do not fit.
        """
        check_batch(embeddings, labels)
        if not len(labels) or not embeddings.isfinite().all():
            empty = labels.new_empty(0, dtype=torch.int64)
            return self.kind(*[empty] * len(self.kind._fields))
        with torch.autocast(embeddings.device.type, enabled=False):
            units = F.normalize(embeddings.float(), dim=1)
            return self.choose(units, labels)

    def choose(self, units: Tensor, labels: Tensor) -> Tuples:
        """Select tuples of unit vectors, ``[N, D]`` float32."""
        raise NotImplementedError


def _sample_columns(weights: Tensor) -> Tensor:
    """Sample one column of each row by its weights, [R, N] -> [R]; no row may be all zero."""
    if not len(weights):
        return torch.empty(0, dtype=torch.int64, device=weights.device)
    return torch.multinomial(weights, 1)[:, 0]


class RandomMiner(Miner):
    """Triplets of each positive pair and a random negative.

    Example:
        >>> [part.tolist() for part in RandomMiner()(torch.eye(3), torch.tensor([0, 0, 1]))]
        [[0, 1], [1, 0], [2, 2]]
    """

    def choose(self, units: Tensor, labels: Tensor) -> Triplets:
        """Sample negatives uniformly."""
        same, different = same_and_different(labels)
        anchor, positive = torch.where(same & different.any(1, keepdim=True))
        return Triplets(anchor, positive, _sample_columns(different[anchor].float()))


class DistanceWeightedMiner(Miner):
    r"""Triplets of each positive pair and a negative, sampled uniformly over distances.

    Distances of random points on a sphere in D dimensions concentrate at ``sqrt(2)``, with density
    ``q(d) ~ d^(D-2) (1 - d^2/4)^((D-3)/2)``; negatives are sampled with weights ``1 / q(d)``.
    Negatives nearer than `cutoff` are weighted as if they were at `cutoff`, because the nearest
    ones are noise; those farther than `largest` have weight 0. If no negative has a weight, all
    have the same.

    Args:
        cutoff: Least distance in the weights.
        largest: Distance beyond which negatives give no loss; 1.4 for the margin loss's defaults.

    Raises:
        ValueError: Not ``0 < cutoff < 2``.

    Example:
        >>> x = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
        >>> triplets = DistanceWeightedMiner(largest=1.0)(x, torch.tensor([0, 0, 1, 2]))
        >>> triplets.negative[1].item()  # the other negative, at distance 1.9, has weight 0
        2

    Reference:
        Wu, Manmatha, Smola & Krähenbühl, Sampling Matters in Deep Embedding Learning, ICCV 2017,
        section 4.1. Equal weights as a fallback: Park et al., RKD, CVPR 2019.
    """

    def __init__(self, cutoff: float = 0.5, largest: float = 1.4) -> None:
        super().__init__()
        if not 0 < cutoff < 2:
            raise ValueError(f"cutoff must be between 0 and 2, got {cutoff}")
        self.cutoff, self.largest = cutoff, largest

    def weights(self, distances: Tensor, different: Tensor, dimension: int) -> Tensor:
        """Compute the sampling weights of the negatives of each anchor.

        Args:
            distances: ``[N, N]``.
            different: Mask of negative pairs, ``[N, N]`` bool.
            dimension: Dimension of the embeddings.

        Returns:
            ``[N, N]`` float64; the largest weight of a row is 1, or 0 for an anchor without
            negatives.
        """
        # float64, and relative to the row's maximum, because exponents are of the order of D.
        d = distances.double().clamp(self.cutoff, 2 - 1e-6)
        second_log = (1 - d.square() / 4).log()
        log_weights = (2 - dimension) * d.log() - (dimension - 3) / 2 * second_log
        allowed = different & (distances < self.largest)
        allowed = torch.where(allowed.any(1, keepdim=True), allowed, different)
        uniform = ~(different & (distances < self.largest)).any(1, keepdim=True)
        log_weights = torch.where(uniform, 0, log_weights).masked_fill(~allowed, -torch.inf)
        top = log_weights.amax(1, keepdim=True)
        return torch.where(top.isfinite(), (log_weights - top).exp(), 0)

    def choose(self, units: Tensor, labels: Tensor) -> Triplets:
        """Sample negatives by their weights."""
        same, different = same_and_different(labels)
        weights = self.weights(pairwise_distance(units, units), different, units.shape[1])
        anchor, positive = torch.where(same & different.any(1, keepdim=True))
        return Triplets(anchor, positive, _sample_columns(weights[anchor]))


class _TripletMiner(Miner):
    """Triplets selected by a comparison of their two distances."""

    def __init__(self, margin: float, kind: str) -> None:
        super().__init__()
        at_least(0, margin=margin)
        self.wrapped = metric_learning("miners").TripletMarginMiner(
            margin=margin,
            type_of_triplets=kind,
            distance=metric_learning("distances").LpDistance(power=2),
        )

    def choose(self, units: Tensor, labels: Tensor) -> Triplets:
        return Triplets(*self.wrapped(units, labels))


class HardMiner(_TripletMiner):
    """All triplets whose negative is not farther than the positive.

    Raises:
        ImportError: pytorch-metric-learning is missing.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
        >>> [part.tolist() for part in HardMiner()(x, torch.tensor([0, 0, 1]))]
        [[0, 1], [1, 0], [2, 2]]

    Reference:
        Schroff, Kalenichenko & Philbin, FaceNet, CVPR 2015, section 3.2.
    """

    def __init__(self) -> None:
        super().__init__(0.0, "hard")


class SemiHardMiner(_TripletMiner):
    """All triplets whose negative is farther than the positive, but by less than the margin.

    Args:
        margin: Margin in squared distances of unit vectors, as in `TripletLoss`.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: `margin` is negative.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.7, -0.714]])
        >>> [part.tolist() for part in SemiHardMiner(0.3)(x, torch.tensor([0, 0, 1]))]
        [[0], [1], [2]]

    Reference:
        Schroff, Kalenichenko & Philbin, FaceNet, CVPR 2015, equation 4.
    """

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__(margin, "semihard")


class BatchHardMiner(Miner):
    """Triplets of each anchor, its farthest positive and its nearest negative.

    Raises:
        ImportError: pytorch-metric-learning is missing.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [-1.0, 0.0]])
        >>> [part.tolist() for part in BatchHardMiner()(x, torch.tensor([0, 0, 1, 1]))]
        [[0, 1, 2, 3], [1, 0, 3, 2], [2, 2, 0, 1]]

    Reference:
        Hermans, Beyer & Leibe, In Defense of the Triplet Loss for Person Re-Identification, 2017,
        equation 5.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wrapped = metric_learning("miners").BatchHardMiner()

    def choose(self, units: Tensor, labels: Tensor) -> Triplets:
        """Delegate to the wrapped miner."""
        return Triplets(*self.wrapped(units, labels))


class EasyPositiveMiner(Miner):
    """Triplets of each anchor, its nearest positive and a negative.

    Nearest positives allow a class to have several clusters.

    Args:
        negative: Negative of an anchor: ``"semihard"``, the nearest of those farther than the
            positive; ``"hard"``, the nearest; ``"easy"``, the farthest.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: `negative` is something else.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0], [0.0, 1.0]])
        >>> triplets = EasyPositiveMiner()(x, torch.tensor([0, 0, 0, 1]))
        >>> [part.tolist() for part in triplets]  # anchor 2 has no negative beyond its positive
        [[0, 1], [1, 0], [3, 3]]

    Reference:
        Xuan, Stylianou & Pless, Improved Embeddings with Easy Positive Triplet Mining, WACV 2020.
    """

    def __init__(self, negative: str = "semihard") -> None:
        super().__init__()
        if negative not in ("semihard", "hard", "easy"):
            raise ValueError(f"negative must be semihard, hard or easy, got {negative!r}")
        self.wrapped = metric_learning("miners").BatchEasyHardMiner(
            pos_strategy="easy", neg_strategy=negative
        )

    def choose(self, units: Tensor, labels: Tensor) -> Triplets:
        """Delegate to the wrapped miner."""
        a, p, b, n = self.wrapped(units, labels)
        if torch.equal(a, b):
            return Triplets(a, p, n)
        # Anchors with a positive or a negative only are left out.
        first, second = torch.where(a[:, None] == b)
        return Triplets(a[first], p[first], n[second])


class MultiSimilarityMiner(Miner):
    """Pairs that are hard relative to the hardest pair of the other kind of the same anchor.

    Negatives are selected if they are more similar than the least similar positive minus
    `epsilon`, positives if they are less similar than the most similar negative plus `epsilon`.

    Args:
        epsilon: Margin of cosines.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: `epsilon` is negative.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0], [0.6, 0.8]])
        >>> [part.tolist() for part in MultiSimilarityMiner()(x, torch.tensor([0, 0, 1, 1]))]
        [[1, 3], [0, 2], [1, 3, 3], [3, 0, 1]]

    Reference:
        Wang, Han, Huang, Dong & Scott, Multi-Similarity Loss, CVPR 2019, section 4.1.
    """

    kind = Pairs

    def __init__(self, epsilon: float = 0.1) -> None:
        super().__init__()
        at_least(0, epsilon=epsilon)
        self.wrapped = metric_learning("miners").MultiSimilarityMiner(epsilon=epsilon)

    def choose(self, units: Tensor, labels: Tensor) -> Pairs:
        """Delegate to the wrapped miner."""
        return Pairs(*self.wrapped(units, labels))


MINERS: dict[str, type[Miner]] = {
    "random": RandomMiner,
    "hard": HardMiner,
    "semi-hard": SemiHardMiner,
    "easy-positive": EasyPositiveMiner,
    "batch-hard": BatchHardMiner,
    "distance-weighted": DistanceWeightedMiner,
    "multi-similarity": MultiSimilarityMiner,
}
