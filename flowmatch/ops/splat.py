"""Forward warping: each pixel of an image is moved along its flow and added where it lands."""

import torch
from torch import Tensor

from flowmatch.ops import _native
from flowmatch.ops._batching import map_over_batch
from flowmatch.ops._checks import FLOATS, check_devices, check_kernel, same_kind
from flowmatch.ops._types import wide
from flowmatch.ops.splat_derivatives import register_splat_derivatives

MODES = ("sum", "average", "linear", "softmax")
_WEIGHTED = ("linear", "softmax")
_FARTHEST = 2**24  # longer flow is ignored, as in the kernels

# Sums; the means are quotients of sums. image [B, C, H, W], flow [B, 2, H, W] of the same type.
torch.library.define(
    "flowmatch::splat", "(Tensor image, Tensor flow) -> Tensor", tags=torch.Tag.pt2_compliant_tag
)
# g [B, C, H, W]: the gradient of the result.
torch.library.define(
    "flowmatch::splat_grad",
    "(Tensor g, Tensor image, Tensor flow) -> (Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)


def _targets(flow: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Return the four targets of all sources: index, weight and its derivatives along x and y.

    Index and others are ``[B, 1, H * W]``; weights and derivatives are 0 outside the image.
    """
    _, _, H, W = flow.shape
    known = (flow.abs() < _FARTHEST).all(1)  # False for NaN
    u, v = torch.where(known[:, None], flow, 0).unbind(1)
    left, top = u.floor(), v.floor()
    fx, fy = u - left, v - top
    columns = torch.arange(W, device=flow.device) + left.long()
    rows = torch.arange(H, device=flow.device)[:, None] + top.long()
    targets = []
    for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = columns + right, rows + below
        valid = known & (x >= 0) & (x < W) & (y >= 0) & (y < H)
        across, down = (fx if right else 1 - fx), (fy if below else 1 - fy)
        weights = (across * down, down if right else -down, across if below else -across)
        index = torch.where(valid, y * W + x, 0)
        parts = (torch.where(valid, weight, 0) for weight in weights)
        targets.append(tuple(t.flatten(1)[:, None] for t in (index, *parts)))
    return targets  # type: ignore[return-value]


def splat_reference(image: Tensor, flow: Tensor) -> Tensor:
    """State what the op computes, in plain PyTorch."""
    values = image.flatten(2)
    out = torch.zeros_like(values, memory_format=torch.contiguous_format)
    for index, weight, _, _ in _targets(flow):
        out = out.scatter_add(2, index.expand_as(values), weight * values)
    return out.view(image.shape)


def splat_grad_reference(g: Tensor, image: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """State the gradients of ``sum(g * splat(image, flow))`` to image and flow."""
    values, entries = image.flatten(2), g.flatten(2)
    grad, along = torch.zeros_like(values), values.new_zeros(flow.flatten(2).shape)
    for index, weight, over_x, over_y in _targets(flow):
        entry = entries.gather(2, index.expand_as(values))
        grad = grad + weight * entry
        product = (values * entry).sum(1, keepdim=True)
        along = along + torch.cat([over_x * product, over_y * product], 1)
    return grad.view(image.shape), along.view(flow.shape)


for _name, _reference in (("splat", splat_reference), ("splat_grad", splat_grad_reference)):
    torch.library.impl(f"flowmatch::{_name}", "default")(_native.reference(_reference))


def _check_kernel(image: Tensor, flow: Tensor) -> None:
    shapes = image.dim() == 4 and flow.shape == (image.shape[0], 2, *image.shape[2:])
    check_kernel("splat", shapes, "image and flow must be [B, C, H, W] and [B, 2, H, W]")
    same = same_kind(image, flow)
    check_kernel("splat", same, "image and flow must have the same type and device")
    is_wide = image.dtype in (torch.float32, torch.float64)
    check_kernel("splat", is_wide, "float32 or float64 is needed")


@torch.library.register_fake("flowmatch::splat")  # type: ignore[untyped-decorator]
def _(image: Tensor, flow: Tensor) -> Tensor:
    _check_kernel(image, flow)
    return image.new_empty(image.shape)


@torch.library.register_fake("flowmatch::splat_grad")  # type: ignore[untyped-decorator]
def _(g: Tensor, image: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    _check_kernel(image, flow)
    same = g.shape == image.shape and same_kind(g, image)
    check_kernel("splat_grad", same, "g must have the shape, type and device of image")
    return image.new_empty(image.shape), flow.new_empty(flow.shape)


register_splat_derivatives()
for _name in ("splat", "splat_grad"):
    map_over_batch(f"flowmatch::{_name}")


def _check(image: Tensor, flow: Tensor, weight: Tensor | None, mode: str) -> None:
    if image.dim() != 4 or flow.shape != (image.shape[0], 2, *image.shape[2:]):
        raise ValueError(
            "image and flow must be [B, C, H, W] and [B, 2, H, W], "
            f"got {tuple(image.shape)} and {tuple(flow.shape)}"
        )
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if (weight is None) == (mode in _WEIGHTED):
        raise ValueError(
            f"mode {mode!r} needs a weight" if weight is None else f"mode {mode!r} takes no weight"
        )
    if weight is not None and weight.shape != (image.shape[0], 1, *image.shape[2:]):
        raise ValueError(
            f"weight must be [B, 1, H, W] for an image of {tuple(image.shape)}, "
            f"got {tuple(weight.shape)}"
        )
    tensors = [t for t in (image, flow, weight) if t is not None]
    for t in tensors:
        if t.dtype not in FLOATS:
            raise ValueError(
                "image, flow and weight must be float16, bfloat16, float32 or float64, "
                f"got {t.dtype}"
            )
    check_devices("image, flow and weight", *tensors)


def splat(
    image: Tensor, flow: Tensor, weight: Tensor | None = None, mode: str = "average"
) -> Tensor:
    r"""Move each pixel of `image` along `flow`, and add it to the four pixels where it lands.

    With bilinear weights ``b`` of the sources ``s`` that land within a pixel of ``t``::

        sum      out[t] = sum_s b(s, t) image[s]
        average  out[t] = sum_s b(s, t) image[s] / sum_s b(s, t)
        linear   out[t] = sum_s b(s, t) weight[s] image[s] / sum_s b(s, t) weight[s]
        softmax  out[t] = sum_s b(s, t) exp(weight[s]) image[s] / sum_s b(s, t) exp(weight[s])

    `warp` samples the *second* frame by the flow to it; this moves the *first* one along the flow,
    possibly by a part of it. Pixels that nothing lands on are 0; ``splat(ones, flow, mode="sum")``
    says where. Where several pixels land, `weight` decides which are in front.

    Differentiable any number of times with respect to all inputs, in reverse and forward mode and
    by `torch.func`; bit-identical from run to run. Computed in float32 at least. Pixels whose flow
    or weight is not finite, or whose flow is longer than 2^24, are left out, as is what leaves the
    image; a pixel of the image that is not finite spoils the pixels that it lands on. The
    exponentials are taken relative to the largest weight of each image: pixels whose weight is more
    than 80 below it (700 in float64) count as left out.

    Args:
        image: What is moved, ``[B, C, H, W]``, float16, bfloat16, float32 or float64.
        flow: Displacements in pixels, ``[B, 2, H, W]``, (u right, v down), any of these types.
        weight: Importance ``[B, 1, H, W]``, for the modes that have it in their formula.
        mode: ``"sum"``, ``"average"``, ``"linear"`` or ``"softmax"``.

    Returns:
        The moved image, ``[B, C, H, W]`` of the type of `image`.

    Raises:
        ValueError: Shapes, types or devices do not match, the mode is unknown, or a weight is
            missing or not used.

    Example:
        >>> image = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
        >>> flow = torch.zeros(1, 2, 1, 4)
        >>> flow[0, 0, 0, 0] = 2  # the first pixel moves onto the third
        >>> splat(image, flow)
        tensor([[[[0., 2., 2., 4.]]]])

    Reference:
        Niklaus and Liu, Softmax Splatting for Video Frame Interpolation, CVPR 2020, section 3.1.
    """
    _check(image, flow, weight, mode)
    kind = wide(image.dtype)
    for t in (flow, weight):
        kind = kind if t is None else torch.promote_types(kind, t.dtype)
    values, motion = image.to(kind), flow.to(kind)
    if mode == "sum":
        total: Tensor = torch.ops.flowmatch.splat(values, motion)
        return total.to(image.dtype)
    if weight is None:
        parts = torch.ones_like(values[:, :1])
    else:
        known = weight.isfinite()
        motion = torch.where(known, motion, torch.nan)
        parts = torch.where(known, weight, 0).to(kind)
        if mode == "softmax":
            parts = (parts - _largest(parts, known)).exp()
    # The weights are moved as one more channel.
    sums = torch.ops.flowmatch.splat(torch.cat([values * parts, parts], 1), motion)
    total, norm = sums[:, :-1], sums[:, -1:]
    covered = norm != 0
    # Uncovered pixels are replaced before the division: 0 times its derivative would be NaN.
    return torch.where(covered, total / torch.where(covered, norm, 1), 0).to(image.dtype)


def _largest(weight: Tensor, known: Tensor) -> Tensor:
    """Return the largest known weight of each image, ``[B, 1, 1, 1]``."""
    if weight.numel() == 0:
        return torch.zeros_like(weight)
    lowest = torch.finfo(weight.dtype).min
    return torch.where(known, weight.detach(), lowest).amax((1, 2, 3), keepdim=True)
