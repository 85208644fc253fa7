"""Replacements of other packages' layers against plain-loop definitions of the originals."""

import importlib.util

import numpy as np
import pytest
import torch

from flowmatch.compat import (
    AlternateCorrBlock,
    CorrBlock,
    CorrBlock1D,
    FlowNet2Correlation,
    MmcvCorrelation,
    SpatialCorrelationSampler,
    spatial_correlation_sample,
)
from flowmatch.ops import Correlation

CASES = [  # kernel_size, patch_size, stride, padding, dilation, dilation_patch
    (1, 1, 1, 0, 1, 1),
    (1, 5, 1, 0, 1, 2),  # like FlowNetC's, but smaller
    (3, 3, 2, 1, 1, 1),
    (3, 5, 1, 2, 2, 3),
    ((1, 3), (3, 5), (2, 1), (0, 1), (1, 2), (2, 1)),  # different height and width
    (1, 4, 1, 0, 1, 2),  # even patch size: one displacement more to the right and down
]


def both(value):
    return (value, value) if isinstance(value, int) else value


def plain(f1, f2, *case):
    """Sums of products over a patch, pixel by pixel, with zeros outside the images."""
    kernel, patch, stride, pad, dilation, apart = map(both, case)
    B, C, H, W = f1.shape

    def at(image, y, x):
        inside = 0 <= y < H and 0 <= x < W
        return image[:, :, y, x] if inside else np.zeros((B, C))

    h, w = (
        (side + 2 * pad[i] - (kernel[i] - 1) * dilation[i] - 1) // stride[i] + 1
        for i, side in enumerate((H, W))
    )
    out = np.zeros((B, *patch, h, w))
    for py, px, y, x, ky, kx in np.ndindex(*patch, h, w, *kernel):
        y1 = y * stride[0] - pad[0] + ky * dilation[0]
        x1 = x * stride[1] - pad[1] + kx * dilation[1]
        y2 = y1 + (py - (patch[0] - 1) // 2) * apart[0]
        x2 = x1 + (px - (patch[1] - 1) // 2) * apart[1]
        out[:, py, px, y, x] += (at(f1, y1, x1) * at(f2, y2, x2)).sum(1)
    return out


def features():
    return torch.randn(2, 2, 3, 7, 9, dtype=torch.float64)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_spatial_correlation_sampler(case):
    f1, f2 = features()
    expected = torch.from_numpy(plain(f1.numpy(), f2.numpy(), *case))
    torch.testing.assert_close(spatial_correlation_sample(f1, f2, *case), expected)
    torch.testing.assert_close(SpatialCorrelationSampler(*case)(f1, f2), expected)


@pytest.mark.parametrize("case", [case for case in CASES if isinstance(case[0], int)], ids=str)
def test_against_the_package_itself(case):
    if importlib.util.find_spec("spatial_correlation_sampler") is None:
        pytest.skip("spatial-correlation-sampler is not installed")
    from spatial_correlation_sampler import spatial_correlation_sample as theirs

    f1, f2 = features()
    torch.testing.assert_close(
        spatial_correlation_sample(f1, f2, *case), theirs(f1, f2, *case), check_stride=False
    )


def test_mmcv_counts_displacements_in_steps():
    f1, f2 = features()
    expected = torch.from_numpy(plain(f1.numpy(), f2.numpy(), 3, 5, 2, 1, 1, 2))
    found = MmcvCorrelation(3, max_displacement=2, stride=2, padding=1, dilation_patch=2)(f1, f2)
    torch.testing.assert_close(found, expected)


def test_flownet2_is_the_caffe_layer():
    f1, f2 = features()
    layer = Correlation(kernel_size=3, pad=3, max_displacement=2, stride1=2, stride2=1)
    torch.testing.assert_close(FlowNet2Correlation(3, 3, 2, 2, 1, 1)(f1, f2), layer(f1, f2))
    f = torch.rand(1, 4, 6, 7)
    assert FlowNet2Correlation(20, 1, 20, 1, 2, 1)(f, f).shape == (1, 441, 6, 7)


def test_the_three_agree_on_flownetc():
    """FlowNetC's layer with each package's arguments; they differ by the mean over channels."""
    f1, f2 = features()
    theirs = spatial_correlation_sample(f1, f2, patch_size=5, dilation_patch=2).flatten(1, 2) / 3
    nvidia = FlowNet2Correlation(4, 1, 4, 1, 2, 1)(f1, f2)
    torch.testing.assert_close(theirs, nvidia)


def test_gradients():
    f1, f2 = (f[:1, :2, :4, :4].clone().requires_grad_() for f in features())
    assert torch.autograd.gradcheck(
        lambda a, b: spatial_correlation_sample(a, b, 3, 3, 2, 1, 1, 2), (f1, f2)
    )


@pytest.mark.parametrize("bad", [{"kernel_size": 0}, {"padding": -1}, {"stride": (1, 0)}])
def test_refuses(bad):
    with pytest.raises(ValueError, match="are needed, got"):
        spatial_correlation_sample(*features(), **bad)


def test_refuses_what_the_peer_would_read_past():
    f1, f2 = torch.rand(1, 3, 4, 4), torch.rand(1, 2, 4, 4)
    with pytest.raises(ValueError, match="same shape, got"):
        spatial_correlation_sample(f1, f2)
    with pytest.raises(ValueError, match="corr_multiply must be 1"):
        FlowNet2Correlation(corr_multiply=0)


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((2, 3, 4), {}, r"\[B, C, H, W\] of the same shape, got \(2, 3, 4\)"),
        ((1, 2, 3, 4), {"kernel_size": 9}, r"inputs of \(3, 4\) padded by \(0, 0\) are too small"),
        ((1, 2, 9, 4), {"kernel_size": (3, 3), "dilation": 2}, "patches of .3, 3. with dilation"),
    ],
)
def test_refuses_what_holds_no_patch(shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        spatial_correlation_sample(torch.rand(shape), torch.rand(shape), **arguments)
    with pytest.raises(ValueError, match="same float type"):
        spatial_correlation_sample(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2).half())


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_half_types_are_rounded_once(kernel_size):
    """A mean of small products underflows in float16, its sum does not."""
    f1, f2 = (1e-2 * torch.randn(2, 1, 256, 6, 6)).half()
    found = spatial_correlation_sample(f1, f2, kernel_size, 3)
    exact = spatial_correlation_sample(f1.double(), f2.double(), kernel_size, 3)
    assert found.dtype == torch.float16
    rounded = (exact.half().double() - exact).norm()
    assert (found.double() - exact).norm() < 1.01 * rounded


