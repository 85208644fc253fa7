"""The FlowNet cost volume: correlation of each pixel with a neighbourhood in the other image."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.ops import _native
from flowmatch.ops._batching import map_over_batch
from flowmatch.ops._checks import (
    check_devices,
    check_floats,
    check_kernel,
    check_kernel_float,
    same_kind,
    to_one_type,
)
from flowmatch.ops._derivatives import Saved, add, register_derivatives, save
from flowmatch.ops._types import wide
from flowmatch.ops.absolute_difference import absolute_difference, displacements

torch.library.define(
    "flowmatch::correlation",
    "(Tensor f1, Tensor f2, int radius, int stride, bool tf32=False) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "flowmatch::correlation_grad",
    "(Tensor g, Tensor other, int radius, int stride, bool first, bool tf32=False) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


def correlation_reference(
    f1: Tensor, f2: Tensor, radius: int, stride: int, tf32: bool = False
) -> Tensor:
    """State what `correlation` computes, in plain PyTorch; half types are summed in float32.

    `tf32` allows, but does not require, a kernel to use TF32.
    """
    H, W = f1.shape[-2:]
    first = f1.to(wide(f1.dtype))
    second = F.pad(f2.to(first.dtype), (radius * stride,) * 4)
    C = max(f1.shape[1], 1)
    planes = [
        (first * second[..., y : y + H, x : x + W]).sum(1) / C
        for y, x in displacements(radius, stride)
    ]
    return torch.stack(planes, dim=1).to(f1.dtype)


def correlation_grad_reference(
    g: Tensor, other: Tensor, radius: int, stride: int, first: bool, tf32: bool = False
) -> Tensor:
    """State the gradient of `correlation` with respect to f1 (`other` is f2) or f2 (`other` is f1).

    Pixel (y, x) of f2 contributes to the entry of g at (y - dy, x - dx), where it met f1.
    """
    _, C, H, W = other.shape
    pad = (radius * stride,) * 4
    entries = g.to(wide(g.dtype))
    entries = entries if first else F.pad(entries, pad)
    values = F.pad(other.to(entries.dtype), pad)
    total = torch.zeros_like(values[..., :H, :W], memory_format=torch.contiguous_format)
    for k, (y, x) in enumerate(displacements(radius, stride, first)):
        window = (..., slice(y, y + H), slice(x, x + W))
        entry = entries[:, k : k + 1]
        total += (entry if first else entry[window]) * values[window]
    return (total / max(C, 1)).to(other.dtype)


for _name, _reference in (
    ("correlation", correlation_reference),
    ("correlation_grad", correlation_grad_reference),
):
    torch.library.impl(f"flowmatch::{_name}", "default")(_native.reference(_reference))


def _check(f1: Tensor, f2: Tensor, radius: int, stride: int) -> None:
    if f1.dim() != 4 or f1.shape != f2.shape:
        raise ValueError(
            "f1 and f2 must be [B, C, H, W] of the same shape, "
            f"got {tuple(f1.shape)} and {tuple(f2.shape)}"
        )
    check_floats("f1 and f2", f1, f2)
    check_devices("f1 and f2", f1, f2)
    if not (0 <= radius < 2**15 and 1 <= stride < 2**31):
        raise ValueError(
            f"0 <= radius < 2^15 and 1 <= stride < 2^31 are needed, got {radius} and {stride}"
        )


def _check_kernel(f1: Tensor, f2: Tensor, radius: int, stride: int) -> None:
    op = "correlation"
    check_kernel(op, f1.dim() == 4 and f2.dim() == 4, "f1 and f2 must be [B, C, H, W]")
    check_kernel(op, f1.shape == f2.shape, "f1 and f2 must have the same shape")
    check_kernel(op, same_kind(f1, f2), "f1 and f2 must have the same type and device")
    check_kernel_float(op, f1)
    fits = 0 <= radius < 2**15 and 1 <= stride < 2**31
    check_kernel(op, fits, "radius must be in [0, 2^15) and stride in [1, 2^31)")


@torch.library.register_fake("flowmatch::correlation")  # type: ignore[untyped-decorator]
def _(f1: Tensor, f2: Tensor, radius: int, stride: int, tf32: bool = False) -> Tensor:
    _check_kernel(f1, f2, radius, stride)
    B, _, H, W = f1.shape
    return f1.new_empty(B, (2 * radius + 1) ** 2, H, W)


@torch.library.register_fake("flowmatch::correlation_grad")  # type: ignore[untyped-decorator]
def _(
    g: Tensor, other: Tensor, radius: int, stride: int, first: bool, tf32: bool = False
) -> Tensor:
    _check_kernel(other, other, radius, stride)
    op, (B, _, H, W) = "correlation_grad", other.shape
    fits = g.shape == (B, (2 * radius + 1) ** 2, H, W)
    check_kernel(op, fits, "g must be [B, (2 * radius + 1)^2, H, W]")
    check_kernel(op, same_kind(g, other), "g and other must have the same type and device")
    return torch.empty_like(other, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    f1, f2, ctx.radius, ctx.stride, ctx.tf32 = inputs
    save(ctx, f1, f2)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    f1, f2 = ctx.saved_tensors
    op, grid = torch.ops.flowmatch.correlation_grad, (ctx.radius, ctx.stride)
    g1 = op(g, f2, *grid, True, ctx.tf32) if ctx.needs_input_grad[0] else None
    g2 = op(g, f1, *grid, False, ctx.tf32) if ctx.needs_input_grad[1] else None
    return g1, g2, None, None, None


def _jvp(ctx: Any, saved: Saved, t1: Tensor | None, t2: Tensor | None, *_: None) -> Tensor | None:
    f1, f2 = saved
    pairs = [(a, b) for a, b in ((t1, f2), (f1, t2)) if a is not None and b is not None]
    op = torch.ops.flowmatch.correlation
    return add([op(*pair, ctx.radius, ctx.stride, ctx.tf32) for pair in pairs])


def _setup_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    g, other, ctx.radius, ctx.stride, ctx.first, ctx.tf32 = inputs
    save(ctx, g, other)


def _backward_grad(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    """Differentiate the gradient: it is bilinear, so its derivatives are the two ops again."""
    g, other = ctx.saved_tensors
    ops, grid = torch.ops.flowmatch, (ctx.radius, ctx.stride)
    pair = (v, other) if ctx.first else (other, v)
    g_g = ops.correlation(*pair, *grid, ctx.tf32) if ctx.needs_input_grad[0] else None
    g_other = None
    if ctx.needs_input_grad[1]:
        g_other = ops.correlation_grad(g, v, *grid, not ctx.first, ctx.tf32)
    return g_g, g_other, None, None, None, None


def _jvp_grad(
    ctx: Any, saved: Saved, t_g: Tensor | None, t_other: Tensor | None, *_: None
) -> Tensor | None:
    g, other = saved
    pairs = [(a, b) for a, b in ((t_g, other), (g, t_other)) if a is not None and b is not None]
    options = (ctx.radius, ctx.stride, ctx.first, ctx.tf32)
    return add([torch.ops.flowmatch.correlation_grad(*pair, *options) for pair in pairs])


register_derivatives("correlation", _setup, _backward, _jvp)
register_derivatives("correlation_grad", _setup_grad, _backward_grad, _jvp_grad)
for _name in ("correlation", "correlation_grad"):
    map_over_batch(f"flowmatch::{_name}")


def _allows_tf32() -> bool:
    """Return whether torch's settings allow TF32 for float32 matrix products."""
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


