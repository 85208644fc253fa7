"""FlowNetS and FlowNetC, layer for layer, with the names of the published checkpoints.

Reference:
    Dosovitskiy, Fischer et al., FlowNet, ICCV 2015, figures 2 and 3; the thin variants are those of
    Ilg et al., FlowNet 2.0, CVPR 2017, section 5.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.flow.networks.padding import check_pair, crop_to_level, pad_to_multiple
from flowmatch.ops import correlation

SLOPE = 0.1
"""Slope of the LeakyReLU after every convolution."""
UNIT = 20.0
"""Unit of the predicted flow, in pixels of the full resolution."""
STRIDE = 64
"""Stride of the coarsest features, in pixels."""


def scale_channels(width: float, *channels: int) -> list[int]:
    """Return numbers of channels times `width`, at least 1 each."""
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")
    return [max(1, round(count * width)) for count in channels]


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution with its activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


def deconv(inputs: int, outputs: int) -> nn.Sequential:
    """Return a transposed convolution that doubles the resolution, with its activation."""
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(SLOPE, inplace=True)
    )


class Decoder(nn.Module):
    """Base of modules that predict flows from coarse to fine, from given skip connections.

    Attributes:
        unit: Unit of the predictions, in pixels of the full resolution.
        levels: Levels of the flows; level k has ``1 / 2**k`` of the resolution.
    """

    unit = UNIT
    levels: tuple[int, ...] = (6, 5, 4, 3, 2)

    def _add_decoder(
        self,
        skips: Sequence[int],
        deconvolved: Sequence[int],
        *,
        bias_in_upsampling: bool = True,
        smooth: bool = False,
    ) -> None:
        """Add the layers.

        Args:
            skips: Channels of the skip connection of each level.
            deconvolved: Channels from the next coarser level, for all levels but the first.
            bias_in_upsampling: The layers that enlarge the flow have a bias.
            smooth: Add a convolution without activation before each prediction but the first.
        """
        joined = [skips[0], *(a + b + 2 for a, b in zip(skips[1:], deconvolved, strict=True))]
        predicting = [skips[0], *deconvolved] if smooth else joined
        for level, inputs in zip(self.levels, predicting, strict=True):
            self.add_module(f"predict_flow{level}", nn.Conv2d(inputs, 2, 3, 1, 1))
        self.smooth = smooth
        for i, (level, outputs) in enumerate(zip(self.levels[1:], deconvolved, strict=True)):
            self.add_module(f"deconv{level}", deconv(joined[i], outputs))
            up = nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=bias_in_upsampling)
            self.add_module(f"upsampled_flow{level + 1}_to_{level}", up)
            if smooth:
                between = nn.Sequential(nn.Conv2d(joined[i + 1], outputs, 3, 1, 1))
                self.add_module(f"inter_conv{level}", between)

    def _initialise(self) -> None:
        """Initialise the weights by He et al. (MSRA), as in the paper's Caffe model."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _expand(self, skips: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return level -> flow, in pixels of that level, from each level's skip connection."""
        joined, coarsest = skips[0], self.levels[0]
        predicted = self.get_submodule(f"predict_flow{coarsest}")(joined)
        flows = {coarsest: predicted.float() * (self.unit / 2**coarsest)}
        for level, skip in zip(self.levels[1:], skips[1:], strict=True):
            up = self.get_submodule(f"upsampled_flow{level + 1}_to_{level}")(predicted)
            joined = torch.cat([skip, self.get_submodule(f"deconv{level}")(joined), up], dim=1)
            features = self.get_submodule(f"inter_conv{level}")(joined) if self.smooth else joined
            predicted = self.get_submodule(f"predict_flow{level}")(features)
            flows[level] = predicted.float() * (self.unit / 2**level)
        return flows


def run_padded(
    estimate: Callable[[Tensor, Tensor], Mapping[int, Tensor]],
    first: Tensor,
    second: Tensor,
    mean: Sequence[float] | None = None,
) -> list[Tensor]:
    """Run a network on padded images without their mean, and crop its flows.

    Args:
        estimate: Function from two images to level -> flow, in pixels of that level.
        first: RGB images in [0, 1], ``[B, 3, H, W]``.
        second: The later images.
        mean: Red, green and blue to subtract; None takes the mean of each pair.

    Returns:
        The flows, finest first.

    Raises:
        ValueError: The images do not fit each other or are too small.
    """
    check_pair(first, second)
    H, W = first.shape[-2:]
    if mean is None:
        offset = torch.stack([first, second]).mean(dim=(0, 3, 4))[..., None, None]  # [B, 3, 1, 1]
    else:
        offset = first.new_tensor(mean).view(1, 3, 1, 1)
    flows = estimate(*(pad_to_multiple(image, STRIDE) - offset for image in (first, second)))
    return [crop_to_level(flows[level], H, W, level) for level in sorted(flows)]


class FlowNet(Decoder):
    """Base of the networks that see images: the layers from conv4 on, and the decoder."""

    def __init__(
        self,
        width: float,
        mean: Sequence[float] | None = None,
        *,
        bias_in_upsampling: bool = True,
        smooth: bool = False,
    ) -> None:
        super().__init__()
        if mean is not None and (len(mean) != 3 or not all(map(math.isfinite, mean))):
            raise ValueError(f"mean must be three numbers, red, green and blue, got {mean}")
        self.mean = None if mean is None else tuple(mean)
        c1, c2, c3, c4, c6 = scale_channels(width, 64, 128, 256, 512, 1024)
        self.channels = (c1, c2, c3)
        self.conv4, self.conv4_1 = conv(c3, c4, 3, 2), conv(c4, c4)
        self.conv5, self.conv5_1 = conv(c4, c4, 3, 2), conv(c4, c4)
        self.conv6, self.conv6_1 = conv(c4, c6, 3, 2), conv(c6, c6)
        self._add_decoder(
            (c6, c4, c4, c3, c2),
            (c4, c3, c2, c1),
            bias_in_upsampling=bias_in_upsampling,
            smooth=smooth,
        )

    def decode(self, skip2: Tensor, skip3: Tensor) -> dict[int, Tensor]:
        """Return level -> flow, in pixels of that level, from the features of conv2 and conv3_1."""
        skip4 = self.conv4_1(self.conv4(skip3))
        skip5 = self.conv5_1(self.conv5(skip4))
        return self._expand([self.conv6_1(self.conv6(skip5)), skip5, skip4, skip3, skip2])

    def _encode(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the skip connections of levels 2 and 3: conv2 (of the first image) and conv3_1."""
        raise NotImplementedError

    def estimate(self, *inputs: Tensor) -> dict[int, Tensor]:
        """Return level -> flow, in pixels of that level, for padded inputs without their mean."""
        return self.decode(*self._encode(*inputs))

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Estimate the flow from `first` to `second`.

        Args:
            first: RGB images in [0, 1], ``[B, 3, H, W]``, H and W at least 16.
            second: The later images, same shape.

        Returns:
            Five flows ``[B, 2, ceil(H / s), ceil(W / s)]`` for s = 4, 8, 16, 32, 64, each in pixels
            of its own resolution.

        Raises:
            ValueError: The images do not fit each other or are too small.
        """
        return run_padded(self.estimate, first, second, self.mean)


class FlowNetS(FlowNet):
    """FlowNet "simple": both images stacked into one encoder.

    Args:
        width: Multiplier of every layer's channels: 1 for the paper's network (38.68 M
            parameters), 3/8 for the thin FlowNet2-s (5.5 M).
        mean: Red, green and blue to subtract from the images, as some published weights expect;
            None takes the mean of each pair, as FlowNet 2.0 does.

    Example:
        >>> flows = FlowNetS(width=1 / 16)(torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96))
        >>> flows[0].shape  # in pixels of the quarter resolution
        torch.Size([1, 2, 16, 24])
    """

    inputs = 6  # channels of both images

    def __init__(self, *, width: float = 1.0, mean: Sequence[float] | None = None) -> None:
        super().__init__(width, mean, bias_in_upsampling=False)
        c1, c2, c3 = self.channels
        self.conv1, self.conv2 = conv(self.inputs, c1, 7, 2), conv(c1, c2, 5, 2)
        self.conv3, self.conv3_1 = conv(c2, c3, 5, 2), conv(c3, c3)
        self._initialise()

    def _encode(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        skip2 = self.conv2(self.conv1(torch.cat(inputs, dim=1)))
        return skip2, self.conv3_1(self.conv3(skip2))


class CostVolume(nn.Module):
    """The correlation of two feature maps, as a module with hooks, through which it is trained.

    Args:
        radius: Largest displacement, in steps.
        step: Spacing of the displacements, in pixels of the features.
    """

    def __init__(self, radius: int, step: int) -> None:
        super().__init__()
        self.radius, self.step = radius, step
        self.channels = (2 * radius + 1) ** 2
        self.gain = 1.0  # see `norms.insert_norms`

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the correlation ``[B, channels, h, w]`` of features ``[B, C, h, w]``."""
        return self.gain * correlation(first, second, self.radius, self.step)


