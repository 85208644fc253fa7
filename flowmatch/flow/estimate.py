"""Optical flow of one pair of images or of a batch, by any network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowmatch.devices import choose_device
from flowmatch.flow.candidates import choose_flows
from flowmatch.flow.networks.padding import SMALLEST
from flowmatch.flow.occlusion import find_occlusion
from flowmatch.flow.options import FlowOptions
from flowmatch.flow.store import load

Array = NDArray[Any]


class FlowBothWays(NamedTuple):
    """Forward and backward flow, and the pixels where they contradict each other.

    Attributes:
        forward: Flow from the first frame to the second, an array ``[H, W, 2]`` or a tensor
            ``[B, 2, H, W]``.
        backward: Flow from the second frame to the first, of the same shape.
        occluded: Pixels of the first frame that are hidden in the second, bool ``[H, W]`` or
            ``[B, H, W]``.
        occluded_backward: Pixels of the second frame that are hidden in the first.
    """

    forward: Any
    backward: Any
    occluded: Any
    occluded_backward: Any


@overload
def estimate_flow(
    first: Tensor,
    second: Tensor,
    *,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
    options: FlowOptions = FlowOptions(),
) -> Tensor: ...
@overload
def estimate_flow(
    first: Array,
    second: Array,
    *,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
    options: FlowOptions = FlowOptions(),
) -> NDArray[np.float32]: ...
def estimate_flow(
    first: Any,
    second: Any,
    *,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
    options: FlowOptions = FlowOptions(),
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

    Returns:
        Flow in pixels, (u right, v down): float32 ``[H, W, 2]`` for images, and a tensor
        ``[B, 2, H, W]`` on the network's device for tensors.

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
    network = _network(model, device)
    return estimate_directions((network, network), first, second, options)[0]


def estimate_both_ways(
    first: Any,
    second: Any,
    *,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
    options: FlowOptions = FlowOptions(),
    backward_model: nn.Module | None = None,
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

    Returns:
        Both flows and both masks, arrays for images and tensors for tensors.

    Raises:
        ValueError: For the same reasons as in `estimate_flow`.
        FileNotFoundError: The file of weights does not exist.

    Example:
        >>> from flowmatch.flow.networks import PyramidNet
        >>> frame = np.zeros((32, 32, 3), np.uint8)
        >>> estimate_both_ways(frame, frame, model=PyramidNet()).occluded.shape
        (32, 32)
    """
    network = _network(model, device)
    networks = (network, backward_model or network)
    forward, backward = estimate_directions(networks, first, second, options, directions=2)
    return FlowBothWays(
        forward, backward, find_occlusion(forward, backward), find_occlusion(backward, forward)
    )


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
            the best quality includes them in the choice, for a batch of one.
    """
    a, b = _to_tensors(first, second, _device_of(networks[0]))
    flows = choose_flows(networks, a, b, options, directions, previous)
    if isinstance(first, Tensor):
        return flows
    return [flow[0].permute(1, 2, 0).cpu().numpy() for flow in flows]


# ---- The network and its input -----------------------------------------------------------------


def _network(model: str | Path | nn.Module, device: str | torch.device | None) -> nn.Module:
    if not isinstance(model, nn.Module):
        return load(model, device=device)
    parameter = next(model.parameters(), None)
    if parameter is not None and parameter.dtype != torch.float32:
        raise ValueError(
            f"the model must be float32, got {parameter.dtype}; the option precision computes in "
            "half types"
        )
    return model if device is None else model.to(choose_device(device))


def _device_of(network: nn.Module) -> torch.device:
    parameter = next(network.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _to_tensors(first: Any, second: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    if not isinstance(first, Tensor) and not isinstance(second, Tensor):
        first, second = np.asarray(first), np.asarray(second)
    if isinstance(first, Tensor) is not isinstance(second, Tensor) or first.shape != second.shape:
        raise ValueError(
            "first and second must be of one kind and shape, got "
            f"{type(first).__name__} {tuple(first.shape)} and "
            f"{type(second).__name__} {tuple(second.shape)}"
        )
    return _to_tensor(first, "first", device), _to_tensor(second, "second", device)


def _to_tensor(image: Any, name: str, device: torch.device) -> Tensor:
    """Convert an image or a batch to RGB in [0, 1], ``[B, 3, H, W]``."""
    if isinstance(image, Tensor):
        tensor = image
    else:
        array = image[..., None] if image.ndim == 2 else image
        tensor = torch.from_numpy(np.ascontiguousarray(array)).unsqueeze(0)
        tensor = tensor.permute(0, 3, 1, 2) if tensor.dim() == 4 else tensor
    if tensor.dim() != 4 or tensor.shape[1] not in (1, 3):
        raise ValueError(
            f"{name} must be [H, W, 3], [H, W, 1] or [H, W], or a tensor [B, 3, H, W] or "
            f"[B, 1, H, W], got {tuple(image.shape)}"
        )
    if min(tensor.shape[-2:]) < SMALLEST:
        raise ValueError(
            f"{name} must have at least {SMALLEST} pixels to a side, "
            f"got {tensor.shape[-1]} x {tensor.shape[-2]}"
        )
    tensor = tensor.to(device)
    if tensor.dtype == torch.uint8:
        tensor = tensor.float() / 255
    elif tensor.is_floating_point():
        tensor = tensor.float()
        low, high = (tensor.min().item(), tensor.max().item()) if tensor.numel() else (0.0, 0.0)
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{name} is float and must lie in [0, 1], got {low:g} to {high:g}")
    else:
        raise ValueError(f"{name} must be uint8 or float, got {tensor.dtype}")
    return tensor.expand(-1, 3, -1, -1)
