"""Networks that embed pictures: a small one, and ResNets with the usual names of parameters."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.metric_learning.losses._base import at_least


class SmallConvNet(nn.Module):
    """Three 3x3 convolutions with batch-norm, for small pictures; halves twice.

    Where something is counts in a digit: features are means over a 2 x 2 grid, not of all.

    Args:
        channels: Of the pictures.
        width: Of the first convolution; the next are twice and four times as wide.

    Example:
        >>> SmallConvNet(1)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 128, 2, 2])
    """

    def __init__(self, channels: int = 3, width: int = 32) -> None:
        super().__init__()
        at_least(1, channels=channels, width=width)
        layers: list[nn.Module] = []
        sizes = (channels, width, 2 * width, 4 * width)
        for i, (before, after) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
            layers += [nn.ReLU(), *([nn.MaxPool2d(2, ceil_mode=True)] if i < 2 else [])]
        self.layers = nn.Sequential(*layers)
        self.channels, self.grid = sizes[-1], 2

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute features.

        Args:
            pictures: ``[N, channels, H, W]`` in 0..1.

        Returns:
            ``[N, 4 width, H / 4, W / 4]``, rounded up.
        """
        found: Tensor = self.layers(self.prepare(pictures))
        return found

    def prepare(self, pictures: Tensor) -> Tensor:
        """Scale to -1..1, as the first layer wants it.

        Args:
            pictures: In 0..1.

        Returns:
            The same shape.
        """
        return 2 * pictures - 1

    def parts(self) -> tuple[list[nn.Module], list[int]]:
        """Give three parts that follow each other, for ensembles at several depths.

        Returns:
            The parts, which share the network's parameters, and their numbers of channels.
        """
        widths = [self.channels // 4, self.channels // 2, self.channels]
        return [self.layers[:4], self.layers[4:8], self.layers[8:]], widths


class _Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 if `deep`, and a way around them."""

    def __init__(self, before: int, width: int, stride: int, deep: bool) -> None:
        super().__init__()
        after = 4 * width if deep else width
        plan = (
            [(before, width, 1, 1), (width, width, 3, stride), (width, after, 1, 1)]
            if deep
            else [(before, width, 3, stride), (width, width, 3, 1)]
        )
        for i, (a, b, size, step) in enumerate(plan, 1):
            conv = nn.Conv2d(a, b, size, step, size // 2, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(b))
        self.count = len(plan)
        self.downsample = (
            nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
            if stride > 1 or before != after
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        around = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.count + 1):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            x = F.relu(x if i < self.count else x + around)
        return x


class ResNet(nn.Module):
    """A ResNet up to its last feature map, with torchvision's names of parameters.

    Published weights load with ``load_state_dict(weights, strict=False)``: only ``fc``, the
    classifier, is left over.

    Args:
        blocks: In each of the four stages.
        deep: Three convolutions a block, as from ResNet-50 on.
        channels: Of the pictures; gray is shown to all three.

    Example:
        >>> resnet18()(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 512, 2, 2])

    Reference:
        He, Zhang, Ren & Sun, Deep Residual Learning for Image Recognition, CVPR 2016; the stride
        is in the 3x3 convolution.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, blocks: tuple[int, int, int, int], deep: bool, channels: int = 3) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        before = 64
        for stage, count in enumerate(blocks):
            width = 64 * 2**stage
            made = []
            for i in range(count):
                made.append(_Block(before, width, 2 if i == 0 and stage else 1, deep))
                before = 4 * width if deep else width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*made))
        self.channels, self.grid = before, 1
        # Not part of the weights: those of torchvision have no such entries.
        for name, numbers in (
            ("mean", (0.485, 0.456, 0.406)),
            ("deviation", (0.229, 0.224, 0.225)),
        ):
            self.register_buffer(name, torch.tensor(numbers)[:, None, None], persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute features.

        Args:
            pictures: ``[N, 3 or 1, H, W]`` in 0..1.

        Returns:
            ``[N, channels, H / 32, W / 32]``, rounded up.
        """
        x = self.prepare(pictures)
        for part in self.parts()[0]:
            x = part(x)
        return x

    def prepare(self, pictures: Tensor) -> Tensor:
        """Normalise colours as published weights expect it.

        Args:
            pictures: ``[N, 3 or 1, H, W]`` in 0..1.

        Returns:
            ``[N, 3, H, W]``.
        """
        return (pictures - self.mean) / self.deviation

    def parts(self) -> tuple[list[nn.Module], list[int]]:
        """Give three parts that follow each other, for ensembles at several depths.

        Returns:
            The parts, which share the network's parameters, and their numbers of channels.
        """
        one, two, three, four = (getattr(self, f"layer{stage}") for stage in range(1, 5))
        first = nn.Sequential(self.conv1, self.bn1, nn.ReLU(), nn.MaxPool2d(3, 2, 1), one, two)
        return [first, three, four], [self.channels // 4, self.channels // 2, self.channels]


def resnet18(channels: int = 3) -> ResNet:
    """Make a ResNet-18 trunk.

    Args:
        channels: 3, or 1 for gray.
    """
    return ResNet((2, 2, 2, 2), deep=False, channels=channels)


def resnet50(channels: int = 3) -> ResNet:
    """Make a ResNet-50 trunk.

    Args:
        channels: 3, or 1 for gray.
    """
    return ResNet((3, 4, 6, 3), deep=True, channels=channels)


TRUNKS: dict[str, Callable[..., Any]] = {
    "small": SmallConvNet,
    "resnet18": resnet18,
    "resnet50": resnet50,
}


class EmbeddingNet(nn.Module):
    """A trunk, means over its grid of positions, and a linear layer.

    Args:
        trunk: Name in `TRUNKS`.
        dimension: Of the embedding.
        channels: Of the pictures.
        frozen_norm: Leave batch-norms as they are loaded, in training too: batches of few classes
            would spoil a pretrained network's statistics.

    Raises:
        ValueError: There is no such trunk, or a number is out of range.

    Example:
        >>> EmbeddingNet("small", 2, channels=1)(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self, trunk: str, dimension: int, channels: int = 3, frozen_norm: bool = False
    ) -> None:
        super().__init__()
        if trunk not in TRUNKS:
            raise ValueError(f"trunk must be one of {', '.join(TRUNKS)}, got {trunk!r}")
        at_least(1, dimension=dimension)
        self.trunk = TRUNKS[trunk](channels=channels)
        self.embedding = nn.Linear(self.trunk.channels * self.trunk.grid**2, dimension)
        self.trunk_name, self.channels, self.frozen_norm = trunk, channels, frozen_norm

    def train(self, mode: bool = True) -> "EmbeddingNet":
        """Go to training mode; frozen batch-norms stay out of it.

        Args:
            mode: Whether to train.

        Returns:
            Itself.
        """
        super().train(mode)
        if self.frozen_norm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, pictures: Tensor) -> Tensor:
        """Embed.

        Args:
            pictures: ``[N, C, H, W]`` in 0..1.

        Returns:
            ``[N, dimension]``, of any length.
        """
        found: Tensor = self.embedding(self.features(pictures))
        return found

    def features(self, pictures: Tensor) -> Tensor:
        """Compute what the linear layer sees.

        Args:
            pictures: ``[N, C, H, W]`` in 0..1.

        Returns:
            ``[N, channels * grid^2]`` of the trunk.
        """
        return F.adaptive_avg_pool2d(self.trunk(pictures), self.trunk.grid).flatten(1)
