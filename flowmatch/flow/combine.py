"""Per-pixel choice among several flows, such as a network's and a classical method's."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.flow.census import census_distance
from flowmatch.ops import warp

CENSUS_RADIUS = 2  # pixels
COLOUR_SCALE = 30 / 255  # colour difference of full cost
UNMATCHED_COST = 0.5  # largest cost: of pixels outside the frame or inconsistent with the flow back
MARGIN = 0.02  # lead that a flow needs over the first one
STRIP = 256  # number of rows compared at a time
WINDOW_RADIUS = 7  # pixels
EDGE_VARIANCE = 1e-3  # variance of gray values below which a window has no edge


def combine_flows(first: Tensor, second: Tensor, flows: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Choose among flows, pixel by pixel.

    The cost of a flow at a pixel is the difference of the two frames by census and colour. As far
    as the backward flow does not return to the pixel, it is a constant instead: at an occluded
    pixel the difference means nothing. The costs are averaged within windows that end at the edges
    of the first frame.

    Args:
        first: RGB frames in [0, 1], ``[B, 3, H, W]``.
        second: The later frames, same shape.
        flows: Forward and backward flow of each method, each ``[B, 2, H, W]`` in pixels; of two
            equally good ones, the earlier is taken.

    Returns:
        The forward flow, ``[B, 2, H, W]``.

    Raises:
        ValueError: No flows, or flows that do not fit the frames.

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
    gray = first.mean(dim=1, keepdim=True)
    costs = torch.stack([matching_cost(first, second, *both) for both in flows], dim=1)
    costs = filter_guided(gray, costs)
    costs[:, 1:] += MARGIN
    chosen = costs.argmin(dim=1)[:, None, None].expand(-1, -1, 2, -1, -1)
    return torch.stack([forward for forward, _ in flows], dim=1).gather(1, chosen)[:, 0]


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
    back = warp(backward, forward)
    length = forward.norm(dim=1) + back.norm(dim=1)
    inconsistency = ((forward + back).norm(dim=1) / (2 + 0.04 * length)).clamp(max=1)
    H, W = first.shape[-2:]
    x = torch.arange(W, device=forward.device) + forward[:, 0]
    y = torch.arange(H, device=forward.device)[:, None] + forward[:, 1]
    inside = (x >= 0) & (x <= W - 1) & (y >= 0) & (y <= H - 1)
    cost = difference + inconsistency * (UNMATCHED_COST - difference)
    return torch.where(inside, cost, UNMATCHED_COST)


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
