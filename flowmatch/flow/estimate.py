"""Optical flow of one pair of images or of a batch, by any network."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowmatch.flow._inputs import check_alike, module_device, network_of, to_tensors
from flowmatch.flow.candidates import choose_flows
from flowmatch.flow.confidence import judge_flow, shipped_judge
from flowmatch.flow.networks.confidence import FlowConfidence
from flowmatch.flow.occlusion import find_occlusion
from flowmatch.flow.options import FlowOptions
from flowmatch.flow.tiles import blend_tiles, reduced
from flowmatch.flow.warm_start import WarmStarted

Array = NDArray[Any]


class FlowWithConfidence(NamedTuple):
    """A flow and how sure it is.

    Attributes:
        flow: Flow from the first frame to the second, an array ``[H, W, 2]`` or a tensor
            ``[B, 2, H, W]``.
        confidence: Probability that its endpoint error is below 1 px (`judge_flow`), ``[H, W]`` or
            ``[B, H, W]``.
    """

    flow: Any
    confidence: Any


class FlowBothWays(NamedTuple):
    """Forward and backward flow, and the pixels where they contradict each other.

    Attributes:
        forward: Flow from the first frame to the second, an array ``[H, W, 2]`` or a tensor
            ``[B, 2, H, W]``.
        backward: Flow from the second frame to the first, of the same shape.
        occluded: Pixels of the first frame that are hidden in the second, bool ``[H, W]`` or
            ``[B, H, W]``.
        occluded_backward: Pixels of the second frame that are hidden in the first.
        confidence: Probability that the endpoint error of the forward flow is below 1 px
            (`judge_flow`), float32 of the shape of `occluded`; None unless asked for.
        confidence_backward: The same of the backward flow.
    """

    forward: Any
    backward: Any
    occluded: Any
    occluded_backward: Any
    confidence: Any = None
    confidence_backward: Any = None


@overload
def estimate_flow(
    first: Tensor,
    second: Tensor,
    *,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
    options: FlowOptions = FlowOptions(),
    confidence: Literal[False] = False,
) -> Tensor: ...
@overload
def estimate_flow(
    first: Array,
    second: Array,
    *,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
    options: FlowOptions = FlowOptions(),
    confidence: Literal[False] = False,
) -> NDArray[np.float32]: ...
@overload
def estimate_flow(
    first: Any,
    second: Any,
    *,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
    options: FlowOptions = FlowOptions(),
    confidence: Literal[True],
) -> FlowWithConfidence: ...
def estimate_flow(
    first: Any,
    second: Any,
    *,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
    options: FlowOptions = FlowOptions(),
    confidence: bool = False,
) -> Any:
    """Estimate where each pixel of `first` is in `second`.

    Args:
        first: Image ``[H, W, 3]``, ``[H, W, 1]`` or ``[H, W]``, or a batch of images as a tensor
            ``[B, 3, H, W]`` or ``[B, 1, H, W]``; RGB or gray, uint8, or float in [0, 1]. Any size
            of at least 16 pixels to a side.
        second: The later image, of the same kind and size.
        model: Name of weights, a ``.safetensors`` file, or a network. Names and files are read at
            each call; for many pairs, load the network once (`flowmatch.flow.load`).
        device: Device to compute on; a network is moved there. None takes a GPU where torch can
            use one, and leaves a given network where it is.
        options: Quality, tiles and precision.
        confidence: Also estimate how sure the flow is at each pixel. This needs the flow back,
            which all qualities but fast compute anyway.

    Returns:
        Flow in pixels, (u right, v down): float32 ``[H, W, 2]`` for images, and a tensor
        ``[B, 2, H, W]`` on the network's device for tensors; with `confidence`, a
        `FlowWithConfidence`.

    Raises:
        ValueError: The images differ in kind or size, are too small, or have the wrong type or
            range; the model is unknown; or the network is not float32.
        FileNotFoundError: The file of weights does not exist.

    Example:
        >>> from flowmatch.flow.networks import PyramidNet
        >>> frame = np.zeros((48, 50, 3), np.uint8)
        >>> estimate_flow(frame, frame, model=PyramidNet()).shape
        (48, 50, 2)
    """
    network = network_of(model, device)
    directions = 2 if confidence else 1
    flows = estimate_directions((network, network), first, second, options, directions)
    if not confidence:
        return flows[0]
    forward, backward = flows
    return FlowWithConfidence(forward, confidence_of(first, second, forward, backward, options))


def estimate_both_ways(
    first: Any,
    second: Any,
    *,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
    options: FlowOptions = FlowOptions(),
    backward_model: nn.Module | None = None,
    confidence: bool = False,
) -> FlowBothWays:
    """Estimate forward and backward flow, and the occlusions where the two disagree.

    It takes hardly longer than `estimate_flow`, which needs both directions too, unless the quality
    is fast.

    Args:
        first: Image or batch, as `estimate_flow` takes it.
        second: The later image, of the same kind and size.
        model: Name of weights, a file, or a network.
        device: Device to compute on.
        options: Quality, tiles and precision.
        backward_model: Network for the backward flow; None takes `model`.
        confidence: Also estimate how sure both flows are at each pixel.

    Returns:
        Both flows and both masks, and with `confidence` both confidences; arrays for images and
        tensors for tensors.

    Raises:
        ValueError: For the same reasons as in `estimate_flow`.
        FileNotFoundError: The file of weights does not exist.

    Example:
        >>> from flowmatch.flow.networks import PyramidNet
        >>> frame = np.zeros((32, 32, 3), np.uint8)
        >>> estimate_both_ways(frame, frame, model=PyramidNet()).occluded.shape
        (32, 32)
    """
    network = network_of(model, device)
    networks = (network, backward_model or network)
    forward, backward = estimate_directions(networks, first, second, options, directions=2)
    masks = find_occlusion(forward, backward), find_occlusion(backward, forward)
    if not confidence:
        return FlowBothWays(forward, backward, *masks)
    sure = confidence_of(first, second, forward, backward, options)
    sure_backward = confidence_of(second, first, backward, forward, options)
    return FlowBothWays(forward, backward, *masks, sure, sure_backward)


def confidence_of(
    first: Any, second: Any, forward: Any, backward: Any, options: FlowOptions
) -> Any:
    """Return the confidence of an estimated flow, by the network that ships.

    Args:
        first: Image or batch, as `estimate_flow` takes it.
        second: The later image or batch.
        forward: Estimated flow from the first to the second.
        backward: Estimated flow from the second to the first.
        options: Options of the estimate.
    """
    device = forward.device if isinstance(forward, Tensor) else torch.device("cpu")
    network = shipped_judge(str(device))
    size = forward.shape[-2:] if isinstance(forward, Tensor) else forward.shape[:2]
    tile = options.tile_side(*size)
    return judge_flow(first, second, forward, backward, model=network, tile=tile).confidence


def estimate_directions(
    networks: tuple[nn.Module, nn.Module],
    first: Any,
    second: Any,
    options: FlowOptions,
    directions: int = 1,
    previous: Sequence[Array | None] = (None, None),
) -> list[Any]:
    """Return the forward flow, and with 2 `directions` also the backward flow.

    Args:
        networks: The networks for the forward and the backward flow.
        first: Image or batch, as `estimate_flow` takes it.
        second: The later image or batch.
        options: Options of the estimate.
        directions: 1 or 2.
        previous: Forward and backward flow of the previous pair, ``[H, W, 2]``, NaN where unknown;
            the best quality includes them in the choice, for a batch of one that is not split into
            tiles.
    """
    if any(isinstance(network, FlowConfidence) for network in networks):
        raise ValueError("the network confidence judges flows and gives none; take another model")
    check_alike(first, second)
    size = first.shape[-2:] if isinstance(first, Tensor) else np.shape(first)[:2]
    side = options.tile_side(*size) if len(size) == 2 else None
    if side is None or isinstance(networks[0], WarmStarted):
        a, b = to_tensors(first, second, module_device(networks[0]))
        flows = choose_flows(networks, a, b, options, directions, previous)
    else:
        pairs = [(networks, first, second), (networks[::-1], second, first)][:directions]
        flows = [_in_tiles(*pair, options, side) for pair in pairs]
    if isinstance(first, Tensor):
        return flows
    return [flow[0].permute(1, 2, 0).cpu().numpy() for flow in flows]


def _in_tiles(
    networks: tuple[nn.Module, nn.Module],
    first: Any,
    second: Any,
    options: FlowOptions,
    side: int,
) -> Tensor:
    """Return the forward flow ``[B, 2, H, W]``, computed in tiles, one pair after the other."""
    if isinstance(first, Tensor) and len(first) > 1:
        pairs = zip(first.chunk(len(first)), second.chunk(len(second)), strict=True)
        return torch.cat([_in_tiles(networks, *pair, options, side) for pair in pairs])

    def estimate(a: Any, b: Any, settings: FlowOptions = replace(options, tile=side)) -> Tensor:
        flow = estimate_directions(networks, a, b, settings)[0]
        return flow if isinstance(flow, Tensor) else torch.from_numpy(flow[None]).movedim(-1, 1)

    small = reduced(first), reduced(second)
    fast = FlowOptions("fast", precision=options.precision)
    guess = None if small[0] is None else estimate(*small, fast)
    return blend_tiles(estimate, first, second, side, options.overlap_of(side), guess)
