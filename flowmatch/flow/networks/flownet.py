"""FlowNetS and FlowNetC, layer for layer, with the names of the published checkpoints.

Reference:
    Dosovitskiy, Fischer et al., FlowNet, ICCV 2015, figures 2 and 3; the thin variants are those of
    Ilg et al., FlowNet 2.0, CVPR 2017, section 5.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.flow.networks.sizes import check_pair, crop_to_level, pad_to_multiple
from flowmatch.ops import correlation

SLOPE = 0.1  # of the LeakyReLU after every convolution
UNIT = 20.0  # the layers predict full-resolution pixels / 20
STRIDE = 64


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


def _deconv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(SLOPE, inplace=True)
    )


def _predict(inputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, 2, 3, 1, 1)


class _FlowNet(nn.Module):
    """What both share: everything from conv4 on, and the decoder."""

    def __init__(
        self, width: float, mean: Sequence[float] | None, bias_in_upsampling: bool
    ) -> None:
        super().__init__()
        if not width > 0:
            raise ValueError(f"width must be positive, got {width}")
        if mean is not None and (len(mean) != 3 or not all(map(math.isfinite, mean))):
            raise ValueError(f"mean must be three numbers, red, green and blue, got {mean}")
        self.mean = None if mean is None else tuple(mean)
        c1, c2, c3, c4, c6 = (max(1, round(c * width)) for c in (64, 128, 256, 512, 1024))
        self.channels = (c1, c2, c3)
        self.conv4, self.conv4_1 = _conv(c3, c4, 3, 2), _conv(c4, c4)
        self.conv5, self.conv5_1 = _conv(c4, c4, 3, 2), _conv(c4, c4)
        self.conv6, self.conv6_1 = _conv(c4, c6, 3, 2), _conv(c6, c6)

        joined = [c6, c4 + c4 + 2, c4 + c3 + 2, c3 + c2 + 2, c2 + c1 + 2]  # levels 6 to 2
        deconvolved = [c4, c3, c2, c1]
        for level, inputs in zip((6, 5, 4, 3, 2), joined, strict=True):
            self.add_module(f"predict_flow{level}", _predict(inputs))
        for level, inputs, outputs in zip((5, 4, 3, 2), joined, deconvolved, strict=False):
            self.add_module(f"deconv{level}", _deconv(inputs, outputs))
            up = nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=bias_in_upsampling)
            self.add_module(f"upsampled_flow{level + 1}_to_{level}", up)

    def _initialise(self) -> None:
        """MSRA, as the paper's Caffe model."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _decode(self, skip2: Tensor, skip3: Tensor) -> dict[int, Tensor]:
        """Contract from conv3_1, expand again: level -> flow, in pixels of that level."""
        skip4 = self.conv4_1(self.conv4(skip3))
        skip5 = self.conv5_1(self.conv5(skip4))
        joined = self.conv6_1(self.conv6(skip5))
        predicted = self.get_submodule("predict_flow6")(joined)
        flows = {6: predicted.float() * (UNIT / 2**6)}
        for level, skip in ((5, skip5), (4, skip4), (3, skip3), (2, skip2)):
            up = self.get_submodule(f"upsampled_flow{level + 1}_to_{level}")(predicted)
            joined = torch.cat([skip, self.get_submodule(f"deconv{level}")(joined), up], dim=1)
            predicted = self.get_submodule(f"predict_flow{level}")(joined)
            flows[level] = predicted.float() * (UNIT / 2**level)
        return flows

    def _mean(self, first: Tensor, second: Tensor) -> Tensor:
        """Return what is subtracted from both images, ``[B or 1, 3, 1, 1]``."""
        if self.mean is None:
            return torch.stack([first, second]).mean(dim=(0, 3, 4))[..., None, None]
        return first.new_tensor(self.mean).view(1, 3, 1, 1)

    def _encode(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the skip connections of levels 2 and 3: conv2 (of the first image) and conv3_1."""
        raise NotImplementedError

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
        check_pair(first, second)
        H, W = first.shape[-2:]
        mean = self._mean(first, second)
        first, second = (pad_to_multiple(image, STRIDE) - mean for image in (first, second))
        flows = self._decode(*self._encode(first, second))
        return [crop_to_level(flows[level], H, W, level) for level in sorted(flows)]


class FlowNetS(_FlowNet):
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

    def __init__(self, *, width: float = 1.0, mean: Sequence[float] | None = None) -> None:
        super().__init__(width, mean, bias_in_upsampling=False)
        c1, c2, c3 = self.channels
        self.conv1, self.conv2 = _conv(6, c1, 7, 2), _conv(c1, c2, 5, 2)
        self.conv3, self.conv3_1 = _conv(c2, c3, 5, 2), _conv(c3, c3)
        self._initialise()

    def _encode(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        skip2 = self.conv2(self.conv1(torch.cat([first, second], dim=1)))
        return skip2, self.conv3_1(self.conv3(skip2))


class FlowNetC(_FlowNet):
    """FlowNet "correlated": one encoder for each image, compared by a correlation layer.

    Args:
        width: Multiplier of every layer's channels, except the 441 of the correlation: 1 for the
            paper's network (39.18 M parameters), 3/8 for the thin FlowNet2-c (5.8 M).
        mean: As in `FlowNetS`.

    Example:
        >>> flows = FlowNetC(width=1 / 16)(torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96))
        >>> flows[0].shape
        torch.Size([1, 2, 16, 24])
    """

    RADIUS, STEP = 10, 2  # of the correlation: +-20 feature pixels are +-160 image pixels

    def __init__(self, *, width: float = 1.0, mean: Sequence[float] | None = None) -> None:
        super().__init__(width, mean, bias_in_upsampling=True)
        c1, c2, c3 = self.channels
        redirected = max(1, round(32 * width))
        self.conv1, self.conv2, self.conv3 = (
            _conv(3, c1, 7, 2),
            _conv(c1, c2, 5, 2),
            _conv(c2, c3, 5, 2),
        )
        self.conv_redir = _conv(c3, redirected, 1)
        self.conv3_1 = _conv(redirected + (2 * self.RADIUS + 1) ** 2, c3)
        self._initialise()

    def _encode(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        skip2 = self.conv2(
            self.conv1(torch.cat([first, second]))
        )  # one batch: the weights are shared
        f1, f2 = self.conv3(skip2).chunk(2)
        volume = F.leaky_relu(correlation(f1, f2, self.RADIUS, self.STEP), SLOPE)
        joined = torch.cat([self.conv_redir(f1), volume], dim=1)
        return skip2.chunk(2)[0], self.conv3_1(joined)
