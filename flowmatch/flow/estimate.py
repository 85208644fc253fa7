"""From two pictures to a flow of the same size, with whatever network."""

from typing import Any, NamedTuple, TypedDict, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import Unpack  # typing has it from Python 3.11 on; torch needs it too

from flowmatch.devices import PRECISIONS, check_precision, choose_device
from flowmatch.flow.baselines import dis
from flowmatch.flow.combine import fuse_flows
from flowmatch.flow.networks.padding import SMALLEST
from flowmatch.flow.occlusion import find_occlusion
from flowmatch.flow.refine import refine_flow
from flowmatch.flow.tiles import blend_tiles

Array = NDArray[Any]

SMALLEST_TILE = 64


class FlowBothWays(NamedTuple):
    """Flow there and back, and where the two contradict each other; arrays or tensors."""

    forward: Any  # [H, W, 2] or [B, 2, H, W]
    backward: Any
    occluded: Any  # bool [H, W] or [B, H, W]: pixels of the first frame hidden in the second
    occluded_backward: Any  # the same for the second frame


class Options(TypedDict, total=False):
    """What can be chosen in `estimate_flow`, which says what it means."""

    device: str | torch.device | None
    precision: str
    tile: int | None
    overlap: int | None
    refine: bool
    zoom: float
    fuse: bool


# What gives the most accurate flow, for about ten times the time: estimate_flow(..., **BEST).
BEST: Options = {"zoom": 2.0, "fuse": True, "refine": True}


@overload
def estimate_flow(
    model: nn.Module, first: Tensor, second: Tensor, **options: Unpack[Options]
) -> Tensor: ...
@overload
def estimate_flow(
    model: nn.Module, first: Array, second: Array, **options: Unpack[Options]
) -> NDArray[np.float32]: ...
def estimate_flow(
    model: nn.Module,
    first: Any,
    second: Any,
    *,
    device: str | torch.device | None = None,
    precision: str = "float32",
    tile: int | None = None,
    overlap: int | None = None,
    refine: bool = False,
    zoom: float = 1.0,
    fuse: bool = False,
) -> Any:
    """Estimate where each pixel of `first` is in `second`.

    Args:
        model: A flow network, such as `flowmatch.flow.load` gives.
        first: One picture ``[H, W, 3]``, ``[H, W, 1]`` or ``[H, W]``, or a batch of tensors
            ``[B, 3, H, W]`` or ``[B, 1, H, W]``; RGB or gray, uint8, or float in [0, 1]. Any size
            of at least 16 pixels to a side.
        second: The later picture, of the same kind and size.
        device: Where to compute; the model is moved there. None leaves it where it is.
        precision: ``"float32"``, or ``"bfloat16"`` or ``"float16"`` for the convolutions.
        tile: Side of square tiles to split large pictures into, which bounds the memory; None does
            not split. Motion longer than `overlap` is lost at the borders of tiles.
        overlap: Pixels that neighbouring tiles share, at most half a tile; the flow fades from one
            to the other. None takes 64, or a quarter of smaller tiles.
        refine: Minimise the classical energy from the network's flow on (`refine_flow`): better
            below a pixel, by far; it runs on the CPU.
        zoom: Let the network see the pictures this many times as large, 0.25 to 4: what is small
            and moves fast is found better at 2, for four times the work.
        fuse: Take a classical matcher's flow (`flowmatch.flow.baselines.dis`) at the pixels that
            it explains better (`fuse_flows`); the network runs both ways for it.

    Returns:
        Flow in pixels, (u right, v down): float32 ``[H, W, 2]`` for pictures, and a tensor
        ``[B, 2, H, W]`` on the model's device for tensors.

    Raises:
        ValueError: The pictures do not fit each other, are too small, or hold something else; an
            option is out of range; or the model is not float32.

    Example:
        >>> from flowmatch.flow.networks import PyramidNet
        >>> frame = np.zeros((48, 50, 3), np.uint8)
        >>> estimate_flow(PyramidNet(), frame, frame).shape
        (48, 50, 2)
    """
    return _estimate(
        (model, model),
        first,
        second,
        ways=1,
        device=device,
        precision=precision,
        tile=tile,
        overlap=overlap,
        refine=refine,
        zoom=zoom,
        fuse=fuse,
    )[0]


def estimate_both_ways(
    model: nn.Module,
    first: Any,
    second: Any,
    *,
    back: nn.Module | None = None,
    **options: Unpack[Options],
) -> FlowBothWays:
    """Estimate the flow there and back, and what is occluded because the two disagree.

    With ``fuse``, it takes hardly longer than one direction, which needs both too.

    Args:
        model: A flow network.
        first: As in `estimate_flow`.
        second: As in `estimate_flow`.
        back: The network for the way back; None takes `model`.
        **options: Those of `estimate_flow`.

    Returns:
        Both flows and both masks, arrays for pictures and tensors for tensors.

    Example:
        >>> from flowmatch.flow.networks import PyramidNet
        >>> frame = np.zeros((32, 32, 3), np.uint8)
        >>> estimate_both_ways(PyramidNet(), frame, frame).occluded.shape
        (32, 32)
    """
    forward, backward = _estimate((model, back or model), first, second, ways=2, **options)
    return FlowBothWays(
        forward, backward, find_occlusion(forward, backward), find_occlusion(backward, forward)
    )


