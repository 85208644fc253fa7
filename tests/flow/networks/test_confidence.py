"""The network that judges flows."""

import numpy as np
import pytest
import torch

from flowmatch.flow.networks.confidence import (
    THRESHOLDS,
    FlowConfidence,
    evidence,
    expected_error,
    within,
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = FlowConfidence().eval()
    torch.nn.init.normal_(network.out.weight, std=0.1)
    return network


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (50, 90)], ids=str)
def test_logits_have_the_size_of_the_frames_and_rise(network, size):
    frames, flow = torch.rand(2, 2, 3, *size), torch.randn(2, 2, *size)
    logits = network(*frames, flow, -flow)
    assert logits.shape == (2, len(THRESHOLDS), *size)
    assert (logits.diff(dim=1) >= 0).all()
    alone = network(*frames[:, 1:], flow[1:], -flow[1:])
    torch.testing.assert_close(alone, logits[1:], atol=1e-4, rtol=1e-4)


def test_it_is_small():
    assert sum(p.numel() for p in FlowConfidence().parameters()) < 200_000


def test_the_expected_error_by_hand():
    sure = torch.full((1, len(THRESHOLDS), 1, 1), 40.0)
    assert expected_error(sure).item() == pytest.approx(0.125)  # uniform below 0.25
    assert expected_error(-sure).item() == pytest.approx(2 * THRESHOLDS[-1])
    between = sure.clone()
    between[:, :3] = -40  # beyond 1, below 2
    assert expected_error(between).item() == pytest.approx(1.5)
    assert within(between, 1.0).item() == pytest.approx(0)
    assert within(between, 2.0).item() == pytest.approx(1)


def test_probabilities_stay_in_order_whatever_the_calibration(network):
    judge = FlowConfidence().eval()
    judge.load_state_dict(network.state_dict())
    judge.calibration[:, 1] = torch.tensor([3.0, -3.0] * 4)
    frames, flow = torch.rand(2, 1, 3, 32, 48), torch.randn(1, 2, 32, 48)
    assert (judge(*frames, flow, -flow).diff(dim=1) >= 0).all()


def test_evidence_of_a_perfect_flow_differs_from_that_of_a_wrong_one():
    first = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    second = first.roll(3, dims=3)
    right = torch.zeros(1, 2, 24, 40)
    right[:, 0] = 3
    perfect = evidence(first, second, right, -right)
    inside = (..., slice(0, 24), slice(0, 35))
    names = {"colour": slice(3, 6), "gradient": slice(6, 8), "gap": slice(9, 11)}
    for channels in names.values():
        assert perfect[:, channels][inside].abs().max() < 1e-5
    assert perfect[0, 8, :, :37].max() == 0  # inside the frame
    assert perfect[0, 8, :, 37:].min() == 1
    wrong = evidence(first, second, -right, -right)
    for channels in names.values():
        assert wrong[:, channels][..., 5:35].abs().mean() > 0.1


@pytest.mark.parametrize("part", range(4))
def test_parts_of_another_size_are_refused(part):
    parts = [np.zeros((1, channels, 32, 32)) for channels in (3, 3, 2, 2)]
    parts[part] = parts[part][..., :31]
    with pytest.raises(ValueError, match="expected frames .* of one shape and flows"):
        FlowConfidence()(*(torch.from_numpy(part).float() for part in parts))
