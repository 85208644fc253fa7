"""Backward warping against plain loops, and its gradients."""

import numpy as np
import pytest
import torch

from flowmatch.ops import warp


def plain_warp(image, flow, padding_mode="zeros"):
    """Bilinear sampling in plain loops, with zeros or the nearest border pixel outside."""
    B, C, H, W = image.shape
    out = np.zeros_like(image)
    for b, y, x in np.ndindex(B, H, W):
        sx, sy = x + flow[b, 0, y, x], y + flow[b, 1, y, x]
        x0, y0 = int(np.floor(sx)), int(np.floor(sy))
        for yy in (y0, y0 + 1):
            for xx in (x0, x0 + 1):
                if padding_mode == "border" or (0 <= yy < H and 0 <= xx < W):
                    pixel = image[b, :, np.clip(yy, 0, H - 1), np.clip(xx, 0, W - 1)]
                    out[b, :, y, x] += pixel * (1 - abs(sx - xx)) * (1 - abs(sy - yy))
    return out


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (1, 2, 8, 1)], ids=str)
def test_equals_plain_loop(shape, padding_mode, device):
    image = torch.randn(shape, dtype=torch.float64)
    flow = 3 * torch.randn(shape[0], 2, *shape[2:], dtype=torch.float64)
    expected = torch.from_numpy(plain_warp(image.numpy(), flow.numpy(), padding_mode))
    warped = warp(image.to(device), flow.to(device), padding_mode)
    torch.testing.assert_close(warped.cpu(), expected)


def test_zero_flow_changes_nothing(device):
    image = torch.rand(2, 3, 33, 47, device=device)
    torch.testing.assert_close(warp(image, torch.zeros(2, 2, 33, 47, device=device)), image)


def test_undoes_a_known_motion(photo):
    """Warping the second frame by the flow from the first to the second gives the first."""
    first = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
    second = torch.roll(first, shifts=(2, 5), dims=(2, 3))  # down 2, right 5
    flow = torch.tensor([5.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, *first.shape[2:])
    # Tolerance: float32 rounding of coordinates times the largest difference of neighbours, 255.
    torch.testing.assert_close(
        warp(second, flow)[..., :-2, :-5], first[..., :-2, :-5], rtol=0, atol=0.02
    )


def test_gradients(device):
    image = torch.randn(1, 2, 4, 5, dtype=torch.float64, device=device, requires_grad=True)
    flow = torch.rand(1, 2, 4, 5, dtype=torch.float64, device=device) + 0.25
    assert torch.autograd.gradcheck(warp, (image, flow.requires_grad_()))


def test_keeps_half_and_float32_coordinates(device):
    """At x = 3000 the spacing of half precision is 2: coordinates must not be in half types."""
    image = torch.arange(4000, device=device).remainder(7).half().view(1, 1, 1, 4000)
    flow = torch.zeros(1, 2, 1, 4000, dtype=torch.half, device=device)
    flow[:, 0] = 1
    warped = warp(image, flow)
    assert warped.dtype == torch.half
    torch.testing.assert_close(warped[..., :-1], image[..., 1:], rtol=0, atol=0.01)


def test_compiles(device):
    image, flow = torch.rand(1, 3, 8, 9, device=device), torch.rand(1, 2, 8, 9, device=device)
    compiled = torch.compile(warp, fullgraph=True)
    torch.testing.assert_close(compiled(image, flow), warp(image, flow))


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (1, 0, 4, 5), (1, 3, 0, 5), (1, 3, 4, 0)])
def test_empty(shape, device):
    image = torch.zeros(shape, device=device)
    assert warp(image, torch.zeros(shape[0], 2, *shape[2:], device=device)).shape == shape


def test_float64_image_keeps_its_precision(device):
    image = torch.rand(1, 1, 9, 11, dtype=torch.float64, device=device)
    still = torch.zeros(1, 2, 9, 11, device=device)
    torch.testing.assert_close(warp(image, still), image, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("image", "flow"),
    [((1, 3, 4, 4), (1, 2, 4, 5)), ((1, 3, 4, 4), (1, 3, 4, 4)), ((3, 4, 4), (2, 4, 4))],
)
def test_refuses(image, flow):
    with pytest.raises(ValueError, match=r"must be \[B, C, H, W\] and \[B, 2, H, W\], got"):
        warp(torch.zeros(image), torch.zeros(flow))


def test_refuses_other_padding():
    with pytest.raises(ValueError, match="must be 'zeros' or 'border', got 'reflection'"):
        warp(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4), "reflection")
