"""BIER and A-BIER: learners on slices of an embedding, each boosted by those before it."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.tuples import check_batch, same_and_different


class BoostedHeads(nn.Module):
    """One linear head for each learner, on the same features.

    Args:
        features: Of the trunk.
        sizes: Of the learners; later ones, which see what earlier ones find hard, are larger.

    Raises:
        ValueError: A size is not positive, or there is none.

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
        """Embed for each learner.

        Args:
            features: ``[N, features]``.

        Returns:
            ``[N, size]`` of length 1 for each.
        """
        return [F.normalize(head(features), dim=1) for head in self.heads]

    @staticmethod
    def combine(parts: Sequence[Tensor]) -> Tensor:
        """Make one embedding for the test: parts weigh as their sizes do.

        Args:
            parts: ``[N, size]`` of length 1.

        Returns:
            ``[N, sum of sizes]``.
        """
        total = sum(part.shape[1] for part in parts)
        return torch.cat([part * (part.shape[1] / total) for part in parts], 1)


class BierLoss(nn.Module):
    r"""The boosted loss of pairs, learner by learner.

    With cosines ``D_ij`` of a learner, ``m = 1`` for pairs of a class and ``-c`` for others,
    ``l = log(1 + e^(-a m (D - b)))``, averaged over pairs of a class and over others, each weighted
    by ``w``. ``w`` is 1 for the first learner; each learner adds ``v a m (D - b)`` to a pair's
    account, which starts at 1/2, and the next one's ``w`` is ``sigmoid(-account)``, twice that for
    others. Thus later learners see the pairs that earlier ones judge badly. Weights have no
    gradient; the sum is divided by the number of learners.

    Args:
        alpha: ``a``.
        beta: ``b``.
        cost: ``c``.
        shrinkage: ``v``.

    Raises:
        ValueError: An argument is negative.

    Example:
        >>> heads, loss = BoostedHeads(16, sizes=(2, 4)), BierLoss()
        >>> loss(heads(torch.randn(4, 16)), torch.tensor([0, 0, 1, 1])).isfinite().item()
        True

    Reference:
        Opitz et al., BIER, ICCV 2017, section 3.2; with the constants of the authors' programme.
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
            parts: Of `BoostedHeads`, ``[N, size]`` of length 1 each.
            labels: ``[N]``.

        Returns:
            A scalar.

        Raises:
            ValueError: Shapes or types do not fit.
        """
        for part in parts:
            check_batch(part, labels)
        same, different = same_and_different(labels)
        account = torch.full(same.shape, 0.5, dtype=parts[0].dtype, device=labels.device)
        sign = torch.where(same, 1.0, -self.cost).to(account)
        share = same / same.sum().clamp(min=1) + different / different.sum().clamp(min=1)
        weight = torch.ones_like(account)
        total = 0 * parts[0].sum()
        for part in parts:
            score = self.alpha * sign * (part @ part.T - self.beta)
            total = total + (share * weight * F.softplus(-score)).sum()
            account = account + self.shrinkage * score.detach()
            weight = torch.sigmoid(-account) * torch.where(same, 1.0, 2.0)
        return total / len(parts)


def _unit_columns(heads: Sequence[nn.Linear]) -> Tensor:
    """How far the lengths of units' weights are from 1, summed over layers."""
    return torch.stack([(head.weight.square().sum(1) - 1).square().mean() for head in heads]).sum()


class ActivationDiversity(nn.Module):
    r"""BIER's auxiliary loss: learners are not to fire together.

    ``x sum_{i < j} mean (f_i f_j^T)^2 + w sum_i mean_u (|W_iu|^2 - 1)^2`` over the products of all
    entries of two learners, item by item; without the second term the first would shrink the heads.
    Heads are applied to features without gradient: the trunk does not see this loss.

    Args:
        weight: ``x``.
        unit_weight: ``w``.

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
            heads: Of the learners.
            features: ``[N, features]``.

        Returns:
            A scalar.
        """
        parts = [head(features.detach()) for head in heads.heads]
        total = _unit_columns(heads.heads)  # type: ignore[arg-type]  # all of them are linear
        total = self.weight * self.unit_weight * total
        for j, second in enumerate(parts):
            for first in parts[:j]:
                together = first[:, :, None] * second[:, None]
                total = total + self.weight * together.square().mean()
        return total


class _Reversal(torch.autograd.Function):
    """The identity, whose gradient is turned round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return -grads[0]


def _reverse(x: Tensor) -> Tensor:
    reversed_: Tensor = _Reversal.apply(x)  # type: ignore[no-untyped-call]
    return reversed_


class AdversarialDiversity(nn.Module):
    r"""A-BIER's auxiliary loss: learners are not to be predictable from each other.

    For each pair, a regressor g from learner j to learner i raises ``mean (f_i * g(f_j))^2``, and
    learners, behind a reversal of the gradient, lower it: minimised is minus that, with penalties
    on the lengths of weights (of heads and regressors' outputs) and on biases that keep regressor
    and learners from just growing. Heads are applied to features without gradient.

    Args:
        sizes: Of the learners.
        hidden: Units of a regressor's hidden layer.
        weight: Of everything.
        unit_weight: Of the penalties, within that.

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
        """Compute the loss; minimise it over heads and regressors together.

        Args:
            heads: Of the learners, with the sizes given.
            features: ``[N, features]``.

        Returns:
            A scalar.
        """
        parts = [_reverse(head(features.detach())) for head in heads.heads]
        linear = [head for head in heads.heads if isinstance(head, nn.Linear)]
        penalty = _unit_columns(linear)
        total = 0 * features.sum()
        for name, regressor in self.regressors.items():
            j, i = map(int, name.split("to"))
            total = total - (parts[i] * regressor(parts[j])).square().mean()
            layers = [m for m in regressor.modules() if isinstance(m, nn.Linear)]
            penalty = penalty + _unit_columns(layers)
            linear += layers
        for layer in linear:
            # Beyond 1 only: a bias is free to be small.
            penalty = penalty + (layer.bias.square().sum() - 1).relu()
        return self.weight * (total + self.unit_weight * penalty)
