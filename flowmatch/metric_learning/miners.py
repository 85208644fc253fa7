"""Which pairs or triplets of a batch are worth a loss: ``miner(embeddings, labels)``."""

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
    """Chooses among a batch: ``miner(embeddings, labels) -> Triplets or Pairs``, no gradient."""

    gives: type[Triplets] | type[Pairs] = Triplets

    @torch.no_grad()
    def forward(self, embeddings: Tensor, labels: Tensor) -> Tuples:
        """Choose.

        Args:
            embeddings: ``[N, D]``; directions count, lengths do not.
            labels: ``[N]``.

        Returns:
            Indices into the batch; none where the batch has nothing to choose from, or
            embeddings are not finite.

        Raises:
            ValueError: Shapes or types do not fit.
        """
        check_batch(embeddings, labels)
        if not len(labels) or not embeddings.isfinite().all():
            none = labels.new_empty(0, dtype=torch.int64)
            return self.gives(*[none] * len(self.gives._fields))
        with torch.autocast(embeddings.device.type, enabled=False):
            units = F.normalize(embeddings.float(), dim=1)
            return self.choose(units, labels)

    def choose(self, units: Tensor, labels: Tensor) -> Tuples:
        """Choose among vectors of length 1, ``[N, D]`` float32."""
        raise NotImplementedError


def _draw(weights: Tensor) -> Tensor:
    """Draw a column of each row by its weights, [R, N] -> [R]; rows must have some."""
    if not len(weights):
        return torch.empty(0, dtype=torch.int64, device=weights.device)
    return torch.multinomial(weights, 1)[:, 0]


class RandomMiner(Miner):
    """For each positive pair a negative at random.

    Example:
        >>> [part.tolist() for part in RandomMiner()(torch.eye(3), torch.tensor([0, 0, 1]))]
        [[0, 1], [1, 0], [2, 2]]
    """

    def choose(self, units: Tensor, labels: Tensor) -> Triplets:
        """Draw evenly."""
        same, different = same_and_different(labels)
        anchor, positive = torch.where(same & different.any(1, keepdim=True))
        return Triplets(anchor, positive, _draw(different[anchor].float()))


class DistanceWeightedMiner(Miner):
    r"""For each positive pair a negative, all distances being as likely.

    Random points of a sphere in D dimensions are nearly all ``sqrt(2)`` apart, at a density
    ``q(d) ~ d^(D-2) (1 - d^2/4)^((D-3)/2)``; negatives are drawn with weights ``1 / q(d)``. Those
    nearer than `cutoff` weigh as if they were there (nearer ones would be noise), those farther
    than `largest` nothing. Where that leaves none, all weigh the same.

    Args:
        cutoff: Least distance.
        largest: Farther negatives give no loss (1.4 for the margin loss's defaults).

    Raises:
        ValueError: Not ``0 < cutoff < 2``.

    Example:
        >>> x = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
        >>> found = DistanceWeightedMiner(largest=1.0)(x, torch.tensor([0, 0, 1, 2]))
        >>> found.negative[1].item()  # what is 1.9 away weighs nothing
        2

    Reference:
        Wu, Manmatha, Smola & Krähenbühl, Sampling Matters in Deep Embedding Learning, ICCV 2017,
        section 4.1. Even weights as a fallback: Park et al., RKD, CVPR 2019.
    """

    def __init__(self, cutoff: float = 0.5, largest: float = 1.4) -> None:
        super().__init__()
        if not 0 < cutoff < 2:
            raise ValueError(f"cutoff must be between 0 and 2, got {cutoff}")
        self.cutoff, self.largest = cutoff, largest

    def weights(self, distances: Tensor, different: Tensor, dimension: int) -> Tensor:
        """Weigh the negatives of each anchor.

        Args:
            distances: ``[N, N]``.
            different: Who is a negative, ``[N, N]`` bool.
            dimension: D.

        Returns:
            ``[N, N]`` float64; the largest of a row is 1, or all are 0 where there is no negative.
        """
        # float64, and relative to the row's largest: the exponents are of the order of D.
        d = distances.double().clamp(self.cutoff, 2 - 1e-6)
        rest = (1 - d.square() / 4).log()
        log_weights = (2 - dimension) * d.log() - (dimension - 3) / 2 * rest
        allowed = different & (distances < self.largest)
        allowed = torch.where(allowed.any(1, keepdim=True), allowed, different)
        even = ~(different & (distances < self.largest)).any(1, keepdim=True)
        log_weights = torch.where(even, 0, log_weights).masked_fill(~allowed, -torch.inf)
        top = log_weights.amax(1, keepdim=True)
        return torch.where(top.isfinite(), (log_weights - top).exp(), 0)

    def choose(self, units: Tensor, labels: Tensor) -> Triplets:
        """Draw by weight."""
        same, different = same_and_different(labels)
        weights = self.weights(pairwise_distance(units, units), different, units.shape[1])
        anchor, positive = torch.where(same & different.any(1, keepdim=True))
        return Triplets(anchor, positive, _draw(weights[anchor]))


class _TripletMiner(Miner):
    """Keeps triplets by how their two distances compare."""

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
        margin: In squared distances of vectors of length 1, as in `TripletLoss`.

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
    """For each anchor its farthest positive and its nearest negative.

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
        """Call what is wrapped."""
        return Triplets(*self.wrapped(units, labels))


class EasyPositiveMiner(Miner):
    """For each anchor its nearest positive, and a negative that is hard or semi-hard against it.

    Nearest positives let a class keep several clusters.

    Args:
        negative: ``"semihard"``, the nearest of those farther than the positive; ``"hard"``, the
            nearest; ``"easy"``, the farthest.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: `negative` is something else.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0], [0.0, 1.0]])
        >>> found = EasyPositiveMiner()(x, torch.tensor([0, 0, 0, 1]))
        >>> [part.tolist() for part in found]  # anchor 2 has a positive, but no negative behind it
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
        """Call what is wrapped."""
        a, p, b, n = self.wrapped(units, labels)
        if torch.equal(a, b):
            return Triplets(a, p, n)
        # Anchors that found one of both only are no triplets.
        where, other = torch.where(a[:, None] == b)
        return Triplets(a[where], p[where], n[other])


class MultiSimilarityMiner(Miner):
    """Pairs that are hard for their anchor: compared with the hardest of the other kind.

    Negatives more similar than the least similar positive less `epsilon`; positives less similar
    than the most similar negative and `epsilon`.

    Args:
        epsilon: Of cosines.

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

    gives = Pairs

    def __init__(self, epsilon: float = 0.1) -> None:
        super().__init__()
        at_least(0, epsilon=epsilon)
        self.wrapped = metric_learning("miners").MultiSimilarityMiner(epsilon=epsilon)

    def choose(self, units: Tensor, labels: Tensor) -> Pairs:
        """Call what is wrapped."""
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
