"""Of several flows, the one that explains a pixel best: the network's, or a classical matcher's."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.flow.census import census_distance
from flowmatch.ops import warp

CENSUS = 2  # pixels around one that are compared with it
COLOUR = 30 / 255  # a difference that counts in full
UNMATCHED = 0.5  # what a pixel costs that is not found, or does not come back
PREFERRED = 0.02  # by how much another flow must beat the first
STRIP = 256  # rows compared at a time
WINDOW, EDGES = 7, 1e-3  # radius, and the variance of gray values below which there is no edge


def fuse_flows(first: Tensor, second: Tensor, flows: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Choose among flows, pixel by pixel.

    A flow costs at a pixel what the two frames differ there by census and colour; or a constant,
    so far as the flow back does not return: what it brings to an occluded pixel says nothing. The
    costs are averaged within windows that end at the edges of the first frame.

    Args:
        first: RGB frames in [0, 1], ``[B, 3, H, W]``.
        second: The later frames, same shape.
        flows: The flow from the first to the second and the flow back, each ``[B, 2, H, W]`` in
            pixels, by each method; of two that are as good, the earlier is taken.

    Returns:
        The flow from the first to the second, ``[B, 2, H, W]``.

    Raises:
        ValueError: There is no flow, or one that does not fit the frames.

    Example:
        >>> frames = torch.rand(2, 1, 3, 24, 32)
        >>> still = torch.zeros(1, 2, 24, 32)
        >>> fused = fuse_flows(frames[0], frames[0], [(still + 3, still - 3), (still, still)])
        >>> float(fused.abs().max())  # nothing moves between equal frames
        0.0

    Reference:
        Lempitsky et al., FusionFlow, CVPR 2008, for the choice among proposals; the costs are
        averaged as in Hosni et al., Fast Cost-Volume Filtering, TPAMI 2013.
    """
    expected = (len(first), 2, *first.shape[-2:])
    shapes = [tuple(flow.shape) for both in flows for flow in both]
    if first.shape != second.shape or not flows or any(shape != expected for shape in shapes):
        raise ValueError(
            "fuse_flows takes frames of one shape and at least one flow there and back "
            f"[B, 2, H, W] of their size, got frames {tuple(first.shape)} and "
            f"{tuple(second.shape)}, flows {shapes}"
        )
    gray = first.mean(dim=1, keepdim=True)
    costs = _smooth(gray, torch.stack([_cost(first, second, *both) for both in flows], dim=1))
    costs[:, 1:] += PREFERRED
    chosen = costs.argmin(dim=1)[:, None, None].expand(-1, -1, 2, -1, -1)
    return torch.stack([forward for forward, _ in flows], dim=1).gather(1, chosen)[:, 0]


def _cost(first: Tensor, second: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """Return how badly a flow explains each pixel, ``[B, H, W]``."""
    fetched = warp(second, forward)
    colour = ((first - fetched).abs().mean(dim=1) / COLOUR).clamp(max=1)
    differs = (_census(first, fetched) + colour / 2).clamp(max=UNMATCHED)
    back = warp(backward, forward)
    length = forward.norm(dim=1) + back.norm(dim=1)
    lost = ((forward + back).norm(dim=1) / (2 + 0.04 * length)).clamp(max=1)
    H, W = first.shape[-2:]
    x = torch.arange(W, device=forward.device) + forward[:, 0]
    y = torch.arange(H, device=forward.device)[:, None] + forward[:, 1]
    inside = (x >= 0) & (x <= W - 1) & (y >= 0) & (y <= H - 1)
    return torch.where(inside, differs + lost * (UNMATCHED - differs), UNMATCHED)


def _census(first: Tensor, second: Tensor) -> Tensor:
    """Compare in strips: a neighbourhood takes 25 times the memory of its pixel."""
    H, neighbours = first.shape[-2], (2 * CENSUS + 1) ** 2 - 1
    strips = []
    for top in range(0, H, STRIP):
        above, below = max(top - CENSUS, 0), min(top + STRIP + CENSUS, H)
        strip = census_distance(first[..., above:below, :], second[..., above:below, :], CENSUS)
        strips.append(strip[:, top - above : top - above + STRIP])
    return torch.cat(strips, dim=1) / neighbours


def _smooth(guide: Tensor, cost: Tensor) -> Tensor:
    """Average ``[B, n, H, W]`` within windows, but not across the edges of ``[B, 1, H, W]``.

    Reference:
        He et al., Guided Image Filtering, ECCV 2010, equations 4 to 6.
    """
    around, product, square = (_mean(x) for x in (guide, guide * cost, guide * guide))
    mean = _mean(cost)
    slope = (product - around * mean) / (square - around * around + EDGES)
    return _mean(slope) * guide + _mean(mean - slope * around)


def _mean(image: Tensor) -> Tensor:
    """Average along one axis after the other, a seventh of the work."""
    for kernel, padding in (((2 * WINDOW + 1, 1), (WINDOW, 0)), ((1, 2 * WINDOW + 1), (0, WINDOW))):
        image = F.avg_pool2d(image, kernel, 1, padding, count_include_pad=False)
    return image
