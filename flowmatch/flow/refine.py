"""Variational refinement of a flow: the "+v" of the FlowNet paper."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmatch._opencv import cv2
from flowmatch.flow.variational import (
    ITERATIONS,
    SMALLEST,
    minimise_energy,
    refine_over_scales,
    scaled_sizes,
)
from flowmatch.imaging import Image, check_image

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue, Rec. 601

Array = NDArray[Any]


def refine_flow(first: Image, second: Image, flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Refine a flow so that brightness and gradients agree, and smooth it elsewhere.

    Minimises a variational energy from a quarter of the resolution to the full resolution, with
    four scales per octave. It makes sub-pixel motion much more accurate; errors of more than a
    pixel are corrected only in part.

    Args:
        first: Image ``[H, W, 3]`` or ``[H, W]``, uint8, at least 16 pixels to a side.
        second: The later image, of the same size.
        flow: Flow from the first to the second, ``[H, W, 2]``, in pixels, finite.

    Returns:
        The refined flow, a new array ``[H, W, 2]``.

    Raises:
        ValueError: The sizes or types do not fit, or the flow is not finite.

    Example:
        >>> image = np.zeros((16, 24, 3), np.uint8)
        >>> refine_flow(image, image, np.zeros((16, 24, 2), np.float32)).shape
        (16, 24, 2)

    Reference:
        Dosovitskiy et al., FlowNet, ICCV 2015, section 5.1; the energy and the many scales of Brox
        et al., ECCV 2004.
    """
    images = [check_image(first, "first"), check_image(second, "second")]
    H, W = images[0].shape[:2]
    if images[1].shape[:2] != (H, W) or flow.shape != (H, W, 2) or min(H, W) < SMALLEST:
        raise ValueError(
            "first, second and flow must have one size of at least 16 pixels to a side, got "
            f"{first.shape}, {second.shape} and {flow.shape}"
        )
    a, b = (_to_tensor(image.reshape(H, W, -1)) / 255 for image in images)
    refined = refine_flows(a, b, _to_tensor(flow))
    return np.ascontiguousarray(refined[0].permute(1, 2, 0).numpy())


def refine_flows(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """Refine a batch of flows like `refine_flow`, on their device, differentiably.

    Images stay on their device and are not rounded to 8 bits. On the CPU, OpenCV's
    VariationalRefinement minimises the energy where it can, which is faster, with a thread for each
    pair; elsewhere, for float64, and where a gradient is needed, `flowmatch.flow.variational` does.
    Both give the same flow but for rounding errors.

    Args:
        first: Images in [0, 1], ``[B, 3, H, W]`` RGB or ``[B, 1, H, W]`` gray, at least 16 pixels
            to a side.
        second: The later images, same shape.
        flow: Flows from the first to the second, ``[B, 2, H, W]``, in pixels, finite.

    Returns:
        The refined flows, ``[B, 2, H, W]`` of the type of `flow`, computed in float32 at least.
        Once differentiable, in reverse mode, with respect to the flow and both images.

    Raises:
        ValueError: The shapes or types do not fit, or a flow is not finite.

    Example:
        >>> image = torch.rand(2, 3, 16, 24)
        >>> refine_flows(image, image, torch.zeros(2, 2, 16, 24)).shape
        torch.Size([2, 2, 16, 24])

    Reference:
        As of `refine_flow`.
    """
    inputs = (first, second, flow)
    _check(*inputs)
    if len(flow) == 0:
        return flow.clone()
    dtype = torch.float32
    for tensor in inputs:
        dtype = torch.promote_types(dtype, tensor.dtype)
    a, b = (_to_gray(image.to(dtype)) for image in (first, second))
    differentiable = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    on_cpu = all(x.device.type == "cpu" for x in inputs) and not torch.compiler.is_compiling()
    if on_cpu and dtype == torch.float32 and not differentiable and _opencv_refines():
        return _by_opencv(a, b, flow.float()).to(flow.dtype)
    return refine_over_scales(a, b, flow.to(dtype), minimise_energy).to(flow.dtype)


# ---- Checks and conversions --------------------------------------------------------------------


def _check(first: Tensor, second: Tensor, flow: Tensor) -> None:
    B, _, H, W = first.shape if first.dim() == 4 else (0, 0, 0, 0)
    fits = first.shape == second.shape and flow.shape == (B, 2, H, W)
    if not fits or first.shape[1] not in (1, 3) or min(H, W) < SMALLEST:
        raise ValueError(
            "first and second must be [B, 3, H, W] or [B, 1, H, W] and flow [B, 2, H, W], of one "
            f"size of at least 16 pixels to a side, got {tuple(first.shape)}, "
            f"{tuple(second.shape)} and {tuple(flow.shape)}"
        )
    types = [tensor.dtype for tensor in (first, second, flow)]
    if not all(dtype.is_floating_point for dtype in types):
        raise ValueError(f"first, second and flow must be floating-point, got {types}")
    # A compiled function cannot stop at a value.
    if not torch.compiler.is_compiling() and not flow.isfinite().all():
        raise ValueError("flow must be finite to be refined, got NaN or infinity")


def _to_tensor(image: Array) -> Tensor:
    """Convert an array ``[H, W, C]`` to a float32 batch of one, ``[1, C, H, W]``."""
    return torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)[None]


def _to_gray(image: Tensor) -> Tensor:
    """Convert images in [0, 1] to gray from 0 to 255, ``[B, 1, H, W]``."""
    if image.shape[1] == 1:
        return 255 * image
    return 255 * (image * image.new_tensor(LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)


# ---- OpenCV ------------------------------------------------------------------------------------


def _opencv_refines() -> bool:
    """Return whether this build of OpenCV has the module of variational refinement."""
    return hasattr(cv2, "VariationalRefinement")


def _by_opencv(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """Refine flows on the CPU, several pairs at a time."""
    flows = flow.detach().permute(0, 2, 3, 1).numpy()
    grays = (gray.detach()[:, 0].numpy() for gray in (first, second))
    with ThreadPoolExecutor(min(len(flows), torch.get_num_threads())) as pool:
        refined = list(pool.map(_refine_array, *grays, flows))
    return torch.from_numpy(np.stack(refined)).permute(0, 3, 1, 2).contiguous()


def _refine_array(first: Array, second: Array, flow: Array) -> Array:
    """Do as `refine_over_scales` for one pair, by OpenCV."""
    H, W = flow.shape[:2]
    refined = np.array(flow, order="C")
    for height, width in scaled_sizes(H, W):
        size = (width, height)
        a, b = (cv2.resize(gray, size, interpolation=cv2.INTER_AREA) for gray in (first, second))
        initial = _resized(refined, size)
        solver = cv2.VariationalRefinement.create()
        solver.setFixedPointIterations(ITERATIONS)
        refined += _resized(solver.calc(a, b, initial.copy()) - initial, (W, H))
    return refined


def _resized(flow: Array, size: tuple[int, int]) -> Array:
    """Resize a flow to (width, height); its values scale with its size."""
    scale = np.array([size[0] / flow.shape[1], size[1] / flow.shape[0]], np.float32)
    if size == (flow.shape[1], flow.shape[0]):
        return flow
    interpolation = cv2.INTER_AREA if scale[0] < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(flow, size, interpolation=interpolation) * scale)
