"""What training minimises, for networks that give several flows. No loss knows a network."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def pool_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Average a flow ``[B, 2, H, W]`` over the pixels of a coarser grid, values unchanged."""
    return F.adaptive_avg_pool2d(flow, size)


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
    if len(flows) != len(weights):
        raise ValueError(f"as many weights as flows are needed, got {len(weights)}, {len(flows)}")
    total = truth.new_zeros(())
    for flow, weight in zip(flows, weights, strict=True):
        h, w = flow.shape[-2:]
        scale = truth.new_tensor([truth.shape[-1] / w, truth.shape[-2] / h]).view(1, 2, 1, 1)
        error = (flow * scale - pool_flow(truth, (h, w))).abs().sum(dim=1)
        total = total + weight * (error + 0.01).pow(power).mean()
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
    if len(flows) != len(weights):
        raise ValueError(f"as many weights as flows are needed, got {len(weights)}, {len(flows)}")
    total = truth.new_zeros(())
    for flow, weight in zip(flows, weights, strict=True):
        h, w = flow.shape[-2:]
        scale = truth.new_tensor([truth.shape[-1] / w, truth.shape[-2] / h]).view(1, 2, 1, 1)
        error = (flow * scale - pool_flow(truth, (h, w))) / 20
        total = total + weight * torch.linalg.vector_norm(error, dim=1).sum() / len(truth)
    return total


Loss = Callable[[Sequence[Tensor], Tensor, Sequence[float]], Tensor]

LOSSES: dict[str, Loss] = {"robust": robust_flow_loss, "multiscale-epe": multiscale_epe}