# The effect of torch.compiler.assume_constant_result, which would import torch._dynamo (1 s).
_allows_tf32._dynamo_marked_constant = True  # type: ignore[attr-defined]


def correlation(f1: Tensor, f2: Tensor, radius: int = 10, stride: int = 2) -> Tensor:
    r"""Compare each pixel of `f1` with the pixels of `f2` around the same place.

    ``volume[b, k, y, x] = mean_c f1[b, c, y, x] * f2[b, c, y + dy, x + dx]``, where displacement
    ``k`` counts ``(dy, dx)`` row by row over ``{-radius, ..., radius} * stride``. Outside the image
    `f2` is 0.

    Differentiable any number of times, in reverse and forward mode and by `torch.func`; results are
    bit-identical from run to run. Half types are summed in float32. Under autocast features keep
    their type; if the types differ, both are converted to the wider. On a GPU float32 is not
    reduced to TF32 unless that is allowed for matrix products
    (``torch.backends.cuda.matmul.fp32_precision = "tf32"``). Infinite or NaN features may also make
    gradients of pixels NaN that they are not compared with, because kernels multiply them by the
    zeros that pad their tiles.

    Args:
        f1: Features of the first image, ``[B, C, H, W]``, float16, bfloat16, float32 or float64.
        f2: Features of the second image, same shape, type and device.
        radius: Number of displacements to each side. FlowNetC: 10.
        stride: Step between displacements, in pixels of the feature map. FlowNetC: 2.

    Returns:
        Cost volume ``[B, (2 * radius + 1) ** 2, H, W]`` of the type of `f1`.

    Raises:
        ValueError: The shapes, types or devices differ, or `radius` or `stride` is out of range.

    Example:
        >>> correlation(torch.ones(1, 8, 4, 4), torch.ones(1, 8, 4, 4), radius=1, stride=1).shape
        torch.Size([1, 9, 4, 4])

    Reference:
        Dosovitskiy et al., FlowNet, ICCV 2015, section 3, equation 1; divided by C here.
    """
    _check(f1, f2, radius, stride)
    f1, f2 = to_one_type(f1, f2)
    tf32 = f1.is_cuda and _allows_tf32()
    volume: Tensor = torch.ops.flowmatch.correlation(f1, f2, radius, stride, tf32)
    return volume


