"""Embedding networks, with a small backbone or a ResNet with torchvision's parameter names."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.timm_backbones import PREFIX, TimmBackbone


class SmallConvNet(nn.Module):
    """Three 3x3 convolutions with batch normalisation, for small pictures; two pooling layers.

    Features are pooled over a 2 x 2 grid, not globally, because position matters in digits.

    Args:
        channels: Number of channels of the pictures.
        width: Channels of the first convolution; the next have two and four times as many.

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
        features: Tensor = self.layers(self.prepare(pictures))
        return features

    def prepare(self, pictures: Tensor) -> Tensor:
        """Scale pictures from 0..1 to -1..1.

        Args:
            pictures: Values in 0..1.

        Returns:
            A tensor of the same shape.
        """
        return 2 * pictures - 1

    def parts(self) -> tuple[list[nn.Module], list[int]]:
        """Split the backbone into three consecutive stages, for ensembles at several depths.

        Returns:
            The stages, which share the network's parameters, and their numbers of output channels.
        """
        widths = [self.channels // 4, self.channels // 2, self.channels]
        return [self.layers[:4], self.layers[4:8], self.layers[8:]], widths


class _Block(nn.Module):
    """A residual block: two 3x3 convolutions, or a bottleneck of 1x1, 3x3, 1x1 if `deep`."""

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
        shortcut = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.count + 1):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            x = F.relu(x if i < self.count else x + shortcut)
        return x


class ResNet(nn.Module):
    """A ResNet up to its last feature map, with torchvision's parameter names.

    Published weights load with ``load_state_dict(weights, strict=False)``: only ``fc``, the
    classifier, is unused.

    Args:
        blocks: Number of blocks in each of the four stages.
        deep: Whether blocks are bottlenecks of three convolutions, as in ResNet-50.
        channels: Number of channels of the pictures, 3 or 1; gray is repeated.

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
            layer = []
            for i in range(count):
                layer.append(_Block(before, width, 2 if i == 0 and stage else 1, deep))
                before = 4 * width if deep else width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
        self.channels, self.grid = before, 1
        # Not persistent: torchvision's weights have no such entries.
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
        """Normalise colours as published weights expect them.

        Args:
            pictures: ``[N, 3 or 1, H, W]`` in 0..1.

        Returns:
            ``[N, 3, H, W]``.
        """
        return (pictures - self.mean) / self.deviation

    def parts(self) -> tuple[list[nn.Module], list[int]]:
        """Split the backbone into three consecutive stages, for ensembles at several depths.

        Returns:
            The stages, which share the network's parameters, and their numbers of output channels.
        """
        layers = [getattr(self, f"layer{stage}") for stage in range(1, 5)]
        stem = (self.conv1, self.bn1, nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        widths = [self.channels // 4, self.channels // 2, self.channels]
        return [nn.Sequential(*stem, *layers[:2]), *layers[2:]], widths


def resnet18(channels: int = 3) -> ResNet:
    """Make a ResNet-18 backbone.

    Args:
        channels: Number of channels of the pictures, 3 or 1.
    """
    return ResNet((2, 2, 2, 2), deep=False, channels=channels)


def resnet50(channels: int = 3) -> ResNet:
    """Make a ResNet-50 backbone.

    Args:
        channels: Number of channels of the pictures, 3 or 1.
    """
    return ResNet((3, 4, 6, 3), deep=True, channels=channels)


BACKBONES: dict[str, Callable[..., Any]] = {
    "small": SmallConvNet,
    "tiny": partial(SmallConvNet, width=16),
    "resnet18": resnet18,
    "resnet50": resnet50,
}


class EmbeddingNet(nn.Module):
    """A backbone, average pooling over its grid of positions, and a linear layer.

    Args:
        backbone: Name in `BACKBONES`, or ``timm/`` and the name of a model of timm, see
            `TimmBackbone`.
        dimension: Dimension of the embedding.
        channels: Number of channels of the pictures.
        size: Side in pixels of the square pictures that the network is made for.
        metric: Distance that its embeddings are compared by, ``"cosine"`` or ``"l2"``.
        frozen_norm: Whether batch normalisation keeps its statistics in training, too: batches of
            few classes would spoil those of a pretrained network.

    Raises:
        ValueError: The backbone or the metric is unknown, or a number is out of range.

    Example:
        >>> EmbeddingNet("small", 2, channels=1)(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        backbone: str,
        dimension: int,
        channels: int = 3,
        *,
        size: int = 64,
        metric: str = "cosine",
        frozen_norm: bool = False,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES and not backbone.startswith(PREFIX):
            names = ", ".join(BACKBONES)
            raise ValueError(f"backbone must be one of {names} or {PREFIX}NAME, got {backbone!r}")
        if metric not in ("cosine", "l2"):
            raise ValueError(f"metric must be cosine or l2, got {metric!r}")
        at_least(1, dimension=dimension, size=size)
        make = BACKBONES.get(backbone, partial(TimmBackbone, backbone))
        self.backbone = make(channels=channels)
        self.embedding = nn.Linear(self.backbone.channels * self.backbone.grid**2, dimension)
        self.backbone_name, self.channels = backbone, channels
        self.size, self.metric, self.frozen_norm = int(size), metric, frozen_norm

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments that rebuild the network, for a file of weights."""
        return {
            "backbone": self.backbone_name,
            "dimension": self.embedding.out_features,
            "channels": self.channels,
            "size": self.size,
            "metric": self.metric,
        }

    def train(self, mode: bool = True) -> "EmbeddingNet":
        """Switch to training mode, except for frozen batch normalisation.

        Args:
            mode: Whether to train.

        Returns:
            The network itself.
        """
        super().train(mode)
        if self.frozen_norm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute embeddings.

        Args:
            pictures: ``[N, C, H, W]`` in 0..1.

        Returns:
            ``[N, dimension]``, not normalised.
        """
        embeddings: Tensor = self.embedding(self.features(pictures))
        return embeddings

    def features(self, pictures: Tensor) -> Tensor:
        """Compute the pooled features, the input of the linear layer.

        Args:
            pictures: ``[N, C, H, W]`` in 0..1.

        Returns:
            ``[N, channels * grid^2]`` of the backbone.
        """
        return F.adaptive_avg_pool2d(self.backbone(pictures), self.backbone.grid).flatten(1)


MODELS: dict[str, Callable[..., nn.Module]] = {"embedding": EmbeddingNet}
