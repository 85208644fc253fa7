"""Losses that compare each positive pair with all negatives of the batch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.metric_learning._extras import metric_learning
from flowmatch.metric_learning.losses._base import EmbeddingLoss, WrappedLoss, at_least
from flowmatch.metric_learning.tuples import Tuples, as_pairs, as_triplets
from flowmatch.ops import pairwise_distance


class LiftedStructureLoss(EmbeddingLoss):
    r"""Lifted structured embedding: each positive pair against all negatives of both its items.

    ``1/2 mean_{(i, j) same} max(0, log(sum_{k not i's} e^(m - d_ik) + sum_{k not j's} e^(m - d_jk))
    + d_ij)^2`` with ``d = |x_i - x_j|`` of ``[N, D]``, not normalised. A pair without negatives
    counts as 0. With the tuples of a miner, k are the negatives of its pairs.

    Args:
        margin: Distance margin ``m``.

    Raises:
        ValueError: `margin` is negative.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [1.0], [0.0]])
        >>> round(LiftedStructureLoss()(x, torch.tensor([0, 0, 1])).item(), 4)
        2.6756

    Reference:
        Song, Xiang, Jegelka & Savarese, Deep Metric Learning via Lifted Structured Feature
        Embedding, CVPR 2016, equation 4.
    """

    takes_tuples = True
    metric = "l2"
    normalises = False

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        at_least(0, margin=margin)
        self.margin = margin

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Sum the negatives of each item once, in ``[N, N]`` of memory, then compare pairs."""
        a, p, b, n = as_pairs(tuples, labels)
        distances = pairwise_distance(embeddings, embeddings)
        counts = torch.zeros_like(distances)  # a miner may select a negative several times
        counts.index_put_((b, n), counts.new_ones(len(b)), accumulate=True)
        repelled = (counts > 0).any(1)
        push = torch.where(repelled[:, None], self.margin - distances + counts.log(), 0)
        push = push.logsumexp(1).masked_fill(~repelled, -torch.inf)
        compared = repelled[a] | repelled[p]
        if not compared.any():
            return 0 * embeddings.sum()
        first, second = a[compared], p[compared]
        terms = torch.logaddexp(push[first], push[second]) + distances[first, second]
        return terms.relu().square().sum() / (2 * len(a))


class NPairsLoss(WrappedLoss):
    r"""N-pairs: with one pair per class, a softmax that identifies the partner of each anchor.

    ``mean_i log(1 + sum_{j != i} e^(x_i . y_j - x_i . y_i)) + w mean |x|^2``, where ``(x_i, y_i)``
    is the first pair of class i in the batch ``[N, D]``. Embeddings are not normalised, hence the
    second term, over the whole batch.

    Args:
        weight: Weight ``w`` of the embeddings' squared norm.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: `weight` is negative.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> round(NPairsLoss()(x, torch.tensor([0, 0, 1, 1])).item(), 4)
        0.3183

    Reference:
        Sohn, Improved Deep Metric Learning with Multi-class N-pair Loss Objective, NIPS 2016,
        equation 7.
    """

    takes_tuples = True
    normalises = False

    def __init__(self, weight: float = 0.005) -> None:
        at_least(0, weight=weight)
        super().__init__(
            metric_learning("losses").NPairsLoss(
                distance=metric_learning("distances").DotProductSimilarity(
                    normalize_embeddings=False
                ),
                embedding_regularizer=metric_learning("regularizers").LpRegularizer(power=2),
                embedding_reg_weight=weight,
            )
        )


