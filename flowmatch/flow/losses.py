"""What training minimises, for networks that give several flows. No loss knows a network."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def robust_flow_loss(
    flows: Sequence[Tensor], truth: Tensor, weights: Sequence[float], power: float = 0.7
) -> Tensor:
    """Compare every flow with the truth at its own size, in pixels of the full resolution.

    ``sum_k weights[k] * mean((|du| + |dv| + 0.01) ** power)``: outliers, such as what is hidden in
    the second frame, pull less than in a squared or absolute error.

    Args:
        flows: Flows of a network, ``[B, 2, h_k, w_k]``, in pixels of their own resolution.
        truth: True flow, ``[B, 2, H, W]``, everywhere known.
        weights: One for each flow.
        power: The exponent; 1 is the absolute error.

    Raises:
        ValueError: There are not as many weights as flows.

    Example:
        >>> truth = torch.ones(1, 2, 8, 8)
        >>> robust_flow_loss([truth, truth[..., ::2, ::2] / 2], truth, [1.0, 1.0], power=1.0)
        tensor(0.0200)

    Reference:
        Sun et al., PWC-Net, CVPR 2018, equation 3 (the robust fine-tuning loss, with another
        exponent).
    """
    total = truth.new_zeros(())
    for error, weight in zip(_errors(flows, truth, weights), weights, strict=True):
        total = total + weight * (error.abs().sum(dim=1) + 0.01).pow(power).mean()
    return total


# FlowNet's, from the finest level to the coarsest: the coarsest weighs most.
FLOWNET_WEIGHTS = (0.005, 0.01, 0.02, 0.08, 0.32)


def multiscale_epe(
    flows: Sequence[Tensor], truth: Tensor, weights: Sequence[float] = FLOWNET_WEIGHTS
) -> Tensor:
    """Sum the endpoint errors of all levels, as FlowNet was trained.

    ``sum_k weights[k] * sum_pixels |flow_k - truth_k| / 20 / B``, with flows in pixels of the full
    resolution: the sum, not the mean, gives each level the paper's weight.

    Args:
        flows: Flows of a network, finest first, in pixels of their own resolution.
        truth: True flow, ``[B, 2, H, W]``.
        weights: One for each flow, finest first.

    Raises:
        ValueError: There are not as many weights as flows.

    Example:
        >>> truth = torch.ones(1, 2, 8, 8)
        >>> multiscale_epe([truth[..., ::4, ::4] / 4], truth, [1.0])
        tensor(0.)

    Reference:
        Dosovitskiy et al., FlowNet, ICCV 2015, section 5.1; weights of the released Caffe models.
    """
    total = truth.new_zeros(())
    for error, weight in zip(_errors(flows, truth, weights), weights, strict=True):
        lengths = torch.linalg.vector_norm(error / 20, dim=1)
        total = total + weight * lengths.sum() / len(truth)
    return total


def _errors(flows: Sequence[Tensor], truth: Tensor, weights: Sequence[float]) -> Iterator[Tensor]:
    """Yield each flow minus the truth at its size, in pixels of the full resolution."""
    if len(flows) != len(weights):
        raise ValueError(f"as many weights as flows are needed, got {len(weights)}, {len(flows)}")
    for flow in flows:
        h, w = flow.shape[-2:]
        scale = truth.new_tensor([truth.shape[-1] / w, truth.shape[-2] / h]).view(1, 2, 1, 1)
        yield flow * scale - F.adaptive_avg_pool2d(truth, (h, w))


Loss = Callable[[Sequence[Tensor], Tensor, Sequence[float]], Tensor]

LOSSES: dict[str, Loss] = {"robust": robust_flow_loss, "multiscale-epe": multiscale_epe}
