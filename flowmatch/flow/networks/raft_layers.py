"""The layers of RAFT and of its small version, with torchvision's names.

Reference:
    Teed & Deng, RAFT, ECCV 2020, sections 3.1 and 3.3 and figure 7; sizes and names are those of
    torchvision's ``raft_large`` and ``raft_small``.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 8
"""Stride of the grid on which the flow is refined, in pixels."""
LEVELS = 4
"""Number of levels of the correlation pyramid."""


@dataclass(frozen=True)
class Sizes:
    """Sizes in which the two versions differ.

    Attributes:
        encoder: Channels of an encoder's stem and of its three layers.
        bottleneck: The encoders' blocks have a bottleneck.
        features: Channels of the features that are correlated.
        hidden: Channels of the hidden state.
        context: Channels of the context.
        context_norm: Normalisation in the context encoder.
        radius: Radius of the correlation lookup, in grid pixels.
        correlation: Channels of the layers over the correlation.
        flow: Channels of the layers over the flow.
        motion: Channels of the motion features.
        recurrent: Kernels of the recurrent units.
        head: Channels of the flow head.
        blends: The upsampling is learnt.
    """

    encoder: tuple[int, int, int, int]
    bottleneck: bool
    features: int
    hidden: int
    context: int
    context_norm: type[nn.Module] | None
    radius: int
    correlation: tuple[int, ...]
    flow: tuple[int, int]
    motion: int
    recurrent: tuple[tuple[int, int], ...]
    head: int
    blends: bool


LARGE = Sizes(
    encoder=(64, 64, 96, 128), bottleneck=False, features=256, hidden=128, context=128,
    context_norm=nn.BatchNorm2d, radius=4, correlation=(256, 192), flow=(128, 64), motion=128,
    recurrent=((1, 5), (5, 1)), head=256, blends=True,
)  # fmt: skip
SMALL = Sizes(
    encoder=(32, 32, 64, 96), bottleneck=True, features=128, hidden=96, context=64,
    context_norm=None, radius=3, correlation=(96,), flow=(64, 32), motion=82,
    recurrent=((3, 3),), head=128, blends=False,
)  # fmt: skip


def conv(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    norm: type[nn.Module] | None = None,
    relu: bool = True,
) -> nn.Sequential:
    """Return a convolution with its normalisation and ReLU; a stride of 1 keeps the size."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2)]
    if norm is not None:
        layers.append(norm(outputs))
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class _Block(nn.Module):
    """Residual block in which every convolution, also the last one, has a norm and a ReLU."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, norm: type[nn.Module] | None, narrow: bool
    ) -> None:
        super().__init__()
        if narrow:
            self.convnormrelu1 = conv(inputs, outputs // 4, 1, 1, norm)
            self.convnormrelu2 = conv(outputs // 4, outputs // 4, 3, stride, norm)
            self.convnormrelu3 = conv(outputs // 4, outputs, 1, 1, norm)
        else:
            self.convnormrelu1 = conv(inputs, outputs, 3, stride, norm)
            self.convnormrelu2 = conv(outputs, outputs, 3, 1, norm)
            self.convnormrelu3 = nn.Sequential()
        self.downsample = nn.Sequential()
        if stride > 1:
            self.downsample = conv(inputs, outputs, 1, stride, norm, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convnormrelu3(self.convnormrelu2(self.convnormrelu1(x)))
        return F.relu(self.downsample(x) + y)


class Encoder(nn.Module):
    """Encoder of images to features at 1/8 of the resolution."""

    def __init__(
        self,
        channels: tuple[int, int, int, int],
        outputs: int,
        norm: type[nn.Module] | None,
        narrow: bool,
    ) -> None:
        super().__init__()
        stem, *layers = channels
        self.convnormrelu = conv(3, stem, 7, 2, norm)
        before = stem
        for number, (width, stride) in enumerate(zip(layers, (1, 2, 2), strict=True), 1):
            blocks = (_Block(before, width, stride, norm, narrow),
                      _Block(width, width, 1, norm, narrow))  # fmt: skip
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            before = width
        self.conv = nn.Conv2d(before, outputs, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``[B, C, H / 8, W / 8]`` of images ``[B, 3, H, W]`` in [-1, 1]."""
        x = self.convnormrelu(x)
        for number in (1, 2, 3):
            x = self.get_submodule(f"layer{number}")(x)
        features: Tensor = self.conv(x)
        return features


class _MotionEncoder(nn.Module):
    """Encoder of correlation and flow to motion features, which end with the flow itself."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.side = 2 * sizes.radius + 1
        first, *rest = sizes.correlation
        self.convcorr1 = conv(LEVELS * self.side**2, first, 1)
        self.convcorr2 = conv(first, rest[0], 3) if rest else nn.Sequential()
        self.convflow1 = conv(2, sizes.flow[0], 7)
        self.convflow2 = conv(sizes.flow[0], sizes.flow[1], 3)
        self.conv = conv(sizes.correlation[-1] + sizes.flow[-1], sizes.motion - 2, 3)

    def forward(self, flow: Tensor, corr: Tensor) -> Tensor:
        weight, bias = (self.convcorr1.get_parameter(name) for name in ("0.weight", "0.bias"))
        # The published weights index a window column by column, `correlation_lookup` row by row.
        # The weights are transposed, not the correlation, which is a thousand times as large.
        by_window = weight.view(-1, LEVELS, self.side, self.side, 1, 1)
        transposed = by_window.transpose(2, 3).flatten(1, 3)
        corr_features = self.convcorr2(F.relu(F.conv2d(corr, transposed, bias)))
        flow_features = self.convflow2(self.convflow1(flow))
        both = torch.cat([corr_features, flow_features], dim=1)
        return torch.cat([self.conv(both), flow], dim=1)


class _RecurrentUnit(nn.Module):
    """Convolutional gated recurrent unit (section 3.3, equations 3 to 6)."""

    def __init__(self, inputs: int, hidden: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        pad = (kernel[0] // 2, kernel[1] // 2)
        self.convz, self.convr, self.convq = (
            nn.Conv2d(hidden + inputs, hidden, kernel, padding=pad) for _ in range(3)
        )

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        both = torch.cat([hidden, x], dim=1)
        update, reset = self.convz(both).sigmoid(), self.convr(both).sigmoid()
        new = self.convq(torch.cat([reset * hidden, x], dim=1)).tanh()
        renewed: Tensor = (1 - update) * hidden + update * new
        return renewed


class UpdateBlock(nn.Module):
    """One iteration: update the hidden state by correlation and flow, and predict a step."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.motion_encoder = _MotionEncoder(sizes)
        self.recurrent_block = nn.ModuleDict({
            f"convgru{n}": _RecurrentUnit(sizes.context + sizes.motion, sizes.hidden, kernel)
            for n, kernel in enumerate(sizes.recurrent, 1)
        })  # fmt: skip
        self.flow_head = nn.ModuleDict({
            "conv1": nn.Conv2d(sizes.hidden, sizes.head, 3, padding=1),
            "conv2": nn.Conv2d(sizes.head, 2, 3, padding=1),
        })  # fmt: skip

    def forward(
        self, hidden: Tensor, context: Tensor, corr: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the new hidden state, and the change of flow in grid pixels, ``[B, 2, h, w]``."""
        x = torch.cat([context, self.motion_encoder(flow, corr)], dim=1)
        for unit in self.recurrent_block.values():
            hidden = unit(hidden, x)
        return hidden, self.flow_head["conv2"](F.relu(self.flow_head["conv1"](hidden)))