class AngularLoss(WrappedLoss):
    r"""Angular loss: an upper bound on the angle at the negative of a triplet.

    ``mean_{(a, p) same} log(1 + sum_n e^(4 tan^2(alpha) (f_a + f_p) . f_n - 2 (1 + tan^2(alpha))
    f_a . f_p))`` with ``f = x / |x|`` of ``[N, D]``. Unlike a margin, an angle is independent of
    scale.

    Args:
        degrees: Largest angle ``alpha``; the paper's best are 45 (birds, cars) and 36 (products).

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: `degrees` is not between 0 and 90.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> round(AngularLoss()(x, torch.tensor([0, 0, 1])).item(), 4)
        0.0181

    Reference:
        Wang, Zhou, Wen, Liu & Lin, Deep Metric Learning with Angular Loss, ICCV 2017, equation 8.
    """

    takes_tuples = True

    def __init__(self, degrees: float = 45.0) -> None:
        if not 0 < degrees < 90:
            raise ValueError(f"degrees must be between 0 and 90, got {degrees}")
        super().__init__(metric_learning("losses").AngularLoss(alpha=degrees))

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Normalise embeddings; the wrapped loss does not normalise negatives."""
        units = F.normalize(embeddings, dim=1)
        # The wrapped loss normalises anchors again, which would lengthen those without a direction.
        short = units.detach().square().sum(1, keepdim=True) < 0.5
        return super().compute(units.masked_fill(short, 0), labels, tuples)


class NPairsAngularLoss(EmbeddingLoss):
    r"""Sum of the N-pairs and the angular loss, the best variant of the angular paper.

    ``NPairsLoss + w AngularLoss`` of ``[N, D]``.

    Args:
        degrees: Largest angle of the angular loss.
        weight: Weight ``w`` of the angular loss.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: An argument is out of range.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> round(NPairsAngularLoss()(x, torch.tensor([0, 0, 1, 1])).item(), 4)
        0.3902

    Reference:
        Wang et al., Deep Metric Learning with Angular Loss, ICCV 2017, equation 10.
    """

    takes_tuples = True
    normalises = False  # the angular loss does it

    def __init__(self, degrees: float = 45.0, weight: float = 2.0) -> None:
        super().__init__()
        at_least(0, weight=weight)
        self.pairs = NPairsLoss()
        self.angular = AngularLoss(degrees)
        self.weight = weight

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Compute the weighted sum of the two losses."""
        total: Tensor = self.pairs(embeddings, labels, tuples)
        angular: Tensor = self.angular(embeddings, labels, tuples)
        return total + self.weight * angular


class MarginLoss(WrappedLoss):
    r"""Margin loss: hinges of distances around a learned boundary of each class.

    ``1/n sum max(0, d_ap - beta_c + m) + max(0, beta_c - d_an + m) + nu beta_c`` over triplets, c
    the anchor's class, n the number of maxima that are not 0; 0 if n is 0. ``d = |f_a - f_b|``,
    ``f = x / |x|`` of ``[N, D]``. Intended for triplets of `DistanceWeightedMiner`.

    Args:
        classes: Number of classes; labels are ``0..classes - 1``.
        margin: Margin ``m``.
        beta: Initial boundaries; they need a learning rate of their own, 5e-4 to 0.1.
        nu: Weight ``nu`` of the boundaries, once for each triplet, as in the authors' code.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: An argument is out of range.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> round(MarginLoss(classes=2)(x, torch.tensor([0, 0, 1])).item(), 4)
        0.7428

    Reference:
        Wu, Manmatha, Smola & Krähenbühl, Sampling Matters in Deep Embedding Learning, ICCV 2017,
        section 4.2.
    """

    takes_tuples = True

    def __init__(
        self, classes: int, margin: float = 0.2, beta: float = 1.2, nu: float = 0.0
    ) -> None:
        at_least(0, margin=margin, beta=beta, nu=nu)
        at_least(1, classes=classes)
        super().__init__(
            metric_learning("losses").MarginLoss(
                margin=margin, nu=nu, beta=beta, learn_beta=True, num_classes=classes
            ),
            classes,
        )

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Delegate triplets to the wrapped loss, which would compare all pairs with all others."""
        triplets = None if tuples is None else as_triplets(tuples, labels)
        return super().compute(embeddings, labels, triplets)


class MultiSimilarityLoss(WrappedLoss):
    r"""Multi-similarity: pairs weighted by their own similarity and by the anchor's other pairs.

    ``mean_i 1/a log(1 + sum_{same} e^(-a (s_ik - l))) + 1/b log(1 + sum_{different}
    e^(b (s_ik - l)))`` with ``s`` the cosine, over ``[N, D]``. Intended for pairs of
    `MultiSimilarityMiner`; the two together are also known as general pair weighting (GPW).

    Args:
        alpha: Scale ``a`` of positive pairs.
        beta: Scale ``b`` of negative pairs.
        base: Cosine threshold ``l``.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: `alpha` or `beta` is not positive.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> round(MultiSimilarityLoss()(x, torch.tensor([0, 0, 1])).item(), 4)
        0.1044

    Reference:
        Wang, Han, Huang, Dong & Scott, Multi-Similarity Loss with General Pair Weighting for Deep
        Metric Learning, CVPR 2019, equation 15.
    """

    takes_tuples = True

    def __init__(self, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5) -> None:
        at_least(math.ulp(0), alpha=alpha, beta=beta)
        super().__init__(
            metric_learning("losses").MultiSimilarityLoss(alpha=alpha, beta=beta, base=base)
        )
