"""Per-pixel choice among several flows, such as a network's and a classical method's."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.flow.census import census_distance
from flowmatch.flow.networks.confidence import FlowConfidence, expected_error
from flowmatch.flow.occlusion import leaves_image
from flowmatch.ops import warp

CENSUS_RADIUS = 2  # pixels
COLOUR_SCALE = 30 / 255  # colour difference of full cost
UNMATCHED_COST = 0.5  # largest cost: of pixels outside the frame or inconsistent with the flow back
ROUGHNESS_WEIGHT = 0.02  # cost of a flow as rough as the mean of all flows
INCONSISTENCY_WEIGHT = 0.1  # cost of a flow that is inconsistent everywhere
ERROR_WEIGHT = 0.05  # cost of an expected error that is e times as large, in the whole frame
STRIP = 256  # number of rows compared at a time
WINDOW_RADIUS = 7  # pixels
EDGE_VARIANCE = 1e-3  # variance of gray values below which a window has no edge


def combine_flows(
    first: Tensor,
    second: Tensor,
    flows: Sequence[tuple[Tensor, Tensor]],
    margins: Sequence[float] | None = None,
    *,
    judge: FlowConfidence | None = None,
) -> Tensor:
    """Choose among flows, pixel by pixel.

    The cost of a flow at a pixel is the difference of the two frames by census and colour. As far
    as the backward flow does not return to the pixel, it is a constant instead: at an occluded
    pixel the difference means nothing. The costs are averaged within windows that end at the edges
    of the first frame. Where they are equal, because no flow matches, the flow is preferred that is
    smoother and more consistent in the whole frame.

    Args:
        first: RGB frames in [0, 1], ``[B, 3, H, W]``.
        second: The later frames, same shape.
        flows: Forward and backward flow of each method, each ``[B, 2, H, W]`` in pixels; of two
            equally good ones, the earlier is taken.
        margins: Lead in cost that each flow needs over the others; None is 0.
        judge: Confidence network; a flow for which it expects smaller errors in the whole frame is
            preferred where others match as well.

    Returns:
        The forward flow, ``[B, 2, H, W]``.

    Raises:
        ValueError: No flows, flows that do not fit the frames, or another number of margins.

    Example:
        >>> frames = torch.rand(2, 1, 3, 24, 32)
        >>> still = torch.zeros(1, 2, 24, 32)
        >>> combined = combine_flows(frames[0], frames[0], [(still + 3, still - 3), (still, still)])
        >>> float(combined.abs().max())  # nothing moves between equal frames
        0.0

    Reference:
        Lempitsky et al., FusionFlow, CVPR 2008, for the choice among proposals; the costs are
        averaged as in Hosni et al., Fast Cost-Volume Filtering, TPAMI 2013.
    """
    expected = (len(first), 2, *first.shape[-2:])
    shapes = [tuple(flow.shape) for both in flows for flow in both]
    if first.shape != second.shape or not flows or any(shape != expected for shape in shapes):
        raise ValueError(
            "combine_flows takes frames of one shape and at least one pair of forward and backward "
            f"flow [B, 2, H, W] of their size, got frames {tuple(first.shape)} and "
            f"{tuple(second.shape)}, flows {shapes}"
        )
    if margins is not None and len(margins) != len(flows):
        raise ValueError(f"expected one margin for each of {len(flows)} flows, got {margins}")
    gray = first.mean(dim=1, keepdim=True)
    costs = torch.stack([matching_cost(first, second, *both) for both in flows], dim=1)
    costs = filter_guided(gray, costs) + frame_cost(flows)
    if judge is not None:
        costs += judged_cost(judge, first, second, flows)
    costs += costs.new_tensor(margins or [0.0] * len(flows))[:, None, None]
    chosen = costs.argmin(dim=1)[:, None, None].expand(-1, -1, 2, -1, -1)
    return torch.stack([forward for forward, _ in flows], dim=1).gather(1, chosen)[:, 0]


def frame_cost(flows: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return a cost of each flow in the whole frame, ``[B, n, 1, 1]``: rough and inconsistent.

    Args:
        flows: Forward and backward flow of each method, each ``[B, 2, H, W]``.
    """
    roughness = torch.stack([_roughness(forward) for forward, _ in flows], dim=1)
    relative = roughness / (roughness.mean(dim=1, keepdim=True) + 1e-6)
    doubts = [_doubt(*both).mean(dim=(1, 2)) for both in flows]
    cost = ROUGHNESS_WEIGHT * relative + INCONSISTENCY_WEIGHT * torch.stack(doubts, dim=1)
    return cost[..., None, None]


