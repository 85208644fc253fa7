"""The network: shapes, gradients, and what it refuses."""

import pytest
import torch

from flowmatch.tracking.networks import MODELS, BoxRegression


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_all_weights(name):
    network = MODELS[name](size=40, width=4, hidden=8)
    code, logits = network(torch.rand(3, 3, 40, 40), torch.rand(3, 3, 40, 40))
    assert (code.shape, logits.shape) == ((3, 4), (3,))
    (code.square().sum() + logits.square().sum()).backward()
    for key, weight in network.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, key


def test_the_light_of_a_crop_does_not_matter():
    network = BoxRegression(size=40, width=4, hidden=8).eval()
    first, second = torch.rand(2, 1, 3, 40, 40) / 2
    code, logits = network(first, second)
    brighter, brighter_logits = network(first, second + 0.25)
    assert code.allclose(brighter, atol=1e-4) and logits.allclose(brighter_logits, atol=1e-4)


def test_bad_sizes():
    with pytest.raises(ValueError, match="size must be a multiple of 40, got 50"):
        BoxRegression(size=50)
    crops = torch.rand(1, 3, 40, 40)
    network = BoxRegression(size=40, width=4, hidden=8)
    for first, second in ((crops, crops[:, :, :20]), (crops[:, :1], crops[:, :1])):
        with pytest.raises(ValueError, match=r"crops must be \[B, 3, 40, 40\]"):
            network(first, second)
