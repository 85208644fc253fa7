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
    flow, share = _flow_at(truth, *volume.shape[-2:])
    return _cross_entropy(volume.float(), flow / step + side // 2, (side, side), share)


def global_matching_loss(unit1: Tensor, unit2: Tensor, sharpness: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of a match in the whole other image against the true place.

    Args:
        unit1: Features of the first image, ``[B, C, h, w]``, of length sqrt(C).
        unit2: Features of the second image, alike.
        sharpness: Logarithm of the softmax's inverse temperature.
        truth: True flow, ``[B, 2, H, W]``; NaN where it is unknown.

    Returns:
        Mean over the pixels whose place is known and within the image; 0 without such pixels.

    Example:
        >>> features = torch.ones(1, 4, 2, 3)
        >>> global_matching_loss(features, features, torch.zeros(()), torch.zeros(1, 2, 16, 24))
        tensor(1.7918)

    Reference:
        Sun et al., LoFTR, CVPR 2021, section 3.5 (the loss of the coarse matches).
    """
    B, C, h, w = unit1.shape
    flow, share = _flow_at(truth, h, w)
    y, x = torch.meshgrid(*(torch.arange(side).to(truth) for side in (h, w)), indexing="ij")
    logits = unit2.flatten(2).transpose(1, 2) @ (unit1.flatten(2) * (sharpness.exp() / C))
    return _cross_entropy(
        logits.view(B, h * w, h, w).float(), flow + torch.stack([x, y]), (h, w), share
    )


TOLERANCE = 0.25
"""Error in pixels below which flows are equally good to choose."""


def choice_loss(flows: Sequence[Tensor], scores: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of the choice among flows against the inverse squares of their errors.

    Args:
        flows: The flows, ``[B, 2, h, w]``, in pixels of their own resolution.
        scores: Their scores, ``[n, B, 1, h, w]``, -inf where a flow is unknown.
        truth: True flow, ``[B, 2, H, W]``; NaN where it is unknown.

    Returns:
        Mean over the pixels whose true flow is known.

    Example:
        >>> flows = [torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4)]
        >>> choice_loss(flows, torch.zeros(2, 1, 1, 4, 4), torch.zeros(1, 2, 4, 4))  # log(2)
        tensor(0.6931)
    """
    errors = list(_errors(flows, truth, [1.0] * len(flows)))
    share = errors[0][1]
    known = torch.isfinite(scores[:, :, 0])
    lengths = torch.stack([torch.linalg.vector_norm(error, dim=1) for error, _ in errors]).detach()
    target = (-2 * (lengths + TOLERANCE).log()).masked_fill(~known, -torch.inf).softmax(dim=0)
    log_weights = scores[:, :, 0].float().log_softmax(dim=0).masked_fill(~known, 0)
    return -(target * log_weights * share).sum() / share.sum().clamp(min=1e-6)


def _flow_at(truth: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the mean true flow at another size, in its pixels, and the share that is known."""
    mean, share = _mean_known(truth, height, width)
    spacing = truth.new_tensor([truth.shape[-1] / width, truth.shape[-2] / height])
    return mean / spacing.view(1, 2, 1, 1), share


def _mean_known(truth: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the mean of the known flow at another size, ``[B, 2, h, w]``, and the share of it."""
    known = truth.isfinite().all(dim=1, keepdim=True)
    both = torch.cat([truth.masked_fill(~known, 0), known.to(truth)], dim=1)
    mean = F.adaptive_avg_pool2d(both, (height, width))
    return mean[:, :2] / mean[:, 2:].clamp(min=1e-6), mean[:, 2]


def _cross_entropy(logits: Tensor, place: Tensor, size: tuple[int, int], share: Tensor) -> Tensor:
    """Return the cross-entropy of logits of places against true places between pixels.

    Args:
        logits: Logits of each place, row by row, ``[B, rows * columns, h, w]``.
        place: True place (x, y), ``[B, 2, h, w]``.
        size: Numbers of rows and columns.
        share: Share of each pixel that is known, ``[B, h, w]``.
    """
    rows, columns = size
    last = place.new_tensor([columns - 1, rows - 1]).view(1, 2, 1, 1)
    counts = ((place >= 0) & (place <= last)).all(dim=1) & (share > 0)
    corner = torch.minimum(place.floor().clamp(min=0), last - 1)
    x, y = (place - corner).clamp(0, 1).unbind(dim=1)
    left, top = corner.long().unbind(dim=1)
    log_probability = F.log_softmax(logits, dim=1)
    total = torch.zeros_like(x)
    for right in (0, 1):  # the four places around the true one, weighted bilinearly
        for below in (0, 1):
            part = (x if right else 1 - x) * (y if below else 1 - y)
            index = (top + below) * columns + left + right
            total = total - part * log_probability.gather(1, index[:, None])[:, 0]
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
    targets: dict[torch.Size, tuple[Tensor, Tensor]] = {}
    for flow in flows:
        size = flow.shape[-2:]
        if size not in targets:  # several flows of a network may share a size
            targets[size] = _mean_known(truth, *size)
        mean, share = targets[size]
        scale = truth.new_tensor([truth.shape[-1] / size[1], truth.shape[-2] / size[0]])
        yield flow * scale.view(1, 2, 1, 1) - mean, share


Loss = Callable[[Sequence[Tensor], Tensor, Sequence[float]], Tensor]

LOSSES: dict[str, Loss] = {
    "robust": robust_flow_loss,
    "multiscale-epe": multiscale_epe,
    "sequence": sequence_loss,
}
