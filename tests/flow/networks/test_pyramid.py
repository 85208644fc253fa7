"""PyramidNet: its matching, and the upsampling by convex combinations."""

import torch

from flowmatch.flow.networks import (
    PyramidNet,
)
from flowmatch.flow.networks.pyramid import convex_upsample


def test_initial_flow_is_the_motion_of_the_features():
    """Random features move by (2, -3) pixels, which the untrained matching finds."""
    model = PyramidNet()
    f1 = torch.randn(1, 32, 20, 24)
    f2 = torch.roll(f1, shifts=(-3, 2), dims=(2, 3))
    initial, corrected, _ = model.refine_level(f1, f2, torch.zeros(1, 2, 1, 1), model.context[0])
    inside = (0, slice(None), slice(4, 16), slice(4, 20))
    expected = torch.tensor([2.0, -3.0]).view(2, 1, 1).expand(2, 12, 16)
    torch.testing.assert_close(initial[inside], expected, rtol=0, atol=0.1)
    assert torch.equal(initial, corrected)  # an untrained decoder corrects nothing


def test_pyramid_in_float64():
    flows = PyramidNet().double()(*torch.rand(2, 1, 3, 32, 32, dtype=torch.float64))
    assert all(flow.dtype == torch.float64 for flow in flows)


def test_convex_upsample_equal_weights():
    """Equal weights average the 3 x 3 neighbourhood; a constant flow keeps its direction."""
    flow = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 3, 4)
    up = convex_upsample(flow, torch.zeros(1, 9 * 16, 3, 4), 4)
    torch.testing.assert_close(up, 4 * flow[..., :1, :1].expand(1, 2, 12, 16))


def test_convex_upsample_border():
    """All weight on neighbour 3, the left one: the first column shows the padding."""
    flow = torch.arange(1.0, 13.0).view(1, 1, 3, 4).repeat(1, 2, 1, 1)
    scores = torch.zeros(1, 9, 3, 4)
    scores[:, 3] = 100
    torch.testing.assert_close(convex_upsample(flow, scores, 1)[..., 0], flow[..., 0])
    zeros = convex_upsample(flow, scores, 1, border="constant")
    torch.testing.assert_close(zeros[..., 0], torch.zeros(1, 2, 3))
    torch.testing.assert_close(zeros[..., 1:], flow[..., :3])


def test_convex_upsample_picks_a_neighbour():
    """All weight on neighbour 5, the right one, moves the field one pixel to the left."""
    flow = torch.arange(12.0).view(1, 1, 3, 4).repeat(1, 2, 1, 1)
    scores = torch.zeros(1, 9, 3, 4)
    scores[:, 5] = 100
    up = convex_upsample(flow, scores, 1)
    torch.testing.assert_close(up[..., :3], flow[..., 1:])
