"""Branches of DeepCompare's Siamese networks, which are descriptor networks of their own.

Reference:
    Zagoruyko and Komodakis, Learning to Compare Image Patches via Convolutional Neural Networks,
    CVPR 2015, section 3; layers as in the authors' released models.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.matching.networks.preparation import centre, check_patches
from flowmatch.units import unit_vectors

PATCH_SIZE = 64


class Convolution(NamedTuple):
    """Convolution without padding, with its activation and pooling.

    Attributes:
        channels: Number of output channels.
        kernel: Side of the kernel.
        stride: Stride of the convolution.
        pool: Whether 2 x 2 max pooling follows.
        ceil: Whether the pooling keeps a last odd row and column.
        relu: Whether a ReLU follows.
    """

    channels: int
    kernel: int
    stride: int = 1
    pool: bool = False
    ceil: bool = False
    relu: bool = True


SINGLE = (
    Convolution(96, 7, 3, pool=True),
    Convolution(192, 5, pool=True),
    Convolution(256, 3),
)
# Without a last ReLU: descriptors may be negative.
STREAM = (
    Convolution(96, 4, 2, pool=True),
    Convolution(192, 3),
    Convolution(256, 3),
    Convolution(256, 3, relu=False),
)


def convolutions(inputs: int, layers: Sequence[Convolution]) -> nn.Sequential:
    """Return a chain of convolutions named conv0, conv1, ... as in the authors' PyTorch code."""
    chain: OrderedDict[str, nn.Module] = OrderedDict()
    for k, layer in enumerate(layers):
        convolution = nn.Conv2d(inputs, layer.channels, layer.kernel, layer.stride)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        chain[f"conv{k}"] = convolution
        if layer.relu:
            chain[f"relu{k}"] = nn.ReLU(inplace=True)
        if layer.pool:
            chain[f"pool{k}"] = nn.MaxPool2d(2, ceil_mode=layer.ceil)
        inputs = layer.channels
    return nn.Sequential(chain)


def halve(patches: Tensor) -> Tensor:
    """Average 2 x 2 pixels, for the surround stream: the whole patch at half resolution."""
    return F.avg_pool2d(patches, 2)


def central(patches: Tensor) -> Tensor:
    """Crop the central half, for the central stream: half the patch at full resolution."""
    margin = PATCH_SIZE // 4
    return patches[..., margin:-margin, margin:-margin]


class _Branch(nn.Module):
    """Base class of branches: subclasses define `extract`, for patches of zero mean."""

    patch_size = PATCH_SIZE
    dim: int

    def extract(self, centred: Tensor) -> Tensor:
        """Return the features ``[B, dim, h, w]`` of zero-mean patches ``[B, 1, H, W]``."""
        raise NotImplementedError

    def features(self, patches: Tensor) -> Tensor:
        """Return the input of the decision layers, ``[B, dim]``, not normalised.

        Args:
            patches: Gray in [0, 1], ``[B, 1, 64, 64]``.

        Raises:
            ValueError: The patches have another shape.
        """
        check_patches(patches, self.patch_size)
        return self.extract(centre(patches)).flatten(1)

    def forward(self, patches: Tensor) -> Tensor:
        """Describe patches ``[B, 1, 64, 64]``, gray in [0, 1], by unit vectors ``[B, dim]``."""
        return unit_vectors(self.features(patches), dim=1)


class _DenseBranch(_Branch):
    """Branch that describes an image of any size in one pass."""

    stride: int

    def dense(self, images: Tensor) -> Tensor:
        """Describe the patches at all positions of a grid in one fully convolutional pass.

        The upper left pixel of patch ``[b, :, i, j]`` is ``(i * stride, j * stride)``. Descriptors
        differ from those of `forward` only in the mean that is subtracted: the mean of the image,
        because layers cannot be shared between patches with different means.

        Args:
            images: Gray in [0, 1], ``[B, 1, H, W]``, at least 64 x 64.

        Returns:
            Unit vectors ``[B, dim, (H - 64) // stride + 1, (W - 64) // stride + 1]``.

        Raises:
            ValueError: The images have another shape.
        """
        check_patches(images, self.patch_size, larger=True)
        rows, columns = ((side - self.patch_size) // self.stride + 1 for side in images.shape[2:])
        features = self.extract(centre(images))
        # A receptive field may be smaller than a patch; then the last patch would exceed the image.
        return unit_vectors(features[..., :rows, :columns], dim=1)


class SiamBranch(_DenseBranch):
    """Branch of siam and pseudo-siam, 908,416 parameters.

    Example:
        >>> SiamBranch()(torch.rand(3, 1, 64, 64)).shape
        torch.Size([3, 256])
    """

    dim = 256
    stride = 12

    def __init__(self) -> None:
        super().__init__()
        self.layers = convolutions(1, SINGLE)

    def extract(self, centred: Tensor) -> Tensor:
        """Return the features ``[B, 256, h, w]`` of zero-mean patches ``[B, 1, H, W]``."""
        features: Tensor = self.layers(centred)
        return features


class TwoStreamBranch(_DenseBranch):
    """Branch of siam-2stream: central and surround streams, 2 x 1,200,416 parameters.

    Example:
        >>> TwoStreamBranch().dense(torch.rand(1, 1, 80, 96)).shape
        torch.Size([1, 512, 3, 5])
    """

    dim = 512
    stride = 8

    def __init__(self) -> None:
        super().__init__()
        self.retina = convolutions(1, STREAM)
        self.fovea = convolutions(1, STREAM)

    def extract(self, centred: Tensor) -> Tensor:
        """Return the features ``[B, 512, h, w]`` of zero-mean patches ``[B, 1, H, W]``."""
        surround = self.fovea(halve(centred))
        # The central stream has half the stride in pixels of the patch.
        middle = self.retina(central(centred))[..., ::2, ::2]
        h, w = (min(sides) for sides in zip(surround.shape[2:], middle.shape[2:], strict=True))
        return torch.cat([middle[..., :h, :w], surround[..., :h, :w]], dim=1)


class SPPBranch(_Branch):
    """Branch of siam-SPP: spatial pyramid pooling accepts patches of any size.

    Patches below 64 x 64 are enlarged to the receptive field of a feature. Larger patches keep
    their size.

    Args:
        grid: Number of pooling cells along each side; 4 in the paper.

    Example:
        >>> branch = SPPBranch()
        >>> branch(torch.rand(3, 1, 64, 64)).shape, branch(torch.rand(3, 1, 150, 200)).shape
        (torch.Size([3, 4096]), torch.Size([3, 4096]))
    """

    def __init__(self, *, grid: int = 4) -> None:
        super().__init__()
        if grid < 1:
            raise ValueError(f"grid must be positive, got {grid}")
        self.grid = grid
        self.dim = 256 * grid**2
        self.layers = convolutions(1, SINGLE)

    def extract(self, centred: Tensor) -> Tensor:
        """Return the features ``[B, 256, grid, grid]`` of zero-mean patches ``[B, 1, H, W]``."""
        return F.adaptive_max_pool2d(self.layers(centred), self.grid)

    def features(self, patches: Tensor) -> Tensor:
        """Return the input of the decision layers, ``[B, dim]``, for patches of any size.

        Raises:
            ValueError: The patches are not gray, ``[B, 1, H, W]``.
        """
        check_patches(patches, 1, larger=True)
        H, W = patches.shape[-2:]
        if min(H, W) < PATCH_SIZE:
            size = (max(H, PATCH_SIZE), max(W, PATCH_SIZE))
            patches = F.interpolate(patches, size, mode="bilinear", align_corners=False)
        return self.extract(centre(patches)).flatten(1)
