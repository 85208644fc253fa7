"""PyramidNet: a compact coarse-to-fine network that trains fast."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.flow.networks.padding import check_pair, crop_to_level, pad_to_multiple
from flowmatch.ops import correlation, warp

SLOPE = 0.1
"""Slope of the LeakyReLU after every convolution."""
UPSAMPLING = 4
"""Factor from the finest level to the full resolution."""


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.LeakyReLU(SLOPE, inplace=True)
    )


class PyramidNet(nn.Module):
    """Coarse-to-fine flow with 0.7 M parameters.

    Both images pass through one encoder. At each level, from 1/32 to 1/4, the second image's
    features are warped by the flow so far and compared with the first's in a 9 x 9 window. The
    expected displacement under a softmax of these similarities, whose temperature is learnt, is the
    level's initial flow: the encoder learns to match from the first step of training on, before any
    decoder does. One small decoder, the same at every level, then corrects it. The finest flow is
    upsampled to full resolution by blending its neighbourhood with learnt weights, which keeps
    edges sharp.

    Args:
        channels: Number of features at 1/2, 1/4, ... of the resolution; flow begins at 1/4.
        radius: Largest displacement that a level compares, in its own pixels.

    Reference:
        Warping and cost volume as in Sun et al., PWC-Net, CVPR 2018; the expected displacement
        ("soft argmax") as in Kendall et al., GC-Net, ICCV 2017, section 3.4; the upsampling as in
        Teed & Deng, RAFT, ECCV 2020, section 3.3.

    Example:
        >>> flows = PyramidNet()(torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96))
        >>> flows[0].shape, flows[1].shape
        (torch.Size([1, 2, 64, 96]), torch.Size([1, 2, 16, 24]))
    """

    def __init__(
        self, *, channels: tuple[int, ...] = (16, 32, 64, 96, 128), radius: int = 4
    ) -> None:
        super().__init__()
        if len(channels) < 2 or radius < 1:
            raise ValueError(
                f"at least two levels and a radius of 1 are needed, got {channels} and {radius}"
            )
        self.radius = radius
        self.encoder = nn.ModuleList(
            nn.Sequential(_conv(inputs, outputs, 2), _conv(outputs, outputs))
            for inputs, outputs in zip((3, *channels), channels, strict=False)
        )
        self.context = nn.ModuleList(nn.Conv2d(c, 32, 1) for c in channels[1:])
        side = 2 * radius + 1
        self.decoder = nn.Sequential(
            _conv(side**2 + 32 + 4, 96), _conv(96, 64), _conv(64, 64), _conv(64, 48)
        )
        self.correct = nn.Conv2d(48, 2, 3, 1, 1)
        self.blend = nn.Conv2d(48, 9 * UPSAMPLING**2, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, SLOPE)
                nn.init.zeros_(module.get_parameter("bias"))
        nn.init.zeros_(self.correct.weight)
        self.sharpness = nn.Parameter(torch.tensor(2.7))  # log of the softmax's inverse temperature
        steps = torch.arange(-radius, radius + 1.0)
        dy, dx = torch.meshgrid(steps, steps, indexing="ij")
        displacements = torch.stack([dx.flatten(), dy.flatten()])  # [2, side^2], as the volume's
        self.register_buffer("displacements", displacements, persistent=False)

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Estimate the flow from `first` to `second`.

        Args:
            first: RGB images in [0, 1], ``[B, 3, H, W]``, H and W at least 16.
            second: The later images, same shape.

        Returns:
            The flow at full resolution, then two for each level, finest level first: the corrected
            one and the level's initial one, ``[B, 2, ceil(H / s), ceil(W / s)]`` for s = 4, 8, 16,
            32, each in pixels of its own resolution.

        Raises:
            ValueError: The images do not fit each other or are too small.
        """
        check_pair(first, second)
        H, W = first.shape[-2:]
        x = pad_to_multiple(torch.cat([first, second]) - 0.5, 2 ** len(self.encoder))
        features = []
        for stage in self.encoder:
            x = stage(x)
            features.append(x)
        flow = torch.zeros_like(first[:, :2, :1, :1]).to(_wide_dtype(first))
        flows: list[Tensor] = []
        for level in range(len(features) - 1, 0, -1):
            f1, f2 = features[level].chunk(2)
            initial, flow, hidden = self.refine_level(f1, f2, flow, self.context[level - 1])
            flows += [crop_to_level(f, H, W, level + 1) for f in (initial, flow)]
        full = convex_upsample(flow, self.blend(hidden).to(flow), UPSAMPLING)
        return [full[..., :H, :W], *flows[::-1]]

    def refine_level(
        self, f1: Tensor, f2: Tensor, coarse: Tensor, context: nn.Module
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the initial flow, the corrected flow and the decoder's features of one level.

        Args:
            f1: Features of the first image, ``[B, C, h, w]``.
            f2: Features of the second image.
            coarse: Flow of the next coarser level.
            context: Layer from features to context.
        """
        _, C, H, W = f1.shape
        flow = 2 * F.interpolate(coarse, size=(H, W), mode="bilinear", align_corners=False)
        f2 = warp(f2, flow)
        # Without their mean, features of different places are uncorrelated even before training,
        # and the zeros outside the image are neutral. Unit vectors times sqrt(C) make the mean over
        # C, which is the correlation, the cosine.
        both = torch.stack([f1, f2]).to(_wide_dtype(f1))
        both = both - both.mean(dim=(0, 3, 4), keepdim=True)
        unit1, unit2 = F.normalize(both, dim=2) * C**0.5
        volume = correlation(unit1, unit2, radius=self.radius, stride=1)
        matching = (volume * self.sharpness.exp()).softmax(dim=1)
        step = torch.einsum("bkhw,ck->bchw", matching, self.displacements.to(matching))
        initial = flow + step
        x = torch.cat([F.leaky_relu(volume, SLOPE), context(f1), initial, step], dim=1)
        hidden = self.decoder(x.to(self.correct.weight.dtype))
        return initial, initial + self.correct(hidden).to(initial), hidden


def _wide_dtype(image: Tensor) -> torch.dtype:
    """Return float32 or wider for flow and similarities: half types cannot resolve pixels."""
    return torch.promote_types(image.dtype, torch.float32)


def convex_upsample(flow: Tensor, scores: Tensor, factor: int, border: str = "replicate") -> Tensor:
    """Upsample a flow: each new pixel is a convex combination of the nine old ones around.

    Args:
        flow: Flow in pixels of its own resolution, ``[B, 2, h, w]``.
        scores: Unnormalised weights, ``[B, 9 * factor**2, h, w]``, neighbour-major.
        factor: Factor on the size and on the values.
        border: Padding around the flow, a mode of `torch.nn.functional.pad`; RAFT's published
            weights expect zeros, ``"constant"``.

    Returns:
        Flow ``[B, 2, h * factor, w * factor]``.

    Reference:
        Teed & Deng, RAFT, ECCV 2020, section 3.3.
    """
    B, _, h, w = flow.shape
    weights = scores.view(B, 1, 9, factor, factor, h, w).softmax(dim=2)
    neighbours = F.unfold(F.pad(factor * flow, (1, 1, 1, 1), mode=border), 3)
    neighbours = neighbours.view(B, 2, 9, 1, 1, h, w)
    blended = (weights * neighbours).sum(dim=2)  # [B, 2, factor, factor, h, w]
    return blended.permute(0, 1, 4, 2, 5, 3).reshape(B, 2, h * factor, w * factor)
