"""Losses of networks that return several flows."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def robust_flow_loss(
    flows: Sequence[Tensor], truth: Tensor, weights: Sequence[float], power: float = 0.7
) -> Tensor:
    """Robust error of every flow at its own size, in pixels of the full resolution.

    ``sum_k weights[k] * mean((|du| + |dv| + 0.01) ** power)``: outliers, such as occluded
    pixels, weigh less than in a squared or absolute error.

    Args:
        flows: Flows of a network, ``[B, 2, h_k, w_k]``, in pixels of their own resolution.
        truth: True flow, ``[B, 2, H, W]``; NaN where it is unknown, which does not count.
        weights: Weight of each flow.
        power: Exponent; 1 is the absolute error.

    Raises:
        ValueError: The numbers of weights and flows differ.

    Example:
        >>> truth = torch.ones(1, 2, 8, 8)
        >>> robust_flow_loss([truth, truth[..., ::2, ::2] / 2], truth, [1.0, 1.0], power=1.0)
        tensor(0.0200)

    Reference:
        Sun et al., PWC-Net, CVPR 2018, equation 3 (the robust fine-tuning loss, with another
        exponent).
    """
    total = truth.new_zeros(())
    for (error, known), weight in zip(_errors(flows, truth, weights), weights, strict=True):
        robust = (error.abs().sum(dim=1) + 0.01).pow(power)
        total = total + weight * (robust * known).sum() / known.sum().clamp(min=1e-6)
    return total


MAX_LENGTH = 400
"""Length of motion from which RAFT is not trained, in pixels."""


def sequence_loss(flows: Sequence[Tensor], truth: Tensor, weights: Sequence[float]) -> Tensor:
    """RAFT's loss: the absolute error of every iteration's flow.

    ``sum_k weights[k] * mean(|flow_k - truth|)`` over pixels and both components, where pixels of
    unknown motion or of motion longer than 400 pixels count as 0. RAFT's weights are ``gamma**k``,
    newest iteration first.

    Args:
        flows: Flows of a network, ``[B, 2, h_k, w_k]``, in pixels of their own resolution.
        truth: True flow, ``[B, 2, H, W]``, NaN where it is unknown.
        weights: Weight of each flow.

    Raises:
        ValueError: The numbers of weights and flows differ.

    Example:
        >>> truth = torch.ones(1, 2, 8, 8)
        >>> sequence_loss([truth, truth + 1], truth, [1.0, 0.8])
        tensor(0.8000)

    Reference:
        Teed & Deng, RAFT, ECCV 2020, equation 7.
    """
    far = torch.linalg.vector_norm(truth, dim=1, keepdim=True) >= MAX_LENGTH
    truth = truth.masked_fill(far, torch.nan)
    total = truth.new_zeros(())
    for (error, known), weight in zip(_errors(flows, truth, weights), weights, strict=True):
        total = total + weight * (error.abs() * known[:, None]).mean()
    return total


def sequence_weights(iterations: int, gamma: float = 0.8) -> tuple[float, ...]:
    """Return RAFT's weights for `sequence_loss`, newest iteration first."""
    return tuple(gamma**k for k in range(iterations))


FLOWNET_WEIGHTS = (0.005, 0.01, 0.02, 0.08, 0.32)
"""FlowNet's weights, from the finest level to the coarsest."""


def multiscale_epe(
    flows: Sequence[Tensor], truth: Tensor, weights: Sequence[float] = FLOWNET_WEIGHTS
) -> Tensor:
    """FlowNet's loss: the sum of the endpoint errors of all levels.

    ``sum_k weights[k] * sum_pixels |flow_k - truth_k| / 20 / B``, with flows in pixels of the full
    resolution: the sum, not the mean, gives each level the paper's weight.

    Args:
        flows: Flows of a network, finest first, in pixels of their own resolution.
        truth: True flow, ``[B, 2, H, W]``; NaN where it is unknown, which does not count.
        weights: Weight of each flow, finest first.

    Raises:
        ValueError: The numbers of weights and flows differ.

    Example:
        >>> truth = torch.ones(1, 2, 8, 8)
        >>> multiscale_epe([truth[..., ::4, ::4] / 4], truth, [1.0])
        tensor(0.)

    Reference:
        Dosovitskiy et al., FlowNet, ICCV 2015, section 5.1; weights of the released Caffe models.
    """
    total = truth.new_zeros(())
    for (error, known), weight in zip(_errors(flows, truth, weights), weights, strict=True):
        lengths = torch.linalg.vector_norm(error / 20, dim=1)
        total = total + weight * (lengths * known).sum() / len(truth)
    return total


