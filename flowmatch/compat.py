"""Drop-in replacements of other packages' correlation layers, based on our operators.

Functions and classes have the names, arguments and outputs of the packages they replace; an
existing network only changes its import. Unlike the originals they run on the CPU, in half types
and under ``torch.compile``, have derivatives of any order, and support all strides and kernel
sizes.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.ops import (
    Correlation,
    correlation,
    correlation_lookup,
    correlation_lookup_1d,
    correlation_pyramid,
)
from flowmatch.ops._checks import check_floats
from flowmatch.ops._types import wide

Two = tuple[int, int]
Pair = int | Two


def spatial_correlation_sample(
    input1: Tensor,
    input2: Tensor,
    kernel_size: Pair = 1,
    patch_size: Pair = 1,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    dilation_patch: Pair = 1,
) -> Tensor:
    """Replacement for ``spatial_correlation_sampler.spatial_correlation_sample`` (0.5).

    Args:
        input1: Features ``[B, C, H, W]``.
        input2: Features of the second image, same shape.
        kernel_size: Side of the compared patches. All sizes are an int or (height, width).
        patch_size: Number of displacements along each axis.
        stride: Step between the compared pixels of `input1`.
        padding: Zeros around both inputs.
        dilation: Step between the pixels of a compared patch.
        dilation_patch: Step between displacements.

    Returns:
        Sums (not means) of products, ``[B, patch height, patch width, h, w]``.

    Raises:
        ValueError: The inputs do not match or are smaller than a patch, or an argument is out of
            range.

    Example:
        >>> import torch
        >>> f1, f2 = torch.rand(2, 1, 8, 6, 7)
        >>> spatial_correlation_sample(f1, f2, patch_size=5, dilation_patch=2).shape
        torch.Size([1, 5, 5, 6, 7])

    Reference:
        Pinard, Pytorch-Correlation-extension.
    """
    kernel, patch, steps, pad, dilations, patch_steps = (
        (value, value) if isinstance(value, int) else value
        for value in (kernel_size, patch_size, stride, padding, dilation, dilation_patch)
    )
    if min(*kernel, *patch, *steps, *dilations, *patch_steps) < 1 or min(pad) < 0:
        raise ValueError(
            "sizes, strides and dilations >= 1 and padding >= 0 are needed, got "
            f"{kernel_size=}, {patch_size=}, {stride=}, {padding=}, {dilation=}, {dilation_patch=}"
        )
    _check_inputs(input1, input2, kernel, dilations, pad)
    B, C = input1.shape[:2]
    dtype = torch.promote_types(input1.dtype, input2.dtype)
    # Half types are rounded once, at the end, after the multiplication by C and the sum.
    first, second = (
        F.pad(f.to(wide(dtype)), (pad[1], pad[1], pad[0], pad[0])) for f in (input1, input2)
    )
    # Our displacements are a square grid with a single step: compute one that contains theirs.
    step = math.gcd(*patch_steps)
    radius = max(size // 2 * a // step for size, a in zip(patch, patch_steps, strict=True))
    volume = correlation(first, second, radius, step)
    side = 2 * radius + 1
    volume = volume.view(B, side, side, *volume.shape[-2:])
    rows, columns = (
        slice(radius - (size - 1) // 2 * a // step, radius + size // 2 * a // step + 1, a // step)
        for size, a in zip(patch, patch_steps, strict=True)
    )
    sums = _sum_patches(volume[:, rows, columns], kernel, dilations, steps)
    return (C * sums).to(dtype)


def _check_inputs(input1: Tensor, input2: Tensor, kernel: Two, dilations: Two, pad: Two) -> None:
    """Raise a ValueError unless the inputs match and are at least as large as a patch."""
    shape = tuple(input1.shape)
    if len(shape) != 4 or input2.shape != input1.shape:
        raise ValueError(
            "input1 and input2 must be [B, C, H, W] of the same shape, "
            f"got {shape} and {tuple(input2.shape)}"
        )
    check_floats("input1 and input2", input1, input2)
    needed = [(k - 1) * d + 1 - 2 * p for k, d, p in zip(kernel, dilations, pad, strict=True)]
    if shape[2] < needed[0] or shape[3] < needed[1]:
        raise ValueError(
            f"inputs of {shape[2:]} padded by {pad} are too small for patches of {kernel} "
            f"with dilation {dilations}"
        )


def _sum_patches(planes: Tensor, kernel: Two, dilations: Two, steps: Two) -> Tensor:
    """Sum over patches in the last two dimensions; unlike a convolution without TF32 on a GPU."""
    for dim, k, d, step in zip((-2, -1), kernel, dilations, steps, strict=True):
        pixels = planes.unfold(dim, (k - 1) * d + 1, step)[..., ::d].unbind(-1)
        planes = functools.reduce(torch.add, pixels)
    return planes


class SpatialCorrelationSampler(nn.Module):
    """Replacement for ``spatial_correlation_sampler.SpatialCorrelationSampler``.

    The arguments are those of `spatial_correlation_sample`.
    """

    def __init__(
        self,
        kernel_size: Pair = 1,
        patch_size: Pair = 1,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        dilation_patch: Pair = 1,
    ) -> None:
        super().__init__()
        self.arguments = (kernel_size, patch_size, stride, padding, dilation, dilation_patch)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """Return ``[B, patch height, patch width, h, w]``."""
        return spatial_correlation_sample(input1, input2, *self.arguments)


class MmcvCorrelation(SpatialCorrelationSampler):
    """Replacement for ``mmcv.ops.Correlation``.

    Args:
        kernel_size: Side of the compared patches.
        max_displacement: Number of displacements to each side, `dilation_patch` patch_steps.
        stride: Step between the compared pixels of the first input.
        padding: Zeros around both inputs.
        dilation: Step between the pixels of a compared patch.
        dilation_patch: Step between displacements.

    Example:
        >>> import torch
        >>> f1, f2 = torch.rand(2, 1, 8, 6, 7)
        >>> MmcvCorrelation(max_displacement=4)(f1, f2).shape
        torch.Size([1, 9, 9, 6, 7])
    """

    def __init__(
        self,
        kernel_size: int = 1,
        max_displacement: int = 1,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        dilation_patch: int = 1,
    ) -> None:
        side = 2 * max_displacement + 1
        super().__init__(kernel_size, side, stride, padding, dilation, dilation_patch)


class FlowNet2Correlation(nn.Module):
    """Replacement for flownet2-pytorch's ``correlation_package.Correlation``.

    Args:
        pad_size: Zeros around both inputs.
        kernel_size: Side of the compared patches, odd.
        max_displacement: Largest displacement, in pixels.
        stride1: Step between the compared pixels of the first input.
        stride2: Step between displacements.
        corr_multiply: Must be 1; the original ignores it.

    Example:
        >>> import torch
        >>> f1, f2 = torch.rand(2, 1, 8, 6, 7)
        >>> FlowNet2Correlation(20, 1, 20, 1, 2, 1)(f1, f2).shape
        torch.Size([1, 441, 6, 7])
    """

    def __init__(
        self,
        pad_size: int = 20,
        kernel_size: int = 1,
        max_displacement: int = 20,
        stride1: int = 1,
        stride2: int = 2,
        corr_multiply: int = 1,
    ) -> None:
        super().__init__()
        if corr_multiply != 1:
            raise ValueError(f"corr_multiply must be 1, got {corr_multiply}")
        self.layer = Correlation(
            kernel_size=kernel_size,
            pad=pad_size,
            max_displacement=max_displacement,
            stride1=stride1,
            stride2=stride2,
        )

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """Return means of products, ``[B, side^2, h, w]``."""
        volume: Tensor = self.layer(input1, input2)
        return volume


class CorrBlock:
    """Replacement for RAFT's ``CorrBlock`` without the volume: windows are computed on demand.

    Args:
        fmap1: Features of the first image, ``[B, C, H, W]``.
        fmap2: Features of the second image, same shape.
        num_levels: Number of levels of the pyramid.
        radius: Window radius in pixels of each level.

    Example:
        >>> import torch
        >>> f1, f2 = torch.rand(2, 1, 8, 16, 24)
        >>> CorrBlock(f1, f2, num_levels=4, radius=4)(torch.zeros(1, 2, 16, 24)).shape
        torch.Size([1, 324, 16, 24])

    Reference:
        Teed and Deng, RAFT, ECCV 2020; its ``core/corr.py``.
    """

    def __init__(self, fmap1: Tensor, fmap2: Tensor, num_levels: int = 4, radius: int = 4) -> None:
        self.radius = radius
        # float32 like the original volume; channels last, because there are many lookups.
        self.first, *self.pyramid = (
            f.contiguous(memory_format=torch.channels_last)
            for f in (fmap1.float(), *correlation_pyramid(fmap2.float(), num_levels))
        )

    def __call__(self, coords: Tensor) -> Tensor:
        """Return windows ``[B, levels * side^2, H, W]``, dx-major, at `coords` ``[B, 2, H, W]``."""
        windows = correlation_lookup(self.first, self.pyramid, coords, self.radius)
        side = 2 * self.radius + 1
        windows = windows.view(len(windows), len(self.pyramid), side, side, *windows.shape[2:])
        return windows.transpose(2, 3).flatten(1, 3)


class AlternateCorrBlock(CorrBlock):
    """Replacement for RAFT's ``AlternateCorrBlock``, a `CorrBlock` that needs less memory."""


