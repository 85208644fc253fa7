"""HORDE: a loss on high-order moments of a feature map."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.tuples import check_tensors
from flowmatch.units import unit_vectors


class HordeLoss(nn.Module):
    r"""Regularising loss on the high-order moments of a feature map.

    With the features ``x`` of a position: ``phi_2 = (W_1 x) * (W_2 x)``,
    ``phi_k = phi_(k-1) * (W_k x)``, averaged over positions, mapped by a linear layer of each order
    to an embedding and normalised. Matching moments match whole distributions of features instead
    of single positions. It is added to the loss of the embeddings in training and not used in
    tests.

    Args:
        channels: Channels of the feature map.
        loss: Constructor of a loss ``(embeddings [N, dimension], labels [N]) -> scalar``, called
            once for each order.
        orders: Highest order, at least 2.
        width: Dimension of ``phi``.
        dimension: Dimension of the embedding of an order.
        trained: Whether the ``W`` are trained; otherwise they are random signs, whose products
            estimate polynomial kernels (random Maclaurin features).

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from flowmatch.metric_learning.losses import HadsellLoss
        >>> horde = HordeLoss(8, HadsellLoss, orders=3, width=16, dimension=4)
        >>> horde(torch.randn(4, 8, 5, 5), torch.tensor([0, 0, 1, 1])).isfinite().item()
        True

    Reference:
        Jacob, Picard, Histace & Klein, Metric Learning with HORDE: High-Order Regularizer for Deep
        Embeddings, ICCV 2019, section 3.3.
    """

    def __init__(
        self,
        channels: int,
        loss: Callable[[], nn.Module],
        orders: int = 5,
        width: int = 8192,
        dimension: int = 512,
        trained: bool = True,
    ) -> None:
        super().__init__()
        at_least(1, channels=channels, width=width, dimension=dimension)
        at_least(2, orders=orders)
        weights = torch.empty(orders, width, channels)
        for weight in weights:
            nn.init.xavier_uniform_(weight)
        if trained:
            self.weights = nn.Parameter(weights)
        else:
            self.register_buffer("weights", torch.where(weights < 0, -1.0, 1.0))
        self.heads = nn.ModuleList(nn.Linear(width, dimension) for _ in range(orders - 1))
        self.losses = nn.ModuleList(loss() for _ in range(orders - 1))

    def moments(self, features: Tensor) -> list[Tensor]:
        """Compute the embedding of each order.

        Args:
            features: ``[N, C, H, W]``.

        Returns:
            Unit vectors ``[N, dimension]`` of each order from 2 up.

        Raises:
            ValueError: `features` has another shape.
        """
        check_tensors(features=features)
        if features.dim() != 4 or features.shape[1] != self.weights.shape[2]:
            raise ValueError(
                f"features must be [N, {self.weights.shape[2]}, H, W], got {tuple(features.shape)}"
            )
        positions = features.flatten(2).transpose(1, 2)  # [N, HW, C]
        phi = F.linear(positions, self.weights[0])
        embeddings = []
        for weight, head in zip(self.weights[1:], self.heads, strict=True):
            phi = phi * F.linear(positions, weight)
            embeddings.append(unit_vectors(head(phi.mean(1))))
        return embeddings

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Compute the sum of the losses of all orders.

        Args:
            features: ``[N, C, H, W]``.
            labels: ``[N]``.

        Returns:
            A scalar.
        """
        total = 0 * features.sum()
        for moment, loss in zip(self.moments(features), self.losses, strict=True):
            total = total + loss(moment, labels)
        return total