def check_options(
    precision: str, tile: int | None, overlap: int | None = None, zoom: float = 1.0
) -> None:
    """Refuse options of `estimate_flow` that are out of range, before anything is computed."""
    check_precision(precision)
    if tile is not None and tile < SMALLEST_TILE:
        raise ValueError(f"tile must be at least {SMALLEST_TILE} pixels, got {tile}")
    if overlap is not None and not 0 <= overlap <= (tile or 2 * overlap) // 2:
        raise ValueError(f"overlap must be 0 to half a tile, got {overlap} of {tile}")
    if not 0.25 <= zoom <= 4:  # NaN is refused too
        raise ValueError(f"zoom must be 0.25 to 4, got {zoom}")


def _estimate(
    models: tuple[nn.Module, nn.Module],
    first: Any,
    second: Any,
    *,
    ways: int,
    device: str | torch.device | None = None,
    precision: str = "float32",
    tile: int | None = None,
    overlap: int | None = None,
    refine: bool = False,
    zoom: float = 1.0,
    fuse: bool = False,
) -> list[Any]:
    """Return the flow there, and of 2 `ways` also back, by the networks for there and back."""
    check_options(precision, tile, overlap, zoom)
    a, b = _to_tensors(first, second, _placed(models[0], device))
    sides = ((a, b), (b, a))[: 2 if fuse else ways]
    flows = [
        _run(model, *side, PRECISIONS[precision], tile, overlap, zoom)
        for model, side in zip(models, sides, strict=False)
    ]
    if fuse or refine:
        shown, later = _pictures(a), _pictures(b)
        pictures = ((shown, later), (later, shown))
    if fuse:
        classical = [_classical(*pair, flows[0]) for pair in pictures]
        flows = [
            fuse_flows(*sides[way], [(by[way], by[1 - way]) for by in (flows, classical)])
            for way in range(ways)
        ]
    if refine:
        flows = [_refined(*pair, flow) for pair, flow in zip(pictures, flows, strict=False)]
    if isinstance(first, Tensor):
        return flows
    return [flow[0].permute(1, 2, 0).cpu().numpy() for flow in flows]


def _placed(model: nn.Module, device: str | torch.device | None) -> torch.device:
    found = next(model.parameters(), None)
    if found is not None and found.dtype != torch.float32:
        raise ValueError(
            f"the model must be float32, got {found.dtype}; precision= computes in half types"
        )
    if device is not None:
        model.to(choose_device(device))
        found = next(model.parameters(), None)
    return torch.device("cpu") if found is None else found.device


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
    """Bring a picture or a batch to RGB in [0, 1], ``[B, 3, H, W]``."""
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


def _run(
    model: nn.Module,
    first: Tensor,
    second: Tensor,
    dtype: torch.dtype | None,
    tile: int | None,
    overlap: int | None,
    zoom: float,
) -> Tensor:
    def whole(a: Tensor, b: Tensor) -> Tensor:
        shown = [_zoomed(image, zoom) for image in (a, b)]
        with torch.no_grad(), torch.autocast(a.device.type, dtype, enabled=dtype is not None):
            flow = to_full_resolution(model(*shown)[0].float(), *shown[0].shape[-2:])
        return _unzoomed(flow, a.shape[-2], a.shape[-1])

    H, W = first.shape[-2:]
    if tile is None or (tile >= H and tile >= W):
        return whole(first, second)
    return blend_tiles(
        whole, first, second, tile, min(64, tile // 4) if overlap is None else overlap
    )


def _zoomed(image: Tensor, zoom: float) -> Tensor:
    """Enlarge or shrink pictures, but to no less than a network takes."""
    size = [max(SMALLEST, round(side * zoom)) for side in image.shape[-2:]]
    if size == list(image.shape[-2:]):
        return image
    return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)


def _unzoomed(flow: Tensor, height: int, width: int) -> Tensor:
    """Bring the flow of zoomed pictures back to their size."""
    h, w = flow.shape[-2:]
    if (h, w) == (height, width):
        return flow
    scale = flow.new_tensor([width / w, height / h]).view(2, 1, 1)
    return scale * F.interpolate(flow, (height, width), mode="bilinear", antialias=True)


def _classical(first: Array, second: Array, like: Tensor) -> Tensor:
    return _stacked([dis(a, b) for a, b in zip(first, second, strict=True)], like)


def _refined(first: Array, second: Array, flow: Tensor) -> Tensor:
    triples = zip(first, second, flow.permute(0, 2, 3, 1).cpu().numpy(), strict=True)
    return _stacked([refine_flow(a, b, f) for a, b, f in triples], flow)


def _pictures(images: Tensor) -> NDArray[np.uint8]:
    return np.asarray((255 * images).round().byte().permute(0, 2, 3, 1).cpu().numpy())


def _stacked(flows: list[NDArray[np.float32]], like: Tensor) -> Tensor:
    if not flows:
        return like[:, :2]
    return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).to(like)


def to_full_resolution(flow: Tensor, height: int, width: int) -> Tensor:
    """Upsample a flow ``[B, 2, h, w]``; its values grow with its size.

    A network rounds the size of its levels up, so the flow may reach past the picture: it is
    enlarged by a whole factor and cropped.
    """
    factor = -(-width // flow.shape[-1])
    if factor > 1:
        up = F.interpolate(flow, scale_factor=factor, mode="bilinear", align_corners=False)
        flow = up * factor
    return flow[..., :height, :width]