class CorrBlock1D:
    """Replacement for RAFT-Stereo's ``CorrBlock1D`` and its faster variants: windows in a row.

    Args:
        fmap1: Features of the left image, ``[B, C, H, W]``.
        fmap2: Features of the right image.
        num_levels: Number of levels of the pyramid.
        radius: Window radius in pixels of each level.

    Example:
        >>> import torch
        >>> f1, f2 = torch.rand(2, 1, 8, 5, 24)
        >>> CorrBlock1D(f1, f2)(torch.zeros(1, 2, 5, 24)).shape
        torch.Size([1, 36, 5, 24])

    Reference:
        Lipson, Teed and Deng, RAFT-Stereo, 3DV 2021; its ``core/corr.py``.
    """

    def __init__(self, fmap1: Tensor, fmap2: Tensor, num_levels: int = 4, radius: int = 4) -> None:
        self.radius = radius
        self.first, *self.pyramid = (
            f.contiguous(memory_format=torch.channels_last)
            for f in (fmap1.float(), *correlation_pyramid(fmap2.float(), num_levels, rows=False))
        )

    def __call__(self, coords: Tensor) -> Tensor:
        """Return the windows around x, the first of `coords`: ``[B, levels * side, H, W]``."""
        return correlation_lookup_1d(self.first, self.pyramid, coords[:, :1], self.radius)
