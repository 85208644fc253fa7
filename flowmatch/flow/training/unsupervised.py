"""Learning without truth: two frames should agree where the flow says they show the same thing."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.flow.census import census_distance
from flowmatch.flow.estimate import to_full_resolution
from flowmatch.flow.occlusion import find_occlusion
from flowmatch.ops import warp

EDGE = 150.0  # how fast smoothness stops counting as the picture changes
SMOOTHNESS = 2.5


def photometric_loss(first: Tensor, second: Tensor, flow: Tensor, visible: Tensor) -> Tensor:
    """Compare the first frame with the second one fetched back by the flow, where it is visible.

    Args:
        first: RGB images in [0, 1], ``[B, 3, H, W]``.
        second: The later images.
        flow: From the first to the second, ``[B, 2, H, W]``, pixels.
        visible: Where the comparison counts, ``[B, H, W]``, 0 or 1.

    Reference:
        Stone et al., SMURF, CVPR 2021, section 3.2: census, robust function ``(x + 0.01)^0.4``.
    """
    distance = census_distance(first, warp(second, flow))
    return ((distance + 0.01).pow(0.4) * visible).sum() / visible.sum().clamp(min=1)


def smoothness_loss(image: Tensor, flow: Tensor) -> Tensor:
    """Penalise first derivatives of the flow, less where the picture has an edge.

    ``mean(exp(-150 * mean_c |dI|) * |du|)``, in both directions, with the Charbonnier function for
    the absolute value.

    Args:
        image: RGB in [0, 1], ``[B, 3, H, W]``.
        flow: Its flow, ``[B, 2, H, W]``.

    Reference:
        Jonschkowski et al., What Matters in Unsupervised Optical Flow, ECCV 2020, equation 4.
    """
    total = flow.new_zeros(())
    for dim in (2, 3):
        edges = torch.exp(-EDGE * image.diff(dim=dim).abs().mean(dim=1, keepdim=True))
        total = total + (edges * (flow.diff(dim=dim).square() + 1e-6).sqrt()).mean()
    return total / 2


def unsupervised_loss(
    model: nn.Module, batch: Sequence[Tensor], *, weights: Sequence[float]
) -> tuple[Tensor, dict[str, float]]:
    """Run a network both ways on a batch of frames, ``[B, 3, H, W]`` uint8, and compare them.

    Occluded pixels, where the flows there and back disagree, do not count; no gradient passes
    through that decision. Each flow of the network is compared at full resolution and weighs as
    in training with truth; smoothness is asked of the finest at a quarter of the resolution.

    Args:
        model: A flow network.
        batch: First and second frames.
        weights: One for each flow that the network gives.
    """
    first, second = (frames.float() / 255 for frames in batch[:2])
    size = first.shape[-2:]
    there, back = ([_full(flow, size) for flow in model(*pair)]
                   for pair in ((first, second), (second, first)))  # fmt: skip
    if len(weights) != len(there):
        raise ValueError(f"as many weights as flows are needed, got {len(weights)}, {len(there)}")
    total = first.new_zeros(())
    with torch.no_grad():
        seen = (~find_occlusion(there[0], back[0])).float()
        seen_back = (~find_occlusion(back[0], there[0])).float()
    for forward, backward, weight in zip(there, back, weights, strict=True):
        if weight:
            total = total + weight * photometric_loss(first, second, forward, seen)
            total = total + weight * photometric_loss(second, first, backward, seen_back)
    small = (F.avg_pool2d(part, 4) for part in (first, there[0] / 4, second, back[0] / 4))
    a, flow_a, b, flow_b = small
    smooth = smoothness_loss(a, flow_a) + smoothness_loss(b, flow_b)
    metrics = {"smoothness": smooth.item(), "occluded": 1 - seen.mean().item()}
    return (total + SMOOTHNESS * smooth) / 2, metrics


def _full(flow: Tensor, size: torch.Size) -> Tensor:
    return to_full_resolution(flow.float(), size[0], size[1])
