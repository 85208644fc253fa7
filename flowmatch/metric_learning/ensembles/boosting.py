"""BIER and A-BIER: boosted learners on slices of an embedding."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.tuples import check_batch, same_and_different
from flowmatch.units import unit_vectors


class BoostedHeads(nn.Module):
    """Linear heads on shared features, one for each learner.

    Args:
        features: Number of features of the backbone.
        sizes: Dimension of each learner; later learners, trained on harder pairs, are larger.

    Raises:
        ValueError: A size is not positive, or `sizes` is empty.

    Example:
        >>> heads = BoostedHeads(16, sizes=(2, 4))
        >>> parts = heads(torch.randn(3, 16))
        >>> [part.shape[1] for part in parts], heads.combine(parts).shape[1]
        ([2, 4], 6)

    Reference:
        Opitz, Waltner, Possegger & Bischof, BIER: Boosting Independent Embeddings Robustly, ICCV
        2017.
    """

    def __init__(self, features: int, sizes: Sequence[int] = (96, 160, 256)) -> None:
        super().__init__()
        at_least(1, features=features, learners=len(sizes), size=min(sizes, default=1))
        self.heads = nn.ModuleList(nn.Linear(features, size) for size in sizes)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Compute the embedding of each learner.

        Args:
            features: ``[N, features]``.

        Returns:
            Unit vectors ``[N, size]`` of each learner.
        """
        return [unit_vectors(head(features)) for head in self.heads]

    @staticmethod
    def combine(parts: Sequence[Tensor]) -> Tensor:
        """Concatenate the learners, weighted by their sizes, to one embedding for the test.

        Args:
            parts: Unit vectors ``[N, size]`` of each learner.

        Returns:
            ``[N, sum of sizes]``.
        """
        total = sum(part.shape[1] for part in parts)
        return torch.cat([part * (part.shape[1] / total) for part in parts], 1)


