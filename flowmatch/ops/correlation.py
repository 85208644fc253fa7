"""The FlowNet cost volume: correlation of each pixel with a neighbourhood in the other image."""

from collections.abc import Sequence
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
from flowmatch.ops.absolute_difference import absolute_difference
from flowmatch.ops.correlation_reference import (
    correlation_grad_reference,
    correlation_reference,
    pair,
)

torch.library.define(
    "flowmatch::correlation",
    "(Tensor f1, Tensor f2, int[2] radius, int stride, bool tf32=False, int[2] offset=0) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "flowmatch::correlation_grad",
    "(Tensor g, Tensor other, int[2] radius, int stride, bool first, bool tf32=False, "
    "int[2] offset=0) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


for _name, _reference in (
    ("correlation", correlation_reference),
    ("correlation_grad", correlation_grad_reference),
):
    torch.library.impl(f"flowmatch::{_name}", "default")(_native.reference(_reference))


def _check(
    f1: Tensor,
    f2: Tensor,
    radius: int | tuple[int, int],
    stride: int,
    offset: tuple[int, int] = (0, 0),
) -> None:
    if f1.dim() != 4 or f1.shape != f2.shape:
        raise ValueError(
            "f1 and f2 must be [B, C, H, W] of the same shape, "
            f"got {tuple(f1.shape)} and {tuple(f2.shape)}"
        )
    check_floats("f1 and f2", f1, f2)
    check_devices("f1 and f2", f1, f2)
    radii = pair(radius)
    if len(radii) != 2 or not (0 <= min(radii) <= max(radii) < 2**15 and 1 <= stride < 2**31):
        raise ValueError(
            "0 <= radius < 2^15, a number or (y, x), and 1 <= stride < 2^31 are needed, "
            f"got {radius} and {stride}"
        )
    if len(offset) != 2 or max(map(abs, offset)) >= 2**31:
        raise ValueError(f"offset must be (y, x) in (-2^31, 2^31), got {offset}")


def _check_groups(channels: int, groups: int) -> None:
    if groups < 1 or channels % groups:
        raise ValueError(f"groups must divide the {channels} channels, got {groups}")


def _check_kernel(
    f1: Tensor, f2: Tensor, radius: Sequence[int], stride: int, offset: Sequence[int]
) -> int:
    """Check the arguments as the kernels do; return the number of displacements."""
    op = "correlation"
    check_kernel(op, f1.dim() == 4 and f2.dim() == 4, "f1 and f2 must be [B, C, H, W]")
    check_kernel(op, f1.shape == f2.shape, "f1 and f2 must have the same shape")
    check_kernel(op, same_kind(f1, f2), "f1 and f2 must have the same type and device")
    check_kernel_float(op, f1)
    fits = len(radius) == len(offset) == 2
    check_kernel(op, fits, "radius and offset must have two values")
    fits = 0 <= min(radius) <= max(radius) < 2**15 and 1 <= stride < 2**31
    check_kernel(op, fits, "radius must be in [0, 2^15) and stride in [1, 2^31)")
    check_kernel(op, max(map(abs, offset)) < 2**31, "offset must be in (-2^31, 2^31)")
    return (2 * radius[0] + 1) * (2 * radius[1] + 1)


@torch.library.register_fake("flowmatch::correlation")  # type: ignore[untyped-decorator]
def _(
    f1: Tensor,
    f2: Tensor,
    radius: Sequence[int],
    stride: int,
    tf32: bool = False,
    offset: Sequence[int] = (0, 0),
) -> Tensor:
    count = _check_kernel(f1, f2, radius, stride, offset)
    B, _, H, W = f1.shape
    return f1.new_empty(B, count, H, W)


@torch.library.register_fake("flowmatch::correlation_grad")  # type: ignore[untyped-decorator]
def _(
    g: Tensor,
    other: Tensor,
    radius: Sequence[int],
    stride: int,
    first: bool,
    tf32: bool = False,
    offset: Sequence[int] = (0, 0),
) -> Tensor:
    count = _check_kernel(other, other, radius, stride, offset)
    op, (B, _, H, W) = "correlation_grad", other.shape
    check_kernel(op, g.shape == (B, count, H, W), "g must be [B, displacements, H, W]")
    check_kernel(op, same_kind(g, other), "g and other must have the same type and device")
    return torch.empty_like(other, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    f1, f2, ctx.radius, ctx.stride, ctx.tf32, ctx.offset = inputs
    save(ctx, f1, f2)


def _correlate(ctx: Any, f1: Tensor, f2: Tensor) -> Tensor:
    op = torch.ops.flowmatch.correlation
    volume: Tensor = op(f1, f2, ctx.radius, ctx.stride, ctx.tf32, ctx.offset)
    return volume


def _differentiate(ctx: Any, g: Tensor, other: Tensor, first: bool) -> Tensor:
    op = torch.ops.flowmatch.correlation_grad
    grad: Tensor = op(g, other, ctx.radius, ctx.stride, first, ctx.tf32, ctx.offset)
    return grad


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    f1, f2 = ctx.saved_tensors
    g1 = _differentiate(ctx, g, f2, True) if ctx.needs_input_grad[0] else None
    g2 = _differentiate(ctx, g, f1, False) if ctx.needs_input_grad[1] else None
    return g1, g2, None, None, None, None


def _jvp(ctx: Any, saved: Saved, t1: Tensor | None, t2: Tensor | None, *_: None) -> Tensor | None:
    f1, f2 = saved
    pairs = [(a, b) for a, b in ((t1, f2), (f1, t2)) if a is not None and b is not None]
    return add([_correlate(ctx, *pair) for pair in pairs])


def _setup_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    g, other, ctx.radius, ctx.stride, ctx.first, ctx.tf32, ctx.offset = inputs
    save(ctx, g, other)


def _backward_grad(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    """Differentiate the gradient: it is bilinear, so its derivatives are the two ops again."""
    g, other = ctx.saved_tensors
    images = (v, other) if ctx.first else (other, v)
    g_g = _correlate(ctx, *images) if ctx.needs_input_grad[0] else None
    g_other = None
    if ctx.needs_input_grad[1]:
        g_other = _differentiate(ctx, g, v, not ctx.first)
    return g_g, g_other, None, None, None, None, None


def _jvp_grad(
    ctx: Any, saved: Saved, t_g: Tensor | None, t_other: Tensor | None, *_: None
) -> Tensor | None:
    g, other = saved
    pairs = [(a, b) for a, b in ((t_g, other), (g, t_other)) if a is not None and b is not None]
    return add([_differentiate(ctx, *pair, ctx.first) for pair in pairs])


register_derivatives("correlation", _setup, _backward, _jvp)
register_derivatives("correlation_grad", _setup_grad, _backward_grad, _jvp_grad)
for _name in ("correlation", "correlation_grad"):
    map_over_batch(f"flowmatch::{_name}")


def _allows_tf32() -> bool:
    """Return whether torch's settings allow TF32 for float32 matrix products."""
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


# The effect of torch.compiler.assume_constant_result, which would import torch._dynamo (1 s).
_allows_tf32._dynamo_marked_constant = True  # type: ignore[attr-defined]


def correlation(
    f1: Tensor,
    f2: Tensor,
    radius: int | tuple[int, int] = 10,
    stride: int = 2,
    *,
    offset: tuple[int, int] = (0, 0),
    groups: int = 1,
) -> Tensor:
    r"""Compare each pixel of `f1` with the pixels of `f2` around the same place.

    ``volume[b, k, y, x] = mean_c f1[b, c, y, x] * f2[b, c, y + dy, x + dx]``, where displacement
    ``k`` counts ``(dy, dx)`` row by row over ``{-radius, ..., radius} * stride + offset``. Outside
    the image `f2` is 0. With groups, the channels of each group have a volume of their own, one
    after the other.

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
        radius: Number of displacements to each side, or ``(ry, rx)``. FlowNetC: 10.
        stride: Step between displacements, in pixels of the feature map. FlowNetC: 2.
        offset: Displacement ``(oy, ox)`` of the middle, in pixels. For stereo with disparities 0 to
            2 r, where `f2` is the right image: ``radius=(0, r), stride=1, offset=(0, -r)``.
        groups: Number of groups of channels. GwcNet: 40.

    Returns:
        Cost volume ``[B, groups * (2 * ry + 1) * (2 * rx + 1), H, W]`` of the type of `f1`.

    Raises:
        ValueError: The shapes, types or devices differ, `radius`, `stride` or `offset` is out of
            range, or the channels cannot be divided into `groups`.

    Example:
        >>> correlation(torch.ones(1, 8, 4, 4), torch.ones(1, 8, 4, 4), radius=1, stride=1).shape
        torch.Size([1, 9, 4, 4])

    Reference:
        Dosovitskiy et al., FlowNet, ICCV 2015, section 3, equation 1; divided by C here. Groups:
        Guo et al., Group-wise Correlation Stereo Network, CVPR 2019, equation 2.
    """
    _check(f1, f2, radius, stride, offset)
    B, C, H, W = f1.shape
    _check_groups(C, groups)
    f1, f2 = to_one_type(f1, f2)
    tf32 = f1.is_cuda and _allows_tf32()
    if groups > 1:
        f1, f2 = (f.reshape(B * groups, C // groups, H, W) for f in (f1, f2))
    volume: Tensor = torch.ops.flowmatch.correlation(f1, f2, pair(radius), stride, tf32, offset)
    return volume.view(B, groups * volume.shape[1], H, W) if groups > 1 else volume


class Correlation(nn.Module):
    r"""The complete correlation layer of Caffe's FlowNet, for features of two images.

    Both inputs are padded with zeros by ``pad``. Patches of ``kernel_size`` around every
    ``stride1``-th pixel of the first are compared with those of the second, displaced by
    ``{-r, ..., r} * stride2 + offset`` in both directions, ``r = max_displacement // stride2``::

        out[b, k, y, x] = 1 / (kernel_size^2 * C) * sum_{j, i, c}
            f1[b, c, y1 + j, x1 + i] * f2[b, c, y1 + dy + j, x1 + dx + i]

    with ``j, i`` over the patch and ``y1 = y * stride1 + max_displacement`` its upper left corner;
    ``subtract=True`` sums ``|f1 - f2|`` instead of the product. Outside the padded image `f2` is 0.
    With groups, the channels of each group have a volume of their own, one after the other. The
    default is FlowNetC's layer.

    Args:
        kernel_size: Side of the patches, odd.
        pad: Zeros around both inputs, a number or ``(y, x)``.
        max_displacement: Largest displacement without the offset, in pixels, a number or
            ``(y, x)``.
        stride1: Step between the pixels of the first input that are compared.
        stride2: Step between displacements.
        subtract: Compare by absolute differences instead of products.
        offset: Displacement ``(y, x)`` of the middle, in pixels.
        groups: Number of groups of channels.

    Raises:
        ValueError: An argument is out of range, or the inputs are too small for them.

    Example:
        >>> f1, f2 = torch.rand(2, 1, 8, 12, 16)
        >>> Correlation()(f1, f2).shape
        torch.Size([1, 441, 12, 16])
        >>> Correlation(kernel_size=3, pad=4, max_displacement=4, stride1=2)(f1, f2).shape
        torch.Size([1, 25, 5, 7])
        >>> stereo = Correlation(pad=(0, 3), max_displacement=(0, 3), stride2=1, offset=(0, -3))
        >>> stereo(f1, f2).shape
        torch.Size([1, 7, 12, 16])

    Reference:
        Dosovitskiy et al., FlowNet, ICCV 2015, section 3; output sizes as in the released layer.
    """

    def __init__(
        self,
        *,
        kernel_size: int = 1,
        pad: int | tuple[int, int] = 20,
        max_displacement: int | tuple[int, int] = 20,
        stride1: int = 1,
        stride2: int = 2,
        subtract: bool = False,
        offset: tuple[int, int] = (0, 0),
        groups: int = 1,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
        pairs = pair(pad), pair(max_displacement)
        sizes = [len(values) for values in (*pairs, offset)]
        if sizes != [2, 2, 2] or min(map(min, pairs)) < 0 or min(stride1, stride2) < 1:
            raise ValueError(
                "pad, max_displacement >= 0, numbers or (y, x), stride1, stride2 >= 1 and an "
                f"offset (y, x) are needed, got {pad}, {max_displacement}, {stride1}, {stride2} "
                f"and {offset}"
            )
        self.kernel_size, self.pad, self.max_displacement = kernel_size, pad, max_displacement
        self.stride1, self.stride2, self.subtract = stride1, stride2, subtract
        self.offset, self.groups = offset, groups

    def extra_repr(self) -> str:
        """Return the arguments of the layer, for its representation."""
        names = ["kernel_size", "pad", "max_displacement", "stride1", "stride2", "subtract"]
        names += [
            n for n, plain in (("offset", (0, 0)), ("groups", 1)) if getattr(self, n) != plain
        ]
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def forward(self, f1: Tensor, f2: Tensor) -> Tensor:
        """Compare ``[B, C, H, W]`` with ``[B, C, H, W]``: ``[B, groups * displacements, h, w]``."""
        farthest = pair(self.max_displacement)
        radius = (farthest[0] // self.stride2, farthest[1] // self.stride2)
        _check(f1, f2, radius, self.stride2, self.offset)
        B, C, H, W = f1.shape
        _check_groups(C, self.groups)
        by, bx = (p - d for p, d in zip(pair(self.pad), farthest, strict=True))
        if min(H + 2 * by, W + 2 * bx) < self.kernel_size:
            raise ValueError(
                f"inputs of {(H, W)} padded by {self.pad} are too small for patches "
                f"of {self.kernel_size} displaced by {self.max_displacement}"
            )
        f1, f2 = to_one_type(f1, f2)
        # `correlation` pads f2 by itself; the rest of `pad` adds pixels of f1 that are 0.
        if max(by, bx) > 0:
            rest = (max(bx, 0),) * 2 + (max(by, 0),) * 2
            f1, f2 = (F.pad(f, rest) for f in (f1, f2))
        if self.groups > 1:
            f1, f2 = (f.reshape(B * self.groups, C // self.groups, *f.shape[2:]) for f in (f1, f2))
        compare = absolute_difference if self.subtract else correlation
        volume = compare(f1, f2, radius, self.stride2, offset=self.offset)
        if self.groups > 1:
            volume = volume.view(B, self.groups * volume.shape[1], *volume.shape[2:])
        if min(by, bx) < 0:
            top, left = max(-by, 0), max(-bx, 0)
            volume = volume[..., top : volume.shape[2] - top, left : volume.shape[3] - left]
        if self.kernel_size == 1:
            return volume[..., :: self.stride1, :: self.stride1].contiguous()
        # The correlation of patches is the mean over their pixels.
        return F.avg_pool2d(volume, self.kernel_size, self.stride1)
