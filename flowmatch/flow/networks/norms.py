"""Batch norms for training a FlowNet: without them, features of an untrained network vanish."""

import copy

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from flowmatch.flow.networks.flownet import Decoder, FlowNetC

CORRELATION_GAIN = 16.0
"""Factor that brings correlations of normalised features to the size of the features."""
INITIAL_FLOW_SCALE = 0.01
"""Factor on the random initial weights that predict flow."""


def insert_norms(network: nn.Module) -> nn.Module:
    """Insert batch norms into an untrained FlowNet, in place, and return it.

    A batch norm follows every convolution that has an activation, correlations are scaled to the
    size of the features they are concatenated with, and the first flows are near zero and upsampled
    bilinearly. With random first flows, training would begin by letting all features vanish.

    Args:
        network: FlowNetS, FlowNetC or a stack of them, with random weights.

    Example:
        >>> from flowmatch.flow.networks import FlowNetS
        >>> [type(layer).__name__ for layer in insert_norms(FlowNetS(width=1 / 16)).conv1]
        ['Conv2d', 'BatchNorm2d', 'LeakyReLU']

    Reference:
        Ioffe & Szegedy, Batch Normalization, ICML 2015; FlowNetPytorch trains FlowNets so, too.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential) and isinstance(module[0], nn.Conv2d):
            if len(module) == 2:
                module.insert(1, nn.BatchNorm2d(module[0].out_channels))
        elif isinstance(module, Decoder):
            _initialise_flow(module)
        if isinstance(module, FlowNetC):
            module.correlate.gain = CORRELATION_GAIN
    return network


def fold_norms(network: nn.Module) -> nn.Module:
    """Return a copy in eval mode with the norms folded into the convolutions.

    Example:
        >>> from flowmatch.flow.networks import FlowNetC
        >>> images = torch.rand(2, 1, 3, 64, 64)
        >>> network = insert_norms(FlowNetC(width=1 / 16)).eval()
        >>> difference = fold_norms(network)(*images)[0] - network(*images)[0]
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


def _initialise_flow(decoder: Decoder) -> None:
    """Make the first flows small, and their upsampling bilinear."""
    for level in decoder.levels:
        decoder.get_parameter(f"predict_flow{level}.weight").data.mul_(INITIAL_FLOW_SCALE)
    row = torch.tensor([0.25, 0.75, 0.75, 0.25])
    for level in decoder.levels[1:]:
        up = decoder.get_parameter(f"upsampled_flow{level + 1}_to_{level}.weight")
        up.data.copy_(torch.eye(2)[..., None, None] * (row[:, None] * row))
