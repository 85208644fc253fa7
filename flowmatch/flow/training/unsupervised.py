"""Unsupervised losses: photometric consistency along the flow, and smoothness."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.flow.census import census_distance
from flowmatch.flow.full_resolution import to_full_resolution
from flowmatch.flow.occlusion import find_occlusion
from flowmatch.ops import warp

EDGE_SHARPNESS = 150.0
"""Rate at which the weight of smoothness falls with the image gradient."""
SMOOTHNESS = 2.5
"""Weight of the smoothness."""


def photometric_loss(first: Tensor, second: Tensor, flow: Tensor, visible: Tensor) -> Tensor:
    """Census distance of the first frame and the second, warped by the flow, at visible pixels.

    Args:
        first: RGB images in [0, 1], ``[B, 3, H, W]``.
        second: The later images.
        flow: Flow from the first to the second, ``[B, 2, H, W]``, pixels.
        visible: Mask of the visible pixels, ``[B, H, W]``, 0 or 1.

    Reference:
        Stone et al., SMURF, CVPR 2021, section 3.2: census, robust function ``(x + 0.01)^0.4``.
    """
    distance = census_distance(first, warp(second, flow))
    return ((distance + 0.01).pow(0.4) * visible).sum() / visible.sum().clamp(min=1)


def smoothness_loss(image: Tensor, flow: Tensor) -> Tensor:
    """Edge-aware smoothness of the flow.

    ``mean(exp(-150 * mean_c |dI|) * |du|)``, in both directions, with the Charbonnier function for
    the absolute value.

    Args:
        image: RGB images in [0, 1], ``[B, 3, H, W]``.
        flow: Flow of the images, ``[B, 2, H, W]``.

    Reference:
        Jonschkowski et al., What Matters in Unsupervised Optical Flow, ECCV 2020, equation 4.
    """
    total = flow.new_zeros(())
    for dim in (2, 3):
        edges = torch.exp(-EDGE_SHARPNESS * image.diff(dim=dim).abs().mean(dim=1, keepdim=True))
        total = total + (edges * (flow.diff(dim=dim).square() + 1e-6).sqrt()).mean()
    return total / 2


def unsupervised_loss(
    model: nn.Module, batch: Sequence[Tensor], *, weights: Sequence[float]
) -> tuple[Tensor, dict[str, float]]:
    """Run a network in both directions on frames, ``[B, 3, H, W]`` uint8; return the loss.

    Occluded pixels, where forward and backward flow disagree, do not count; the mask has no
    gradient. Each flow of the network is compared at full resolution; smoothness is computed for
    the finest flow, at a quarter of the resolution.

    Args:
        model: A flow network.
        batch: First and second frames.
        weights: Weight of each flow that the network returns.

    Returns:
        The loss, and the smoothness and the share of occluded pixels.

    Raises:
        ValueError: The numbers of weights and flows differ.
    """
    first, second = (frames.float() / 255 for frames in batch[:2])
    size = first.shape[-2:]
    forwards, backwards = (
        [_full(flow, size) for flow in model(*pair)] for pair in ((first, second), (second, first))
    )
    if len(weights) != len(forwards):
        raise ValueError(
            f"as many weights as flows are needed, got {len(weights)} and {len(forwards)}"
        )
    total = first.new_zeros(())
    with torch.no_grad():
        visible = (~find_occlusion(forwards[0], backwards[0])).float()
        visible_back = (~find_occlusion(backwards[0], forwards[0])).float()
    for forward, backward, weight in zip(forwards, backwards, weights, strict=True):
        if weight:
            total = total + weight * photometric_loss(first, second, forward, visible)
            total = total + weight * photometric_loss(second, first, backward, visible_back)
    parts = (first, forwards[0] / 4, second, backwards[0] / 4)
    a, flow_a, b, flow_b = (F.avg_pool2d(part, 4) for part in parts)
    smoothness = smoothness_loss(a, flow_a) + smoothness_loss(b, flow_b)
    metrics = {"smoothness": smoothness.item(), "occluded": 1 - visible.mean().item()}
    return (total + SMOOTHNESS * smoothness) / 2, metrics


def _full(flow: Tensor, size: torch.Size) -> Tensor:
    return to_full_resolution(flow.float(), size[0], size[1])
