"""A compact pyramid network that learns fast: each level starts from where its features match."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.flow.networks.sizes import check_pair, crop_to_level, pad_to_multiple
from flowmatch.ops import correlation, warp

SLOPE = 0.1
HIDDEN = 64  # what the decoder remembers of a pixel, from pass to pass and from level to level
FINE = 48  # channels of the finest level's decoder
FINE_RADIUS = 2


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.LeakyReLU(SLOPE, inplace=True)
    )


class PyramidNet(nn.Module):
    """Coarse-to-fine flow with 1.3 M parameters.

    Both images pass through one encoder; coarse features are added to finer ones, so that a pixel's
    features know its surroundings. At each level, from 1/32 to 1/2, the second image's features are
    warped by the flow so far and compared with the first's in a small window. The expected
    displacement under a softmax of these similarities, whose temperature is learnt, is the pass's
    first guess: the encoder learns to match from the first step of training on, before any decoder
    does. A recurrent decoder, the same at every level and in every pass, then corrects the guess; a
    lighter one does so at 1/2. The finest flow is brought to full resolution by blending its
    neighbourhood with learnt weights, which keeps edges sharp.

    Args:
        channels: Features at 1/2, 1/4, ... of the resolution.
        passes: How often each level but the finest is refined, finest of them first.
        radius: Displacements to each side that a level compares, in its own pixels.

    Reference:
        Warping and cost volume as in Sun et al., PWC-Net, CVPR 2018; the expected displacement
        ("soft argmax") as in Kendall et al., GC-Net, ICCV 2017, section 3.4; the repeated, gated
        updates and the upsampling as in Teed & Deng, RAFT, ECCV 2020, section 3.3.

    Example:
        >>> flows = PyramidNet()(torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96))
        >>> flows[0].shape, flows[1].shape
        (torch.Size([1, 2, 64, 96]), torch.Size([1, 2, 32, 48]))
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (24, 48, 64, 96, 128),
        passes: Sequence[int] = (1, 3, 2, 2),
        radius: int = 4,
    ) -> None:
        super().__init__()
        if len(channels) < 2 or len(passes) != len(channels) - 1 or radius < 1:
            raise ValueError(
                "two levels, passes for all but the finest and a radius of 1 are the least, "
                f"got {channels}, {passes} and {radius}"
            )
        self.radius, self.passes = radius, tuple(passes)
        self.encoder = nn.ModuleList(
            nn.Sequential(_conv(inputs, outputs, 2), _conv(outputs, outputs))
            for inputs, outputs in zip((3, *channels), channels, strict=False)
        )
        self.surroundings = nn.ModuleList(
            nn.Conv2d(coarse, fine, 1)
            for fine, coarse in zip(channels, channels[1:], strict=False)
        )
        self.context = nn.ModuleList(nn.Conv2d(c, 32, 1) for c in channels[1:])
        self.sharpness = nn.Parameter(torch.full((len(channels),), 2.7))
        self.decoder = nn.Sequential(_conv((2 * radius + 1) ** 2 + 32 + 4 + HIDDEN, 112), _conv(112, 96))
        self.gates = nn.Conv2d(96, 2 * HIDDEN, 3, 1, 1)
        self.correct = nn.Sequential(_conv(HIDDEN, HIDDEN), nn.Conv2d(HIDDEN, 2, 3, 1, 1))
        self.remember = nn.Conv2d(HIDDEN, 32, 1)
        self.fine = nn.Sequential(
            _conv((2 * FINE_RADIUS + 1) ** 2 + channels[0] + 4 + 32, FINE), _conv(FINE, FINE)
        )
        self.correct_fine = nn.Conv2d(FINE, 2, 3, 1, 1)
        self.blend = nn.Conv2d(FINE, 9 * 4, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, SLOPE)
                nn.init.zeros_(module.get_parameter("bias"))
        for last in (self.correct[1], self.correct_fine):
            nn.init.zeros_(last.weight)
        for side in (radius, FINE_RADIUS):
            steps = torch.arange(-side, side + 1.0)
            dy, dx = torch.meshgrid(steps, steps, indexing="ij")
            # [2, (2 side + 1)^2], in the order of the volume
            self.register_buffer(
                f"displacements{side}", torch.stack([dx.flatten(), dy.flatten()]), persistent=False
            )

    def forward(self, first, second):
        check_pair(first, second)
        H, W = first.shape[-2:]
        features = self._encode(torch.cat([first, second]) - 0.5)
        flow = torch.zeros_like(first[:, :2, :1, :1]).to(_wide(first))
        hidden = first.new_zeros(len(first), HIDDEN, 1, 1)
        flows: list[Tensor] = []
        for level in range(len(features) - 1, -1, -1):
            matching = _Matching(features[level], self.sharpness[level])
            size = features[level].shape[-2:]
            flow = 2 * F.interpolate(flow, size=size, mode="bilinear", align_corners=False)
            if level == 0:
                break
            hidden = F.interpolate(hidden, size=size, mode="bilinear", align_corners=False)
            context = self.context[level - 1](features[level][: len(first)])
            for _ in range(self.passes[level - 1]):
                volume, step = matching(flow, self.radius, self.get_buffer(f"displacements{self.radius}"))
                guess = flow + step
                x = self.decoder(torch.cat([F.leaky_relu(volume, SLOPE), context, guess / 8, step, hidden], 1))
                keep, new = self.gates(x).chunk(2, 1)
                hidden = torch.lerp(hidden.to(new), new.tanh(), keep.sigmoid())
                flow = guess + self.correct(hidden).to(guess)
                flows += [crop_to_level(f, H, W, level + 1) for f in (guess, flow)]
        volume, step = matching(flow, FINE_RADIUS, self.get_buffer(f"displacements{FINE_RADIUS}"))
        guess = flow + step
        memory = F.interpolate(self.remember(hidden), size=size, mode="bilinear", align_corners=False)
        x = self.fine(torch.cat([F.leaky_relu(volume, SLOPE), features[0][: len(first)], guess / 8, step, memory], 1))
        flow = guess + self.correct_fine(x).to(guess)
        flows += [crop_to_level(f, H, W, 1) for f in (guess, flow)]
        full = blend_up(flow, self.blend(x).to(flow), 2)
        return [full[..., :H, :W], *flows[::-1]]

    def _encode(self, images):
        x = pad_to_multiple(images, 2 ** len(self.encoder))
        features = []
        for stage in self.encoder:
            x = stage(x)
            features.append(x)
        for level in range(len(features) - 2, -1, -1):
            around = self.surroundings[level](features[level + 1])
            features[level] = features[level] + F.interpolate(around, scale_factor=2, mode="bilinear", align_corners=False)
        return features


