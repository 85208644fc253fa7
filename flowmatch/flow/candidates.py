"""Flows of several methods for one pair, and the choice among them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowmatch.flow.baselines import dis
from flowmatch.flow.combine import combine_flows
from flowmatch.flow.confidence import shipped_judge
from flowmatch.flow.full_resolution import run_network
from flowmatch.flow.options import FlowOptions
from flowmatch.flow.refine import refine_flows
from flowmatch.flow.warm_start import WarmStarted, forward_interpolate

Array = NDArray[Any]

MARGIN = 0.01
"""Lead in cost that the further flows of the best quality need over those of the good quality."""


def choose_flows(
    networks: tuple[nn.Module, nn.Module],
    first: Tensor,
    second: Tensor,
    options: FlowOptions,
    directions: int = 1,
    previous: Sequence[Array | None] = (None, None),
) -> list[Tensor]:
    """Return the forward flow, and with 2 `directions` also the backward flow.

    Each method's flow is refined before the choice, because the evidence for a flow is the
    agreement of the frames, which an error of a pixel already hides.

    Args:
        networks: The networks for the forward and the backward flow.
        first: RGB images in [0, 1], ``[B, 3, H, W]``.
        second: The later images, same shape.
        options: Options of the estimate.
        directions: 1 or 2.
        previous: Forward and backward flow of the previous pair, ``[H, W, 2]``, NaN where unknown;
            the best quality includes them, for a batch of one.
    """
    pairs = ((first, second), (second, first))
    images = [_to_uint8(frames) for frames in pairs[0]] if options.includes_dis else []
    chosen = options.includes_dis or options.quality == "best"
    ways = range(2 if chosen else directions)

    def refined(way: int, flow: Tensor) -> Tensor:
        return refine_flows(*pairs[way], flow) if options.refines else flow

    flows = [
        [refined(way, run_network(both[way], *pairs[way], settings)) for way in ways]
        for both, settings in _network_runs(networks, options)
    ]
    if options.includes_dis:
        flows.insert(1, [refined(way, _dis(images[way], images[1 - way], first)) for way in ways])
    if not chosen:
        return flows[0]
    result, judge = [], shipped_judge(str(first.device))
    for way in range(directions):
        candidates = [(flow[way], flow[1 - way]) for flow in flows]
        flow = previous[way] if options.quality == "best" and len(first) == 1 else None
        if flow is not None:  # the network's backward flow confirms it or does not
            moved = refined(way, _move_forward(flow, first, 1 - 2 * way))
            candidates.append((moved, flows[0][1 - way]))
        # The best quality departs from the good one only for a flow that leads by a margin.
        sure = 2 if options.includes_dis else 1
        margins = [0.0 if i < sure else MARGIN for i in range(len(candidates))]
        result.append(combine_flows(*pairs[way], candidates, margins, judge=judge))
    return result


def _network_runs(
    networks: tuple[nn.Module, nn.Module], options: FlowOptions
) -> list[tuple[tuple[nn.Module, nn.Module], FlowOptions]]:
    """Return the networks to run, forward and backward, and the options to run them with."""
    runs = [(networks, options)]
    if options.quality == "best":
        forward, backward = (n.model if isinstance(n, WarmStarted) else n for n in networks)
        runs.append(((forward, backward), replace(options, zoom=min(2 * options.zoom, 4.0))))
    return runs


def _move_forward(flow: Array, like: Tensor, direction: int) -> Tensor:
    moved = torch.from_numpy(np.ascontiguousarray(flow, np.float32)).permute(2, 0, 1)[None]
    return forward_interpolate(moved, direction).to(like)


# ---- DIS, on the CPU ---------------------------------------------------------------------------


def _dis(first: Array, second: Array, like: Tensor) -> Tensor:
    return _stack([dis(a, b) for a, b in zip(first, second, strict=True)], like)


def _to_uint8(images: Tensor) -> NDArray[np.uint8]:
    return np.asarray((255 * images).round().byte().permute(0, 2, 3, 1).cpu().numpy())


def _stack(flows: list[NDArray[np.float32]], like: Tensor) -> Tensor:
    """Return arrays ``[H, W, 2]`` as a batch, on the device and of the type of another tensor."""
    if not flows:
        return like[:, :2]
    return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).to(like)
