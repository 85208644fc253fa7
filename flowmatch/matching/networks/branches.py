"""The branches of DeepCompare's Siamese networks: descriptor networks in their own right.

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

PATCH_SIZE = 64


class Convolution(NamedTuple):
    """One convolution without padding, and what follows it."""

    channels: int
    kernel: int
    stride: int = 1
    pool: bool = False  # 2 x 2 maxima
    ceil: bool = False  # which keep a last odd row
    relu: bool = True


SINGLE = (
    Convolution(96, 7, 3, pool=True),
    Convolution(192, 5, pool=True),
    Convolution(256, 3),
)
# No ReLU at the end: descriptors may be negative.
STREAM = (
    Convolution(96, 4, 2, pool=True),
    Convolution(192, 3),
    Convolution(256, 3),
    Convolution(256, 3, relu=False),
)


def convolutions(inputs: int, layers: Sequence[Convolution]) -> nn.Sequential:
    """Chain convolutions, named conv0, conv1, ... as in the authors' PyTorch evaluation."""
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
    """Average 2 x 2 pixels: the surround stream's view of the whole patch."""
    return F.avg_pool2d(patches, 2)


def central(patches: Tensor) -> Tensor:
    """Cut off a margin of a quarter patch: the central stream's view, at full resolution."""
    margin = PATCH_SIZE // 4
    return patches[..., margin:-margin, margin:-margin]


class _Branch(nn.Module):
    """What the branches share: `extract` is theirs, on patches without their mean."""

    patch_size = PATCH_SIZE
    dim: int

    def extract(self, centred: Tensor) -> Tensor:
        """Run the layers on ``[B, 1, H, W]`` without mean, to ``[B, dim, h, w]``."""
        raise NotImplementedError

    def features(self, patches: Tensor) -> Tensor:
        """Return what the decision layers read: ``[B, dim]``, of any length.

        Args:
            patches: Gray in [0, 1], ``[B, 1, 64, 64]``.

        Raises:
            ValueError: They have another shape.
        """
        check_patches(patches, self.patch_size)
        return self.extract(centre(patches)).flatten(1)

    def forward(self, patches: Tensor) -> Tensor:
        """Describe patches ``[B, 1, 64, 64]``, gray in [0, 1], by unit vectors ``[B, dim]``."""
        return F.normalize(self.features(patches), dim=1)


class _DenseBranch(_Branch):
    """A branch that an image of any size goes through in one pass."""

    stride: int

    def dense(self, images: Tensor) -> Tensor:
        """Describe all patches of images on a grid, in one fully convolutional pass.

        The patch of ``[b, :, i, j]`` has its upper left pixel at ``(i * stride, j * stride)``. It
        is described as `forward` does, but for the mean, which is the image's: a mean for each
        patch would forbid sharing the layers.

        Args:
            images: Gray in [0, 1], ``[B, 1, H, W]``, at least 64 x 64.

        Returns:
            Unit vectors ``[B, dim, (H - 64) // stride + 1, (W - 64) // stride + 1]``.

        Raises:
            ValueError: Another shape.
        """
        check_patches(images, self.patch_size, larger=True)
        rows, columns = ((side - self.patch_size) // self.stride + 1 for side in images.shape[2:])
        features = self.extract(centre(images))
        # A feature may see less than its patch: then there is one more, whose patch sticks out.
        return F.normalize(features[..., :rows, :columns], dim=1)


class SiamBranch(_DenseBranch):
    """The branch of siam and pseudo-siam, 908,416 parameters.

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
        """Run the layers on ``[B, 1, H, W]`` without mean, to ``[B, 256, h, w]``."""
        features: Tensor = self.layers(centred)
        return features


class TwoStreamBranch(_DenseBranch):
    """The branch of siam-2stream: centre and surround, 2 x 1,200,416 parameters.

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
        """Run both streams on ``[B, 1, H, W]`` without mean, to ``[B, 512, h, w]``."""
        surround = self.fovea(halve(centred))
        # In pixels of the patch the centre has half the stride.
        centre_ = self.retina(central(centred))[..., ::2, ::2]
        h, w = (min(sides) for sides in zip(surround.shape[2:], centre_.shape[2:], strict=True))
        return torch.cat([centre_[..., :h, :w], surround[..., :h, :w]], dim=1)


class SPPBranch(_Branch):
    """The branch of siam-SPP: spatial pyramid pooling lets in patches of any size.

    A patch below 64 x 64 is enlarged, because it is smaller than what one feature sees. Larger
    patches keep their size: more detail is seen.

    Args:
        grid: Maxima are taken over grid x grid cells; 4 in the paper.

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
        """Run the layers on ``[B, 1, H, W]`` without mean, to ``[B, 256, grid, grid]``."""
        return F.adaptive_max_pool2d(self.layers(centred), self.grid)

    def features(self, patches: Tensor) -> Tensor:
        """Return what the decision layers read, ``[B, dim]``, for ``[B, 1, H, W]`` of any size.

        Raises:
            ValueError: They are no gray patches.
        """
        check_patches(patches, 1, larger=True)
        H, W = patches.shape[-2:]
        if min(H, W) < PATCH_SIZE:
            size = (max(H, PATCH_SIZE), max(W, PATCH_SIZE))
            patches = F.interpolate(patches, size, mode="bilinear", align_corners=False)
        return self.extract(centre(patches)).flatten(1)