class _Matching:
    def __init__(self, features, sharpness):
        both = features.to(_wide(features))
        self.sharpness = sharpness
        f1, f2 = both.chunk(2)
        # per pair mean
        mean = (f1.mean((2, 3), keepdim=True) + f2.mean((2, 3), keepdim=True)) / 2
        self.unit1 = F.normalize(f1 - mean, dim=1) * f1.shape[1] ** 0.5
        self.centred2 = f2 - mean

    def __call__(self, flow, radius, displacements):
        f2 = warp(self.centred2, flow)
        unit2 = F.normalize(f2, dim=1) * f2.shape[1] ** 0.5
        volume = correlation(self.unit1, unit2, radius=radius, stride=1)
        matching = (volume * self.sharpness.exp()).softmax(dim=1)
        return volume, torch.einsum("bkhw,ck->bchw", matching, displacements.to(matching))


def _wide(image: Tensor) -> torch.dtype:
    """Flow and similarities are float32 at least: half types cannot tell pixels apart."""
    return torch.promote_types(image.dtype, torch.float32)


def blend_up(flow: Tensor, scores: Tensor, factor: int) -> Tensor:
    """Upsample a flow: each new pixel is a convex combination of the nine old ones around it.

    Args:
        flow: Flow in pixels of its own resolution, ``[B, 2, h, w]``.
        scores: Unnormalised weights, ``[B, 9 * factor**2, h, w]``, neighbour-major.
        factor: How many times larger the result is, in size and in values.

    Returns:
        Flow ``[B, 2, h * factor, w * factor]``.

    Reference:
        Teed & Deng, RAFT, ECCV 2020, section 3.3.
    """
    B, _, h, w = flow.shape
    weights = scores.view(B, 1, 9, factor, factor, h, w).softmax(dim=2)
    around = F.unfold(F.pad(factor * flow, (1, 1, 1, 1), mode="replicate"), 3)
    around = around.view(B, 2, 9, 1, 1, h, w)
    blended = (weights * around).sum(dim=2)  # [B, 2, factor, factor, h, w]
    return blended.permute(0, 1, 4, 2, 5, 3).reshape(B, 2, h * factor, w * factor)
