"""RecurrentPyramid: its matching and its checks."""

import pytest
import torch

from flowmatch.flow import load
from flowmatch.flow.networks.recurrent import LevelMatching, RecurrentPyramid


def test_initial_flow_of_a_pass_is_the_motion_of_the_features():
    """Random features move by (2, -3) pixels, which the untrained matching finds."""
    f1 = torch.randn(1, 32, 20, 24)
    f2 = torch.roll(f1, shifts=(-3, 2), dims=(2, 3))
    matching = LevelMatching(torch.cat([f1, f2]), torch.tensor(2.7), radius=4)
    initial, similarity, displacements = matching(torch.zeros(1, 2, 20, 24))
    inside = (0, slice(None), slice(4, 16), slice(4, 20))
    expected = torch.tensor([2.0, -3.0]).view(2, 1, 1).expand(2, 12, 16)
    torch.testing.assert_close(initial[inside], expected, rtol=0, atol=0.1)
    assert (similarity[inside].argmax(0) == 9 * (4 - 3) + 4 + 2).all()  # row dy = -3, column dx = 2
    assert torch.equal(displacements, torch.cat([initial / 8, initial], dim=1))


def test_untrained_decoders_correct_nothing():
    flows = RecurrentPyramid()(*torch.rand(2, 1, 3, 64, 64))
    del flows[13], flows[12], flows[5], flows[0]  # those that the passes at 1/8 and 1/4 begin with
    for corrected, initial in zip(flows[::2], flows[1::2], strict=True):
        assert torch.equal(corrected, initial)


# ---- Initial flows -----------------------------------------------------------------------------


def frames_moved(x, y):
    """Return noise of 16 px and its copy, moved by (x, y) pixels."""
    noise = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 24), scale_factor=8)
    return noise, torch.roll(noise, (y, x), dims=(2, 3))


def test_initial_flow_is_unknown_where_it_is_nan():
    frames = torch.rand(2, 1, 3, 70, 90)
    model = RecurrentPyramid().eval()
    nothing = model.to_grid(torch.full((1, 2, 70, 90), torch.nan))
    assert nothing.shape == (1, 2, 18, 23)
    assert nothing.isnan().all()
    assert torch.equal(model(*frames, nothing)[0], model(*frames)[0])


def test_initial_flow_on_the_grid_is_the_mean_of_what_is_known():
    flow = torch.full((1, 2, 8, 10), torch.nan)
    flow[0, :, 0, 0] = torch.tensor([8.0, -4.0])
    flow[0, :, 1, 1] = torch.tensor([16.0, -8.0])
    flow[0, :, 7, 9] = 20.0
    grid = RecurrentPyramid.to_grid(flow)
    assert grid[0, :, 0, 0].tolist() == [3.0, -1.5]
    assert grid[0, :, 1, 2].tolist() == [5.0, 5.0]
    assert grid.isfinite().all(dim=1).sum() == 2


def test_refuses_an_initial_flow_of_another_grid():
    with pytest.raises(ValueError, match=r"grid, \[B, 2, 16, 24\], got \[1, 2, 64, 96\]"):
        RecurrentPyramid()(*torch.rand(2, 1, 3, 64, 96), torch.zeros(1, 2, 64, 96))


def test_a_right_initial_flow_of_a_long_motion_helps():
    """The shipped weights miss a motion of half the frame, and find it with a flow to begin with.

    Wrong ones hardly change a flow that they find.
    """
    torch.manual_seed(0)
    model = load("recurrent-pyramid")

    def error(x, y, initial):
        first, second = frames_moved(x, y)
        truth = torch.tensor([float(x), float(y)]).view(1, 2, 1, 1).expand(1, 2, 128, 192)
        given = initial.view(1, 2, 1, 1).expand_as(truth)
        with torch.no_grad():
            flow = model(first, second, model.to_grid(given))[0]
        inside = (..., slice(48, 80), slice(16, 176 - x))
        return (flow - truth)[inside].norm(dim=1).mean().item()

    unknown, right = torch.full((2,), torch.nan), torch.tensor([90.0, 6.0])
    assert error(90, 6, right) < 0.5 * error(90, 6, unknown)
    assert error(3, 2, torch.tensor([-40.0, 25.0])) < error(3, 2, unknown) + 0.1


@pytest.mark.parametrize(
    "wrong", [{"channels": (8, 8)}, {"passes": (1, 1)}, {"radius": 0}], ids=str
)
def test_refuses_wrong_arguments(wrong):
    with pytest.raises(ValueError, match="three levels, a pass for each but the finest"):
        RecurrentPyramid(**wrong)
