"""Temporary batch norms of FlowNets."""

import pytest
import torch

from flowmatch.flow.networks import FlowNet2CS, FlowNetC, FlowNetS
from flowmatch.flow.networks.norms import fold_norms, insert_norms


@pytest.mark.parametrize("network", [FlowNetS, FlowNetC, FlowNet2CS])
def test_norms_fold_into_the_network_that_was_built(network):
    torch.manual_seed(0)
    plain = network(width=1 / 16)
    names = {key: tensor.shape for key, tensor in plain.state_dict().items()}
    normed = insert_norms(plain).train()
    images = torch.rand(2, 2, 3, 64, 128)
    with torch.no_grad():
        for _ in range(5):
            normed(*images)  # update the running statistics
        for module in normed.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2)
                module.bias.uniform_(-1, 1)
        expected = normed.eval()(*images)
        folded = fold_norms(normed)
        for flow, other in zip(folded(*images), expected, strict=True):
            assert flow.abs().max() > 1e-3
            torch.testing.assert_close(flow, other, rtol=1e-3, atol=1e-4)
    assert {key: tensor.shape for key, tensor in folded.state_dict().items()} == names
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in normed.modules())


def test_first_flows_are_small_and_enlarged_bilinearly():
    torch.manual_seed(0)
    network = insert_norms(FlowNetS(width=1 / 16)).train()
    flows = network(*torch.rand(2, 2, 3, 64, 64))
    assert all(flow.abs().max() < 1 for flow in flows)
    flow = torch.rand(1, 2, 6, 7)
    expected = torch.nn.functional.interpolate(flow, scale_factor=2.0, mode="bilinear")
    larger = network.upsampled_flow3_to_2(flow)[..., 1:-1, 1:-1]
    torch.testing.assert_close(larger, expected[..., 1:-1, 1:-1])