def plain_raft(f1, f2, coords, levels, radius, rows=True):
    """RAFT's lookup pixel by pixel, from a pooled volume, dx-major; for stereo in one row."""
    C, H, W = f1.shape
    steps = range(-radius, radius + 1)
    out = np.zeros((levels, len(steps), len(steps) if rows else 1, H, W))
    for y, x in np.ndindex(H, W):
        products = np.tensordot(f1[:, y, x], f2, 1) / np.sqrt(C)  # [H, W]
        for level in range(levels):
            for i, dx in enumerate(steps):
                for j, dy in enumerate(steps if rows else [0]):
                    u = coords[0, y, x] / 2**level + dx
                    v = coords[1, y, x] / 2**level + dy if rows else y
                    out[level, i, j, y, x] = bilinear(products, v, u)
            h, w = products.shape
            products = products[: h // 2 * 2] if rows else products
            products = products[:, : w // 2 * 2]
            products = (products[:, ::2] + products[:, 1::2]) / 2
            products = (products[::2] + products[1::2]) / 2 if rows else products
    return out.reshape(-1, H, W)


def bilinear(image, v, u):
    """Bilinear sampling, zero outside."""
    total, top, left = 0.0, int(np.floor(v)), int(np.floor(u))
    for y, x in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
            total += (1 - abs(v - y)) * (1 - abs(u - x)) * image[y, x]
    return total


@pytest.mark.parametrize("block", [CorrBlock, AlternateCorrBlock])
def test_raft(block):
    f1, f2 = torch.randn(2, 1, 4, 9, 11)
    coords = 14 * torch.rand(1, 2, 9, 11) - 2
    found = block(f1.half(), f2.half(), num_levels=3, radius=2)(coords)
    assert found.dtype == torch.float32
    halves = (f[0].half().double().numpy() for f in (f1, f2))
    expected = plain_raft(*halves, coords[0].double().numpy(), 3, 2)
    torch.testing.assert_close(found[0].double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_raft_stereo():
    f1, f2 = torch.randn(2, 1, 4, 3, 16)
    coords = 20 * torch.rand(1, 2, 3, 16) - 2
    found = CorrBlock1D(f1, f2, num_levels=3, radius=2)(coords)
    arrays = (t[0].double().numpy() for t in (f1, f2, coords))
    expected = plain_raft(*arrays, 3, 2, rows=False)
    torch.testing.assert_close(found[0].double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)