def matching_loss(volume: Tensor, truth: Tensor, step: int = 1) -> Tensor:
    """Cross-entropy of a correlation against the true displacement.

    With the error of the flow alone, a network learns to use its correlation late, and its features
    deteriorate meanwhile.

    Args:
        volume: Correlations ``[B, (2r + 1)**2, h, w]`` from `ops.correlation`, used as logits of
            the displacements.
        truth: True flow, ``[B, 2, H, W]``; NaN where it is unknown.
        step: Spacing of the displacements, in pixels of the features.

    Returns:
        Mean over the pixels whose displacement is known and within the radius; 0 without such
        pixels.

    Example:
        >>> truth = torch.zeros(1, 2, 8, 8)
        >>> matching_loss(torch.zeros(1, 9, 4, 4), truth)  # log(9)
        tensor(2.1972)
    """
    side = math.isqrt(volume.shape[1])
    height, width = volume.shape[-2:]
    known = truth.isfinite().all(dim=1, keepdim=True)
    both = torch.cat([truth.masked_fill(~known, 0), known.to(truth)], dim=1)
    mean = F.adaptive_avg_pool2d(both, (height, width))
    spacing = step * truth.new_tensor([truth.shape[-1] / width, truth.shape[-2] / height])
    flow = mean[:, :2] / mean[:, 2:].clamp(min=1e-6) / spacing.view(1, 2, 1, 1)
    place = flow + side // 2
    counts = ((place >= 0) & (place <= side - 1)).all(dim=1) & (mean[:, 2] > 0)
    corner = place.floor().clamp(0, side - 2)
    x, y = (place - corner).clamp(0, 1).unbind(dim=1)
    left, top = corner.long().unbind(dim=1)
    log_probability = F.log_softmax(volume.float(), dim=1)
    total = torch.zeros_like(x)
    for right in (0, 1):  # the four displacements around the true one, weighted bilinearly
        for below in (0, 1):
            share = (x if right else 1 - x) * (y if below else 1 - y)
            index = (top + below) * side + left + right
            total = total - share * log_probability.gather(1, index[:, None])[:, 0]
    return (total * counts).sum() / counts.sum().clamp(min=1)


def _errors(
    flows: Sequence[Tensor], truth: Tensor, weights: Sequence[float]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the error of each flow at its size, and the share of each pixel whose truth is known.

    Errors are in pixels of the full resolution, ``[B, 2, h, w]``; the shares are ``[B, h, w]``.
    """
    if len(flows) != len(weights):
        raise ValueError(
            f"as many weights as flows are needed, got {len(weights)} and {len(flows)}"
        )
    known = truth.isfinite().all(dim=1, keepdim=True)
    both = torch.cat([truth.masked_fill(~known, 0), known.to(truth)], dim=1)
    targets: dict[torch.Size, Tensor] = {}
    for flow in flows:
        size = flow.shape[-2:]
        if size not in targets:  # several flows of a network may share a size
            targets[size] = F.adaptive_avg_pool2d(both, (size[0], size[1]))
        mean, share = targets[size][:, :2], targets[size][:, 2:]
        scale = truth.new_tensor([truth.shape[-1] / size[1], truth.shape[-2] / size[0]])
        yield flow * scale.view(1, 2, 1, 1) - mean / share.clamp(min=1e-6), share[:, 0]


Loss = Callable[[Sequence[Tensor], Tensor, Sequence[float]], Tensor]

LOSSES: dict[str, Loss] = {
    "robust": robust_flow_loss,
    "multiscale-epe": multiscale_epe,
    "sequence": sequence_loss,
}
