"""Optical flow of one pair of images or of a batch, by any network."""

from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from flowmatch.devices import PRECISIONS, choose_device
from flowmatch.flow.baselines import dis
from flowmatch.flow.combine import combine_flows
from flowmatch.flow.networks.padding import SMALLEST
from flowmatch.flow.occlusion import find_occlusion
from flowmatch.flow.options import FlowOptions
from flowmatch.flow.refine import refine_flow
from flowmatch.flow.store import load
from flowmatch.flow.tiles import blend_tiles

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
        options: Refinement, zoom, tiles and precision.

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
    return _estimate((network, network), first, second, options, directions=1)[0]


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

    With ``with_dis``, it takes hardly longer than `estimate_flow`, which then needs both
    directions too.

    Args:
        first: Image or batch, as `estimate_flow` takes it.
        second: The later image, of the same kind and size.
        model: Name of weights, a file, or a network.
        device: Device to compute on.
        options: Refinement, zoom, tiles and precision.
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
    forward, backward = _estimate(networks, first, second, options, directions=2)
    return FlowBothWays(
        forward, backward, find_occlusion(forward, backward), find_occlusion(backward, forward)
    )


def _estimate(
    networks: tuple[nn.Module, nn.Module],
    first: Any,
    second: Any,
    options: FlowOptions,
    directions: int,
) -> list[Any]:
    """Return the forward flow, and with 2 `directions` also the backward flow.

    Args:
        networks: The networks for the forward and the backward flow.
        first: Image or batch.
        second: The later image or batch.
        options: Options of the estimate.
        directions: 1 or 2.
    """
    a, b = _to_tensors(first, second, _device_of(networks[0]))
    pairs = ((a, b), (b, a))[: 2 if options.with_dis else directions]
    flows = [_run(network, *pair, options) for network, pair in zip(networks, pairs, strict=False)]
    if options.with_dis or options.refine:
        images = _to_uint8(a), _to_uint8(b)
        image_pairs = (images, images[::-1])
    if options.with_dis:
        classical = [_dis(*pair, flows[0]) for pair in image_pairs]
        flows = [
            combine_flows(*pairs[way], [(by[way], by[1 - way]) for by in (flows, classical)])
            for way in range(directions)
        ]
    if options.refine:
        flows = [_refine(*pair, flow) for pair, flow in zip(image_pairs, flows, strict=False)]
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


# ---- The network's flow at full resolution -----------------------------------------------------


def _run(network: nn.Module, first: Tensor, second: Tensor, options: FlowOptions) -> Tensor:
    dtype = PRECISIONS[options.precision]

    def run_whole(a: Tensor, b: Tensor) -> Tensor:
        zoomed = [_zoom_image(image, options.zoom) for image in (a, b)]
        with torch.no_grad(), torch.autocast(a.device.type, dtype, enabled=dtype is not None):
            flow = to_full_resolution(network(*zoomed)[0].float(), *zoomed[0].shape[-2:])
        return _resize_flow(flow, a.shape[-2], a.shape[-1])

    tile, overlap = options.tile, options.overlap
    if tile is None or tile >= max(first.shape[-2:]):
        return run_whole(first, second)
    overlap = min(64, tile // 4) if overlap is None else overlap
    return blend_tiles(run_whole, first, second, tile, overlap)


def _zoom_image(image: Tensor, zoom: float) -> Tensor:
    """Enlarge or reduce images, but to no less than the smallest input of a network."""
    size = [max(SMALLEST, round(side * zoom)) for side in image.shape[-2:]]
    if size == list(image.shape[-2:]):
        return image
    return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)


def _resize_flow(flow: Tensor, height: int, width: int) -> Tensor:
    """Resize a flow; its values scale with its size."""
    h, w = flow.shape[-2:]
    if (h, w) == (height, width):
        return flow
    scale = flow.new_tensor([width / w, height / h]).view(2, 1, 1)
    return scale * F.interpolate(flow, (height, width), mode="bilinear", antialias=True)


def to_full_resolution(flow: Tensor, height: int, width: int) -> Tensor:
    """Upsample a flow ``[B, 2, h, w]``; its values scale with its size.

    Networks round the sizes of their levels up, so the flow may extend beyond the image: it is
    enlarged by a whole factor and cropped.
    """
    factor = -(-width // flow.shape[-1])
    if factor > 1:
        up = F.interpolate(flow, scale_factor=factor, mode="bilinear", align_corners=False)
        flow = up * factor
    return flow[..., :height, :width]


# ---- Classical methods, on the CPU -------------------------------------------------------------


def _dis(first: Array, second: Array, like: Tensor) -> Tensor:
    return _stack([dis(a, b) for a, b in zip(first, second, strict=True)], like)


def _refine(first: Array, second: Array, flow: Tensor) -> Tensor:
    triples = zip(first, second, flow.permute(0, 2, 3, 1).cpu().numpy(), strict=True)
    return _stack([refine_flow(a, b, f) for a, b, f in triples], flow)


def _to_uint8(images: Tensor) -> NDArray[np.uint8]:
    return np.asarray((255 * images).round().byte().permute(0, 2, 3, 1).cpu().numpy())


def _stack(flows: list[NDArray[np.float32]], like: Tensor) -> Tensor:
    """Return arrays ``[H, W, 2]`` as a batch, on the device and of the type of another tensor."""
    if not flows:
        return like[:, :2]
    return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).to(like)
