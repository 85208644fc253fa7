"""A compact pyramid network that learns fast: each level starts from where its features match."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.flow.networks.padding import check_pair, crop_to_level, pad_to_multiple
from flowmatch.ops import correlation, warp

SLOPE = 0.1
UP = 4  # from the finest level to the full resolution


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.LeakyReLU(SLOPE, inplace=True)
    )


class PyramidNet(nn.Module):
    """Coarse-to-fine flow with 0.7 M parameters.

    Both images pass through one encoder. At each level, from 1/32 to 1/4, the second image's
    features are warped by the flow so far and compared with the first's in a 9 x 9 window. The
    expected displacement under a softmax of these similarities, whose temperature is learnt, is the
    level's first guess: the encoder learns to match from the first step of training on, before any
    decoder does. One small decoder, the same at every level, then corrects the guess. The finest
    flow is brought to full resolution by blending its neighbourhood with learnt weights, which
    keeps edges sharp.

    Args:
        channels: Features at 1/2, 1/4, ... of the resolution; flow is estimated from 1/4 on.
        radius: Displacements to each side that a level compares, in its own pixels.

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
                f"two levels and a radius of 1 are the least, got {channels} and {radius}"
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
        self.blend = nn.Conv2d(48, 9 * UP**2, 1)
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
            one and the level's first guess, ``[B, 2, ceil(H / s), ceil(W / s)]`` for s = 4, 8, 16,
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
        flow = torch.zeros_like(first[:, :2, :1, :1]).to(_wide(first))
        flows: list[Tensor] = []
        for level in range(len(features) - 1, 0, -1):
            f1, f2 = features[level].chunk(2)
            guess, flow, hidden = self._refine(f1, f2, flow, self.context[level - 1])
            flows += [crop_to_level(f, H, W, level + 1) for f in (guess, flow)]
        full = blend_up(flow, self.blend(hidden).to(flow), UP)
        return [full[..., :H, :W], *flows[::-1]]

    def _refine(
        self, f1: Tensor, f2: Tensor, coarse: Tensor, context: nn.Module
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One level: upsample the coarser flow, match around it, correct the match."""
        _, C, H, W = f1.shape
        flow = 2 * F.interpolate(coarse, size=(H, W), mode="bilinear", align_corners=False)
        f2 = warp(f2, flow)
        # Without their mean, features of unlike places are uncorrelated even before training, and
        # the zeros outside the image are neutral. Unit vectors times sqrt(C): the volume's mean
        # over C is then the cosine.
        both = torch.stack([f1, f2]).to(_wide(f1))
        both = both - both.mean(dim=(0, 3, 4), keepdim=True)
        unit1, unit2 = F.normalize(both, dim=2) * C**0.5
        volume = correlation(unit1, unit2, radius=self.radius, stride=1)
        matching = (volume * self.sharpness.exp()).softmax(dim=1)
        step = torch.einsum("bkhw,ck->bchw", matching, self.displacements.to(matching))
        guess = flow + step
        x = torch.cat([F.leaky_relu(volume, SLOPE), context(f1), guess, step], dim=1)
        hidden = self.decoder(x.to(self.correct.weight.dtype))
        return guess, guess + self.correct(hidden).to(guess), hidden


def _wide(image: Tensor) -> torch.dtype:
    """Flow and similarities are float32 at least: half types cannot tell pixels apart."""
    return torch.promote_types(image.dtype, torch.float32)


def blend_up(flow: Tensor, scores: Tensor, factor: int, border: str = "replicate") -> Tensor:
    """Upsample a flow: each new pixel is a convex combination of the nine old ones around it.

    Args:
        flow: Flow in pixels of its own resolution, ``[B, 2, h, w]``.
        scores: Unnormalised weights, ``[B, 9 * factor**2, h, w]``, neighbour-major.
        factor: How many times larger the result is, in size and in values.
        border: What lies around the flow, a mode of `torch.nn.functional.pad`; RAFT's published
            weights expect zeros, ``"constant"``.

    Returns:
        Flow ``[B, 2, h * factor, w * factor]``.

    Reference:
        Teed & Deng, RAFT, ECCV 2020, section 3.3.
    """
    B, _, h, w = flow.shape
    weights = scores.view(B, 1, 9, factor, factor, h, w).softmax(dim=2)
    around = F.unfold(F.pad(factor * flow, (1, 1, 1, 1), mode=border), 3)
    around = around.view(B, 2, 9, 1, 1, h, w)
    blended = (weights * around).sum(dim=2)  # [B, 2, factor, factor, h, w]
    return blended.permute(0, 1, 4, 2, 5, 3).reshape(B, 2, h * factor, w * factor)
