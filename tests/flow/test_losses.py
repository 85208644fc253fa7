"""The losses against plain loops."""

import pytest
import torch

from flowmatch.flow.losses import FLOWNET_WEIGHTS, multiscale_epe, robust_flow_loss


def two_levels():
    truth = torch.randn(2, 2, 8, 12, dtype=torch.float64)
    flows = [torch.randn(2, 2, 8 // k, 12 // k, dtype=torch.float64) for k in (1, 4)]
    return flows, truth


def block_means(truth, step):
    B, _, H, W = truth.shape
    means = torch.zeros(B, 2, H // step, W // step, dtype=truth.dtype)
    for b in range(B):
        for c in range(2):
            for y in range(H // step):
                for x in range(W // step):
                    block = truth[b, c, y * step : (y + 1) * step, x * step : (x + 1) * step]
                    means[b, c, y, x] = block.mean()
    return means


def test_robust_flow_loss():
    flows, truth = two_levels()
    expected = 0.0
    for flow, step, weight in zip(flows, (1, 4), (1.0, 0.25), strict=True):
        means, total = block_means(truth, step), 0.0
        for b in range(2):
            for y in range(flow.shape[2]):
                for x in range(flow.shape[3]):
                    du, dv = (flow[b, :, y, x] * step - means[b, :, y, x]).abs().tolist()
                    total += (du + dv + 0.01) ** 0.7
        expected += weight * total / (2 * flow.shape[2] * flow.shape[3])
    assert robust_flow_loss(flows, truth, [1.0, 0.25]).item() == pytest.approx(expected)


def test_multiscale_epe():
    flows, truth = two_levels()
    expected = 0.0
    for flow, step, weight in zip(flows, (1, 4), (0.005, 0.32), strict=True):
        means = block_means(truth, step)
        for b in range(2):
            for y in range(flow.shape[2]):
                for x in range(flow.shape[3]):
                    u, v = (flow[b, :, y, x] * step - means[b, :, y, x]).tolist()
                    expected += weight * (u * u + v * v) ** 0.5 / 20 / 2
    assert multiscale_epe(flows, truth, [0.005, 0.32]).item() == pytest.approx(expected)


def test_the_coarsest_level_weighs_most():
    assert FLOWNET_WEIGHTS == (0.005, 0.01, 0.02, 0.08, 0.32)


@pytest.mark.parametrize("loss", [robust_flow_loss, multiscale_epe])
def test_refuses_other_counts(loss):
    flows, truth = two_levels()
    with pytest.raises(ValueError, match="as many weights as flows"):
        loss(flows, truth, [1.0])
