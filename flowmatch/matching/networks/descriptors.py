"""Descriptor networks for 32 x 32 patches; parameters are named as in published weights."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.matching.networks.preparation import (
    check_magnification,
    check_patches,
    standardise,
)
from flowmatch.units import unit_vectors

PATCH_SIZE = 32

# Channels and stride of the 3 x 3 layers of L2-Net, HardNet, SOSNet and HyNet.
_LAYERS = ((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1))


def _l2net(dropout: float, width: float = 1.0) -> Iterator[nn.Module]:
    inputs = 1
    for full, stride in _LAYERS:
        channels = max(1, round(width * full))
        yield nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        yield nn.BatchNorm2d(channels, affine=False)
        yield nn.ReLU()
        inputs = channels
    yield nn.Dropout(dropout)
    yield nn.Conv2d(inputs, 128, 8, bias=False)
    yield nn.BatchNorm2d(128, affine=False)


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.orthogonal_(module.weight, 0.6)
            if module.bias is not None:
                nn.init.constant_(module.bias, 0.01)


class HardNet(nn.Module):
    """HardNet: the layers of L2-Net, 1,334,560 parameters.

    Args:
        dropout: Dropout before the last layer; 0.3 in the later releases, 0.1 in the paper.
        width: Factor on the channels of all layers but the last; 1 in the published weights.
        magnification: Half the side of the training patches, in keypoint scales.

    Raises:
        ValueError: `width` or `magnification` is out of range.

    Example:
        >>> HardNet().eval()(torch.rand(3, 1, 32, 32)).shape
        torch.Size([3, 128])

    Reference:
        Tian et al., L2-Net, CVPR 2017; Mishchuk et al., Working Hard to Know Your Neighbor's
        Margins, NIPS 2017.
    """

    patch_size = PATCH_SIZE
    dim = 128

    def __init__(
        self, *, dropout: float = 0.3, width: float = 1.0, magnification: float = 6.0
    ) -> None:
        super().__init__()
        if not 0 < width <= 16:
            raise ValueError(f"expected 0 < width <= 16, got {width}")
        self.magnification = check_magnification(magnification)
        self.features = nn.Sequential(*_l2net(dropout, width))
        _initialise(self)

    def forward(self, patches: Tensor) -> Tensor:
        """Describe patches ``[B, 1, 32, 32]``, gray in [0, 1], by unit vectors ``[B, 128]``.

        Raises:
            ValueError: The patches have another shape.
        """
        check_patches(patches, PATCH_SIZE)
        return unit_vectors(self.features(standardise(patches)).flatten(1), dim=1)


class SOSNet(nn.Module):
    """SOSNet: the layers of L2-Net, preceded by instance normalisation.

    Args:
        dropout: Dropout before the last layer.


    Example:
        >>> SOSNet().eval()(torch.rand(3, 1, 32, 32)).shape
        torch.Size([3, 128])

    Reference:
        Tian et al., SOSNet: Second Order Similarity Regularization for Local Descriptor Learning,
        CVPR 2019.
    """

    patch_size = PATCH_SIZE
    dim = 128

    def __init__(self, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.InstanceNorm2d(1), *_l2net(dropout))
        _initialise(self)

    def forward(self, patches: Tensor) -> Tensor:
        """Describe patches ``[B, 1, 32, 32]``, gray in [0, 1], by unit vectors ``[B, 128]``.

        Raises:
            ValueError: The patches have another shape.
        """
        check_patches(patches, PATCH_SIZE)
        return unit_vectors(self.layers(patches).flatten(1), dim=1)


class TFeat(nn.Module):
    """TFeat: two convolutions, fast on a CPU; 599,808 parameters. Descriptors are not unit vectors.

    Example:
        >>> TFeat()(torch.rand(3, 1, 32, 32)).shape
        torch.Size([3, 128])

    Reference:
        Balntas et al., Learning Local Feature Descriptors with Triplets and Shallow Convolutional
        Neural Networks, BMVC 2016.
    """

    patch_size = PATCH_SIZE
    dim = 128
    stride = 2  # between the patches of `dense`

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.InstanceNorm2d(1),
            nn.Conv2d(1, 32, 7),
            nn.Tanh(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 6),
            nn.Tanh(),
        )
        self.descr = nn.Sequential(nn.Linear(64 * 8 * 8, 128), nn.Tanh())

    def forward(self, patches: Tensor) -> Tensor:
        """Describe patches ``[B, 1, 32, 32]``, gray in [0, 1], by ``[B, 128]`` in [-1, 1].

        Raises:
            ValueError: The patches have another shape.
        """
        check_patches(patches, PATCH_SIZE)
        descriptors: Tensor = self.descr(self.features(patches).flatten(1))
        return descriptors

    def dense(self, images: Tensor) -> Tensor:
        """Describe the patches at all positions of a grid in one fully convolutional pass.

        The upper left pixel of patch ``[b, :, i, j]`` is ``(2 i, 2 j)``. Patches are normalised by
        the mean and standard deviation of the image, because layers cannot be shared between
        patches with different ones.

        Args:
            images: Gray in [0, 1], ``[B, 1, H, W]``, at least 32 x 32.

        Returns:
            Descriptors ``[B, 128, (H - 32) // 2 + 1, (W - 32) // 2 + 1]`` in [-1, 1].

        Raises:
            ValueError: The patches have another shape.
        """
        check_patches(images, PATCH_SIZE, larger=True)
        linear = self.descr[0]
        assert isinstance(linear, nn.Linear)
        weight = linear.weight.view(128, 64, 8, 8)
        return F.conv2d(self.features(images), weight, linear.bias).tanh()


class _FilterResponseNorm(nn.Module):
    """Filter response normalisation: x / rms(x) of each channel, scaled and shifted."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("eps", torch.tensor([1e-6]))

    def forward(self, x: Tensor) -> Tensor:
        power = x.square().mean(dim=(2, 3), keepdim=True)
        return x * torch.rsqrt(power + self.get_buffer("eps").abs()) * self.weight + self.bias


class _ThresholdedLinearUnit(nn.Module):
    """Thresholded linear unit: max(x, tau) with a learnt threshold per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.tau = nn.Parameter(-torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x, self.tau)


class HyNet(nn.Module):
    """HyNet: the layers of L2-Net with filter response instead of batch normalisation.

    Patches are divided by their root mean square; the mean is not subtracted, so that descriptors
    depend on brightness.

    Args:
        dropout: Dropout before the last layer.

    Example:
        >>> HyNet().eval()(torch.rand(3, 1, 32, 32)).shape
        torch.Size([3, 128])

    Reference:
        Tian et al., HyNet: Learning Local Descriptor with Hybrid Similarity Measure and Triplet
        Loss, NeurIPS 2020.
    """

    patch_size = PATCH_SIZE
    dim = 128

    def __init__(self, *, dropout: float = 0.3) -> None:
        super().__init__()
        inputs = 1
        for k, (channels, stride) in enumerate(_LAYERS, start=1):
            before = [_FilterResponseNorm(1), _ThresholdedLinearUnit(1)] if k == 1 else []
            convolution = nn.Conv2d(inputs, channels, 3, stride, 1)
            after = [_FilterResponseNorm(channels), _ThresholdedLinearUnit(channels)]
            self.add_module(f"layer{k}", nn.Sequential(*before, convolution, *after))
            inputs = channels
        last = nn.Conv2d(128, 128, 8, bias=False)
        self.layer7 = nn.Sequential(nn.Dropout(dropout), last, nn.BatchNorm2d(128, affine=False))
        _initialise(self)

    def forward(self, patches: Tensor) -> Tensor:
        """Describe patches ``[B, 1, 32, 32]``, gray in [0, 1], by unit vectors ``[B, 128]``.

        Raises:
            ValueError: The patches have another shape.
        """
        check_patches(patches, PATCH_SIZE)
        features = patches
        for layer in self.children():
            features = layer(features)
        return unit_vectors(features.flatten(1), dim=1)
