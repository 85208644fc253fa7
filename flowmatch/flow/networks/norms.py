"""Batch norms for the time of training: without, a young FlowNet lets its features fade."""

import copy

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from flowmatch.flow.networks.flownet import Decoder, FlowNetC

_GAIN = 16.0  # brings products of features that have passed a norm to the size of the features
_REST = 0.01


def with_norms(network: nn.Module) -> nn.Module:
    """Make a new FlowNet ready to learn, in place, and return it.

    A batch norm follows every convolution that has an activation, correlations are enlarged to the
    size of what they are joined with, and flows begin near zero and are enlarged as they are. Were
    the first flows random, the first thing to be learnt would be to let all features fade.

    Args:
        network: With random weights; FlowNetS, FlowNetC or a stack of them.

    Example:
        >>> from flowmatch.flow.networks import FlowNetS
        >>> [type(layer).__name__ for layer in with_norms(FlowNetS(width=1 / 16)).conv1]
        ['Conv2d', 'BatchNorm2d', 'LeakyReLU']

    Reference:
        Ioffe & Szegedy, Batch Normalization, ICML 2015; FlowNetPytorch trains FlowNets so, too.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential) and isinstance(module[0], nn.Conv2d):
            if len(module) == 2:
                module.insert(1, nn.BatchNorm2d(module[0].out_channels))
        elif isinstance(module, Decoder):
            _rest(module)
        if isinstance(module, FlowNetC):
            module.correlate.gain = _GAIN
    return network


def without_norms(network: nn.Module) -> nn.Module:
    """Return the same network as it was built, in eval mode: what it learnt is in its convolutions.

    Example:
        >>> from flowmatch.flow.networks import FlowNetC
        >>> images = torch.rand(2, 1, 3, 64, 64)
        >>> network = with_norms(FlowNetC(width=1 / 16)).eval()
        >>> difference = without_norms(network)(*images)[0] - network(*images)[0]
        >>> bool(difference.abs().max() < 1e-4)
        True
    """
    plain = copy.deepcopy(network).eval()
    for module in list(plain.modules()):
        if isinstance(module, nn.Sequential) and len(module) == 3:
            conv, norm, _ = module
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            module[0] = fuse_conv_bn_eval(conv, norm)
            del module[1]
    for module in plain.modules():
        if isinstance(module, FlowNetC):
            joined = module.get_parameter("conv3_1.0.weight").data
            joined[:, -module.correlate.channels :].mul_(module.correlate.gain)
            module.correlate.gain = 1.0
    return plain


def _rest(decoder: Decoder) -> None:
    """Let the first flows be small, and flows be enlarged bilinearly."""
    for level in decoder.levels:
        decoder.get_parameter(f"predict_flow{level}.weight").data.mul_(_REST)
    row = torch.tensor([0.25, 0.75, 0.75, 0.25])
    for level in decoder.levels[1:]:
        up = decoder.get_parameter(f"upsampled_flow{level + 1}_to_{level}.weight")
        up.data.copy_(torch.eye(2)[..., None, None] * (row[:, None] * row))