@torch.no_grad()
def judged_cost(
    judge: FlowConfidence, first: Tensor, second: Tensor, flows: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """Return a cost of each flow in the whole frame, ``[B, n, 1, 1]``: its expected error.

    Frames of half the size tell whole flows apart as well as full ones do, at a quarter of the
    work. Pixel by pixel, the expected error is no better a guide than the frames themselves.

    Args:
        judge: Confidence network.
        first: RGB frames in [0, 1], ``[B, 3, H, W]``.
        second: The later frames, same shape.
        flows: Forward and backward flow of each method, each ``[B, 2, H, W]``.
    """
    frames = [_half(frame) for frame in (first, second)]
    errors = [
        2 * expected_error(judge(*frames, *(_half(flow) / 2 for flow in both))).mean(dim=(1, 2))
        for both in flows
    ]
    return ERROR_WEIGHT * (0.1 + torch.stack(errors, dim=1)).log()[..., None, None]


def _half(image: Tensor) -> Tensor:
    return F.interpolate(image, scale_factor=0.5, mode="area")


def _roughness(flow: Tensor) -> Tensor:
    """Return the mean total variation of a flow, ``[B]``; steps above 2 pixels count as 2."""
    down, right = flow.diff(dim=-2).abs().sum(dim=1), flow.diff(dim=-1).abs().sum(dim=1)
    total = F.pad(down, (0, 0, 0, 1)) + F.pad(right, (0, 1))
    return total.clamp(max=2).mean(dim=(1, 2))


def _doubt(forward: Tensor, backward: Tensor) -> Tensor:
    """Return how inconsistent a flow is, ``[B, H, W]``, 0 to 1; 1 outside the frame.

    The tolerance is a quarter of that of `matching_cost`, because refined flows return closer.
    """
    inconsistency = _inconsistency(forward, backward, 0.5, 0.01)
    return torch.where(leaves_image(forward), 1.0, inconsistency)


def _inconsistency(forward: Tensor, backward: Tensor, absolute: float, relative: float) -> Tensor:
    """Return how far the backward flow leads beside the pixel, in tolerances, at most 1."""
    back = warp(backward, forward)
    length = forward.norm(dim=1) + back.norm(dim=1)
    gap: Tensor = (forward + back).norm(dim=1) / (absolute + relative * length)
    return gap.clamp(max=1)


def matching_cost(first: Tensor, second: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """Return the cost of a flow at each pixel, ``[B, H, W]``, 0 to `UNMATCHED_COST`.

    Args:
        first: RGB frames in [0, 1], ``[B, 3, H, W]``.
        second: The later frames, same shape.
        forward: Flow from the first to the second, ``[B, 2, H, W]``.
        backward: Flow from the second to the first, same shape.
    """
    warped = warp(second, forward)
    colour = ((first - warped).abs().mean(dim=1) / COLOUR_SCALE).clamp(max=1)
    difference = (census_in_strips(first, warped) + colour / 2).clamp(max=UNMATCHED_COST)
    inconsistency = _inconsistency(forward, backward, 2.0, 0.04)
    cost = difference + inconsistency * (UNMATCHED_COST - difference)
    return torch.where(leaves_image(forward), UNMATCHED_COST, cost)


def census_in_strips(first: Tensor, second: Tensor) -> Tensor:
    """Return the census distance of two frames in [0, 1], ``[B, H, W]``, strip by strip.

    A neighbourhood takes 25 times the memory of its pixel, which strips bound.
    """
    H, neighbours = first.shape[-2], (2 * CENSUS_RADIUS + 1) ** 2 - 1
    strips = []
    for top in range(0, H, STRIP):
        above, below = max(top - CENSUS_RADIUS, 0), min(top + STRIP + CENSUS_RADIUS, H)
        rows = (..., slice(above, below), slice(None))
        strip = census_distance(first[rows], second[rows], CENSUS_RADIUS)
        strips.append(strip[:, top - above : top - above + STRIP])
    return torch.cat(strips, dim=1) / neighbours


def filter_guided(guide: Tensor, cost: Tensor) -> Tensor:
    """Average costs within windows, but not across the edges of a guide.

    Args:
        guide: Gray values in [0, 1], ``[B, 1, H, W]``.
        cost: Costs ``[B, n, H, W]``.

    Reference:
        He et al., Guided Image Filtering, ECCV 2010, equations 4 to 6.
    """
    guide_mean, product, square = (_mean(x) for x in (guide, guide * cost, guide * guide))
    mean = _mean(cost)
    slope = (product - guide_mean * mean) / (square - guide_mean * guide_mean + EDGE_VARIANCE)
    return _mean(slope) * guide + _mean(mean - slope * guide_mean)


def _mean(image: Tensor) -> Tensor:
    """Average within windows, along one axis after the other: a seventh of the work."""
    r = WINDOW_RADIUS
    for kernel, padding in (((2 * r + 1, 1), (r, 0)), ((1, 2 * r + 1), (0, r))):
        image = F.avg_pool2d(image, kernel, 1, padding, count_include_pad=False)
    return image