class FlowNetC(FlowNet):
    """FlowNet "correlated": one encoder for each image, compared by a correlation layer.

    Args:
        width: Multiplier of every layer's channels, except the 441 of the correlation: 1 for the
            paper's network (39.18 M parameters), 3/8 for the thin FlowNet2-c (5.8 M).
        mean: Red, green and blue to subtract from the images; None takes the mean of each pair.

    Example:
        >>> flows = FlowNetC(width=1 / 16)(torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96))
        >>> flows[0].shape
        torch.Size([1, 2, 16, 24])
    """

    RADIUS, STEP = 10, 2  # displacements of up to 20 feature pixels, which are 160 image pixels

    def __init__(self, *, width: float = 1.0, mean: Sequence[float] | None = None) -> None:
        super().__init__(width, mean)
        c1, c2, c3 = self.channels
        (redirected,) = scale_channels(width, 32)
        self.conv1, self.conv2, self.conv3 = (
            conv(3, c1, 7, 2),
            conv(c1, c2, 5, 2),
            conv(c2, c3, 5, 2),
        )
        self.conv_redir = conv(c3, redirected, 1)
        self.correlate = CostVolume(self.RADIUS, self.STEP)
        self.conv3_1 = conv(redirected + self.correlate.channels, c3)
        self._initialise()

    def _encode(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        # One batch of both images: the weights are shared.
        skip2 = self.conv2(self.conv1(torch.cat(inputs)))
        f1, f2 = self.conv3(skip2).chunk(2)
        volume = F.leaky_relu(self.correlate(f1, f2), SLOPE)
        joined = torch.cat([self.conv_redir(f1), volume], dim=1)
        return skip2.chunk(2)[0], self.conv3_1(joined)
