"""Per-pixel choice among flows."""

import numpy as np
import pytest
import torch
from torch import nn

from flowmatch.flow import FlowOptions, combine
from flowmatch.flow.baselines import dis
from flowmatch.flow.combine import (
    UNMATCHED_COST,
    census_in_strips,
    combine_flows,
    filter_guided,
    frame_cost,
    matching_cost,
)
from flowmatch.flow.estimate import estimate_flow


@pytest.fixture(scope="module")
def moved():
    """An image whose upper half moves 5 pixels right and lower half 3 down, and both flows."""
    from skimage import data

    texture = torch.from_numpy(data.coffee()[100:196, 60:260]).permute(2, 0, 1)[None] / 255
    first, second = texture[..., 20:180].clone(), texture[..., 20:180].clone()
    second[..., :48, :] = texture[..., :48, 15:175]
    second[..., 51:, :] = texture[..., 48:93, 20:180]
    upper = torch.zeros(1, 2, 96, 160)
    upper[:, 0] = 5
    lower = torch.zeros(1, 2, 96, 160)
    lower[:, 1] = 3
    return first, second, upper, lower


def test_each_half_takes_the_flow_that_moves_it(moved):
    first, second, upper, lower = moved
    combined = combine_flows(first, second, [(upper, -upper), (lower, -lower)])
    is_upper = (combined[0, 0] == 5).float()
    assert is_upper[:40, :150].mean() > 0.99
    assert is_upper[56:90].mean() < 0.01
    assert ((combined == upper) | (combined == lower)).all()


def test_the_order_decides_between_equals(moved):
    first, second, upper, _ = moved
    plain = torch.full_like(first, 0.5)
    for flows in ([upper, -upper], [-upper, upper]):
        combined = combine_flows(plain, plain, [(flow, -flow) for flow in flows])
        middle = (..., slice(8, -8), slice(24, -24))  # where both flows stay inside
        assert torch.equal(combined[middle], flows[0][middle])


def test_inconsistent_flow_is_not_chosen(moved):
    """A flow with an inconsistent backward flow loses to a consistent one."""
    first, _, upper, _ = moved
    second = torch.rand(first.shape, generator=torch.Generator().manual_seed(0))
    still = torch.zeros_like(upper)
    assert torch.equal(combine_flows(first, second, [(still, still), (upper, upper)]), still)
    inconsistent, consistent = (
        matching_cost(first, first, still, back).mean() for back in (upper, still)
    )
    assert inconsistent == pytest.approx(UNMATCHED_COST)
    assert consistent == pytest.approx(0, abs=1e-5)


def test_strips_change_nothing(moved, monkeypatch):
    first, second, *_ = moved
    whole = census_in_strips(first, second)
    monkeypatch.setattr(combine, "STRIP", 7)
    assert torch.equal(census_in_strips(first, second), whole)


def test_averages_end_at_edges():
    """A guide with a step separates the costs of its sides; a constant guide mixes them."""
    step = torch.zeros(1, 1, 40, 40)
    step[..., 20:] = 1
    assert (filter_guided(step, step) - step).abs().max() < 0.01
    assert (filter_guided(torch.zeros_like(step), step) - step).abs().max() > 0.3


def test_an_empty_batch():
    flows = torch.zeros(0, 2, 24, 32)
    frames = torch.zeros(0, 3, 24, 32)
    assert combine_flows(frames, frames, [(flows, flows)]).shape == (0, 2, 24, 32)


@pytest.mark.parametrize(
    "flows",
    [[], [(torch.zeros(1, 2, 24, 32),) * 2, (torch.zeros(1, 2, 24, 33),) * 2]],
)
def test_flows_must_fit_the_frames(flows):
    frames = torch.zeros(1, 3, 24, 32)
    with pytest.raises(ValueError, match="at least one pair of forward and backward flow"):
        combine_flows(frames, frames, flows)


class Still(nn.Module):
    """Returns zero flow, and counts its calls."""

    calls = 0

    def forward(self, first, second):
        self.calls += 1
        return [torch.zeros_like(first[:, :2])]


def test_estimate_takes_the_classical_flow_where_the_network_is_wrong(moved):
    first, second = (
        (255 * side[0]).byte().permute(1, 2, 0).contiguous().numpy() for side in moved[:2]
    )
    network, options = Still(), FlowOptions("fast", with_dis=True)
    combined = estimate_flow(first, second, model=network, options=options)
    assert network.calls == 2  # forward and backward
    classical = dis(first, second)
    inside = (slice(8, 40), slice(8, 140))
    assert np.mean((combined == classical)[inside]) > 0.95
    assert np.allclose(np.median(combined[inside], axis=(0, 1)), [5, 0], atol=0.2)
    batch = torch.from_numpy(np.stack([first, first])).permute(0, 3, 1, 2)
    later = torch.from_numpy(np.stack([second, second])).permute(0, 3, 1, 2)
    both = estimate_flow(batch, later, model=network, options=options)
    assert np.array_equal(both[1].permute(1, 2, 0).numpy(), combined)


def test_a_margin_holds_a_flow_back(moved):
    first, second, upper, lower = moved
    flows = [(upper, -upper), (lower, -lower)]
    assert torch.equal(combine_flows(first, second, flows, [0.0, 9.0]), upper)
    assert torch.equal(combine_flows(first, second, flows, [9.0, 0.0]), lower)
    with pytest.raises(ValueError, match="one margin for each of 2 flows"):
        combine_flows(first, second, flows, [0.0])


def test_where_no_flow_matches_the_smooth_and_consistent_one_is_taken(moved):
    """Noise of about a pixel is rough; a wrong backward flow elsewhere makes a flow doubtful."""
    first, _, upper, _ = moved
    generator = torch.Generator().manual_seed(0)
    second = torch.rand(first.shape, generator=generator)  # nothing matches
    rough = upper + torch.randn(upper.shape, generator=generator)
    for flows in ([(rough, -rough), (upper, -upper)], [(upper, -upper), (rough, -rough)]):
        chosen = combine_flows(first, second, flows)
        assert (chosen == upper).all(dim=1).float().mean() > 0.8
    cost = frame_cost([(upper, -upper), (upper, upper)]).flatten()
    assert cost[0] < cost[1]
