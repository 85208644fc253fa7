"""Losses, against plain loops."""

import itertools
import math

import pytest
import torch

from flowmatch.flow.training.losses import (
    FLOWNET_WEIGHTS,
    LOSSES,
    choice_loss,
    global_matching_loss,
    matching_loss,
    multiscale_epe,
    robust_flow_loss,
    sequence_loss,
    sequence_weights,
)


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


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_refuses_other_counts(loss):
    flows, truth = two_levels()
    with pytest.raises(ValueError, match="as many weights as flows"):
        loss(flows, truth, [1.0])


def test_sequence_loss():
    torch.manual_seed(0)
    truth = torch.randn(1, 2, 3, 4, dtype=torch.float64)
    truth[0, :, 1, 2] = 300.0  # 424 pixels long: too far
    truth[0, 0, 0, 0] = torch.nan
    flows = [torch.randn(1, 2, 3, 4, dtype=torch.float64) for _ in range(3)]
    expected = 0.0
    for flow, weight in zip(flows, (1.0, 0.8, 0.64), strict=True):
        for y in range(3):
            for x in range(4):
                if (y, x) not in ((1, 2), (0, 0)):
                    expected += weight * (flow - truth)[0, :, y, x].abs().sum().item() / 24
    assert sequence_weights(3) == pytest.approx((1.0, 0.8, 0.64))
    assert sequence_loss(flows, truth, sequence_weights(3)).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_unknown_truth_does_not_count(loss):
    """Flow at unknown truth changes neither the loss nor its gradient."""
    flows, truth = two_levels()
    truth[:, :, :4, :8] = torch.nan  # whole blocks of the coarser level
    truth[:, 1, 6, 11] = torch.nan
    losses, gradients = [], []
    for change in (0.0, 5.0):
        changed = [flow.clone() for flow in flows]
        changed[0][:, :, :4, :8] += change
        changed[1][:, :, :1, :2] += change
        changed[0].requires_grad_()
        value = loss(changed, truth, [1.0, 0.5])
        value.backward()
        losses.append(value.item())
        gradients.append(changed[0].grad)
    assert losses[0] == pytest.approx(losses[1])
    assert losses[0] > 0
    assert (gradients[1][:, :, :4, :8] == 0).all()
    assert (gradients[1][:, :, 6, 11] == 0).all()
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_loss_of_unknown_truth_is_zero(loss):
    flows, truth = two_levels()
    assert loss(flows, truth * torch.nan, [1.0, 0.5]).item() == 0


def test_partly_known_blocks_are_averaged_over_known_pixels():
    truth = torch.ones(1, 2, 4, 4)
    truth[..., 2:, :] = torch.nan
    assert robust_flow_loss([torch.full((1, 2, 1, 1), 0.25)], truth, [1.0], 1.0).item() == (
        pytest.approx(0.01)
    )


def test_matching_loss_is_the_cross_entropy_of_the_true_displacement():
    """(3, -2) pixels at a quarter of the resolution, on a grid of 2: (0.375, -0.25)."""
    truth = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 16, 24)
    volume = torch.randn(1, 25, 4, 6, requires_grad=True)
    value = matching_loss(volume, truth, step=2)
    log_probability = volume.log_softmax(1).view(1, 5, 5, 4, 6)  # rows of dy, then dx
    corners = {
        (2, 2): 0.625 * 0.75,
        (2, 3): 0.375 * 0.75,
        (1, 2): 0.625 * 0.25,
        (1, 3): 0.375 * 0.25,
    }
    expected = -sum(share * log_probability[:, y, x].mean() for (y, x), share in corners.items())
    torch.testing.assert_close(value, expected)
    value.backward()
    assert volume.grad.abs().sum() > 0


def test_matching_loss_counts_known_displacements_within_the_radius():
    volume = torch.randn(1, 9, 1, 4)
    truth = torch.zeros(1, 2, 4, 16)
    truth[..., 4:8] = torch.nan
    truth[:, 0, :, 8:12] = 4.5  # beyond 1 pixel of the features
    truth[:, 1, :, 12:] = -4.0
    expected = -(volume.log_softmax(1)[0, 4, 0, 0] + volume.log_softmax(1)[0, 1, 0, 3]) / 2
    torch.testing.assert_close(matching_loss(volume, truth), expected)
    assert matching_loss(volume, torch.full_like(truth, torch.nan)) == 0


def test_global_matching_loss_is_the_cross_entropy_of_the_true_place():
    """8 pixels to the right are a pixel of the features, 4 down half of one."""
    torch.manual_seed(0)
    unit1, unit2 = (torch.randn(2, 6, 3, 4) for _ in range(2))
    truth = torch.tensor([8.0, 4.0]).view(1, 2, 1, 1).repeat(2, 1, 24, 32)
    sharpness = torch.tensor(1.2)
    logits = torch.einsum("bchw,bcyx->bhwyx", unit1, unit2) / 6 * sharpness.exp()
    log_probability = logits.flatten(3).log_softmax(-1).view_as(logits)
    values = [
        (log_probability[b, y, x, y, x + 1] + log_probability[b, y, x, y + 1, x + 1]) / 2
        for b, y, x in itertools.product(range(2), range(2), range(3))  # others leave the image
    ]
    expected = -torch.stack(values).mean()
    torch.testing.assert_close(global_matching_loss(unit1, unit2, sharpness, truth), expected)
    assert global_matching_loss(unit1, unit2, sharpness, truth * torch.nan) == 0


def test_choice_loss_is_the_cross_entropy_of_the_inverse_squared_errors():
    """Flows wrong by 1.75 and by 3.75 pixels: weights of 1/4 and 1/16, or 0.8 and 0.2."""
    truth = torch.zeros(1, 2, 4, 6)
    flows = [torch.tensor([u, 0.0]).view(1, 2, 1, 1).expand_as(truth) for u in (1.75, -3.75)]
    scores = torch.tensor([0.5, -1.0]).view(2, 1, 1, 1, 1).repeat(1, 1, 1, 4, 6).requires_grad_()
    log_weights = torch.tensor([0.5, -1.0]).log_softmax(0)
    value = choice_loss(flows, scores, truth)
    torch.testing.assert_close(value, -(0.8 * log_weights[0] + 0.2 * log_weights[1]))
    value.backward()
    assert scores.grad[1].sum() == pytest.approx(float(log_weights[1].exp() - 0.2))
    assert choice_loss(flows, scores, truth * torch.nan) == 0


def test_choice_loss_counts_no_unknown_flow():
    truth = torch.zeros(1, 2, 2, 2)
    flows = [truth + 1, truth]
    scores = torch.zeros(2, 1, 1, 2, 2)
    scores[1, ..., 0] = -torch.inf
    scores.requires_grad_()
    value = choice_loss(flows, scores, truth)
    share = 0.25**2 / (0.25**2 + (2**0.5 + 0.25) ** 2)  # of the flow that is wrong by sqrt(2)
    torch.testing.assert_close(value, torch.tensor(math.log(2) / 2))
    value.backward()
    assert scores.grad.isfinite().all()
    expected = torch.tensor([0.0, 0.5 - share]).expand(2, 2) / 4
    torch.testing.assert_close(scores.grad[0, 0, 0], expected)