class Correlation(nn.Module):
    r"""The complete correlation layer of Caffe's FlowNet, for features of two images.

    Both inputs are padded with zeros by ``pad``. Patches of ``kernel_size`` around every
    ``stride1``-th pixel of the first are compared with those of the second, displaced by
    ``{-r, ..., r} * stride2`` in both directions, ``r = max_displacement // stride2``::

        out[b, k, y, x] = 1 / (kernel_size^2 * C) * sum_{j, i, c}
            f1[b, c, y1 + j, x1 + i] * f2[b, c, y1 + dy + j, x1 + dx + i]

    with ``j, i`` over the patch and ``y1 = y * stride1 + max_displacement`` its upper left corner;
    ``subtract=True`` sums ``|f1 - f2|`` instead of the product. The default is FlowNetC's layer.

    Args:
        kernel_size: Side of the patches, odd.
        pad: Zeros around both inputs.
        max_displacement: Largest displacement, in pixels.
        stride1: Step between the pixels of the first input that are compared.
        stride2: Step between displacements.
        subtract: Compare by absolute differences instead of products.

    Raises:
        ValueError: An argument is out of range, or the inputs are too small for them.

    Example:
        >>> f1, f2 = torch.rand(2, 1, 8, 12, 16)
        >>> Correlation()(f1, f2).shape
        torch.Size([1, 441, 12, 16])
        >>> Correlation(kernel_size=3, pad=4, max_displacement=4, stride1=2)(f1, f2).shape
        torch.Size([1, 25, 5, 7])

    Reference:
        Dosovitskiy et al., FlowNet, ICCV 2015, section 3; output sizes as in the released layer.
    """

    def __init__(
        self,
        *,
        kernel_size: int = 1,
        pad: int = 20,
        max_displacement: int = 20,
        stride1: int = 1,
        stride2: int = 2,
        subtract: bool = False,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
        if min(pad, max_displacement) < 0 or min(stride1, stride2) < 1:
            raise ValueError(
                "pad, max_displacement >= 0 and stride1, stride2 >= 1 are needed, got "
                f"{pad}, {max_displacement}, {stride1}, {stride2}"
            )
        self.kernel_size, self.pad, self.max_displacement = kernel_size, pad, max_displacement
        self.stride1, self.stride2, self.subtract = stride1, stride2, subtract

    def extra_repr(self) -> str:
        """Return the arguments of the layer, for its representation."""
        names = ("kernel_size", "pad", "max_displacement", "stride1", "stride2", "subtract")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def forward(self, f1: Tensor, f2: Tensor) -> Tensor:
        """Compare ``[B, C, H, W]`` with ``[B, C, H, W]``: ``[B, (2 r + 1)^2, h, w]``."""
        radius = self.max_displacement // self.stride2
        _check(f1, f2, radius, self.stride2)
        border = self.pad - self.max_displacement
        if min(f1.shape[-2:]) + 2 * border < self.kernel_size:
            raise ValueError(
                f"inputs of {tuple(f1.shape[-2:])} padded by {self.pad} are too small for patches "
                f"of {self.kernel_size} displaced by {self.max_displacement}"
            )
        # `correlation` pads f2 by itself; the rest of `pad` adds pixels of f1 that are 0.
        if border > 0:
            f1, f2 = (F.pad(f, (border,) * 4) for f in (f1, f2))
        compare = absolute_difference if self.subtract else correlation
        f1, f2 = to_one_type(f1, f2)
        volume = compare(f1, f2, radius, self.stride2)
        if border < 0:
            volume = volume[..., -border:border, -border:border]
        if self.kernel_size == 1:
            return volume[..., :: self.stride1, :: self.stride1].contiguous()
        # The correlation of patches is the mean over their pixels.
        return F.avg_pool2d(volume, self.kernel_size, self.stride1)