class BierLoss(nn.Module):
    r"""Boosted loss of pairs, learner by learner.

    With cosines ``D_ij`` of a learner, ``m = 1`` for positive pairs and ``-c`` for negative ones:
    ``l = log(1 + e^(-a m (D - b)))``, a mean over positive plus a mean over negative pairs, each
    pair weighted by ``w``. ``w`` is 1 for the first learner; each learner adds ``v a m (D - b)`` to
    the pair's total, which starts at 1/2, and the next learner has ``w = sigmoid(-total)``, doubled
    for negative pairs. Later learners therefore focus on the pairs that earlier ones get wrong.
    Weights have no gradient; the sum is divided by the number of learners.

    Args:
        alpha: Slope ``a``.
        beta: Cosine threshold ``b``.
        cost: Cost ``c`` of negative pairs.
        shrinkage: Step ``v`` of the boosting.

    Raises:
        ValueError: An argument is negative.

    Example:
        >>> heads, loss = BoostedHeads(16, sizes=(2, 4)), BierLoss()
        >>> loss(heads(torch.randn(4, 16)), torch.tensor([0, 0, 1, 1])).isfinite().item()
        True

    Reference:
        Opitz et al., BIER, ICCV 2017, section 3.2; constants of the authors' code.
    """

    def __init__(
        self, alpha: float = 2.0, beta: float = 0.5, cost: float = 25.0, shrinkage: float = 0.06
    ) -> None:
        super().__init__()
        at_least(0, alpha=alpha, cost=cost, shrinkage=shrinkage)
        self.alpha, self.beta, self.cost, self.shrinkage = alpha, beta, cost, shrinkage

    def forward(self, parts: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            parts: Output of `BoostedHeads`, unit vectors ``[N, size]`` of each learner.
            labels: ``[N]``.

        Returns:
            A scalar.

        Raises:
            ValueError: Shapes or types do not fit.
        """
        for part in parts:
            check_batch(part, labels)
        same, different = same_and_different(labels)
        boosted = torch.full(same.shape, 0.5, dtype=parts[0].dtype, device=labels.device)
        sign = torch.where(same, 1.0, -self.cost).to(boosted)
        share = same / same.sum().clamp(min=1) + different / different.sum().clamp(min=1)
        weight = torch.ones_like(boosted)
        total = 0 * parts[0].sum()
        for part in parts:
            score = self.alpha * sign * (part @ part.T - self.beta)
            total = total + (share * weight * F.softplus(-score)).sum()
            boosted = boosted + self.shrinkage * score.detach()
            weight = torch.sigmoid(-boosted) * torch.where(same, 1.0, 2.0)
        return total / len(parts)


def _norm_penalty(heads: Sequence[nn.Linear]) -> Tensor:
    """Return the deviation of the units' weight norms from 1, summed over layers."""
    return torch.stack([(head.weight.square().sum(1) - 1).square().mean() for head in heads]).sum()


class ActivationDiversity(nn.Module):
    r"""Auxiliary loss of BIER, which penalises simultaneous activations of learners.

    ``x sum_{i < j} mean (f_i f_j^T)^2 + w sum_i mean_u (|W_iu|^2 - 1)^2`` over the products of all
    entries of two learners, item by item; without the second term the first would shrink the heads.
    The loss has no gradient with respect to the features, hence none to the backbone.

    Args:
        weight: Weight ``x``.
        unit_weight: Weight ``w``.

    Raises:
        ValueError: A weight is negative.

    Example:
        >>> heads = BoostedHeads(16, sizes=(2, 4))
        >>> ActivationDiversity()(heads, torch.randn(4, 16)).isfinite().item()
        True

    Reference:
        Opitz et al., BIER, ICCV 2017, section 3.3.
    """

    def __init__(self, weight: float = 5e-5, unit_weight: float = 1e5) -> None:
        super().__init__()
        at_least(0, weight=weight, unit_weight=unit_weight)
        self.weight, self.unit_weight = weight, unit_weight

    def forward(self, heads: BoostedHeads, features: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            heads: Heads of the learners.
            features: ``[N, features]``.

        Returns:
            A scalar.
        """
        parts = [head(features.detach()) for head in heads.heads]
        total = _norm_penalty(heads.heads)  # type: ignore[arg-type]  # all of them are linear
        total = self.weight * self.unit_weight * total
        for j, second in enumerate(parts):
            for first in parts[:j]:
                products = first[:, :, None] * second[:, None]
                total = total + self.weight * products.square().mean()
        return total


class _Reversal(torch.autograd.Function):
    """The identity function with a negated gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return -grads[0]


def _reverse(x: Tensor) -> Tensor:
    output: Tensor = _Reversal.apply(x)  # type: ignore[no-untyped-call]
    return output


class AdversarialDiversity(nn.Module):
    r"""Auxiliary loss of A-BIER, which makes learners unpredictable from each other.

    For each pair of learners, a regressor g from learner j to learner i maximises
    ``mean (f_i * g(f_j))^2``, and the learners, by a reversed gradient, minimise it. Penalties on
    weight norms and biases of heads and regressors bound both. The loss has no gradient with
    respect to the features.

    Args:
        sizes: Dimension of each learner.
        hidden: Number of hidden units of a regressor.
        weight: Weight of the whole loss.
        unit_weight: Weight of the penalties relative to the rest.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> heads = BoostedHeads(16, sizes=(2, 4))
        >>> AdversarialDiversity((2, 4), hidden=8)(heads, torch.randn(4, 16)).isfinite().item()
        True

    Reference:
        Opitz, Waltner, Possegger & Bischof, Deep Metric Learning with BIER: Boosting Independent
        Embeddings Robustly, PAMI 2018, section 3.4.
    """

    def __init__(
        self,
        sizes: Sequence[int] = (96, 160, 256),
        hidden: int = 512,
        weight: float = 5e-5,
        unit_weight: float = 1e5,
    ) -> None:
        super().__init__()
        at_least(1, hidden=hidden, size=min(sizes, default=1))
        at_least(0, weight=weight, unit_weight=unit_weight)
        self.weight, self.unit_weight = weight, unit_weight
        self.regressors = nn.ModuleDict(
            {
                f"{j}to{i}": nn.Sequential(
                    nn.Linear(sizes[j], hidden), nn.ReLU(), nn.Linear(hidden, sizes[i])
                )
                for j in range(len(sizes))
                for i in range(j)
            }
        )

    def forward(self, heads: BoostedHeads, features: Tensor) -> Tensor:
        """Compute the loss, to be minimised over heads and regressors together.

        Args:
            heads: Heads of the learners, with the sizes given.
            features: ``[N, features]``.

        Returns:
            A scalar.
        """
        parts = [_reverse(head(features.detach())) for head in heads.heads]
        linear = [head for head in heads.heads if isinstance(head, nn.Linear)]
        penalty = _norm_penalty(linear)
        total = 0 * features.sum()
        for name, regressor in self.regressors.items():
            j, i = map(int, name.split("to"))
            total = total - (parts[i] * regressor(parts[j])).square().mean()
            layers = [m for m in regressor.modules() if isinstance(m, nn.Linear)]
            penalty = penalty + _norm_penalty(layers)
            linear += layers
        for layer in linear:
            # Only norms above 1 are penalised: a bias may be small.
            penalty = penalty + (layer.bias.square().sum() - 1).relu()
        return self.weight * (total + self.unit_weight * penalty)
