"""RecurrentPyramid: a coarse-to-fine network that refines each level several times."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.flow.networks.hypotheses import (
    FlowChoice,
    GlobalMatch,
    Hypothesis,
    choose_flow,
)
from flowmatch.flow.networks.padding import check_pair, crop_to_level, pad_to_multiple
from flowmatch.flow.networks.pyramid import convex_upsample
from flowmatch.ops import correlation, warp

SLOPE = 0.1
"""Slope of the LeakyReLU after every convolution."""
HIDDEN = 64
"""Channels of the recurrent state, which is kept from pass to pass and from level to level."""
CONTEXT = 32
"""Channels of the context features."""
GLOBAL_LEVEL = 2
"""Level of the global match, 1/8 of the resolution, in networks of at least four levels."""
GRID_LEVEL = 1
"""Level of the initial flow, 1/4 of the resolution."""
FINE = 48
"""Channels of the finest level's decoder."""
FINE_RADIUS = 2
"""Largest displacement that the finest level compares, in its own pixels."""


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.LeakyReLU(SLOPE, inplace=True)
    )


class RecurrentPyramid(nn.Module):
    """Coarse-to-fine flow with 1.2 M parameters, three times the work of `PyramidNet`.

    Both images pass through one encoder; coarse features are added to finer ones, which widens the
    receptive field of these. At each level, from 1/32 to 1/2, the second image's features are
    warped by the flow so far and compared with the first's in a small window. The expected
    displacement under a softmax of these similarities, whose temperature is learnt, is an initial
    flow: the encoder learns to match from the first step of training on, before any decoder does. A
    gated decoder with a recurrent state, the same at every level and in every pass, corrects it; a
    lighter decoder does so at 1/2.

    Coarse-to-fine loses small things that move far. So the flow that enters 1/8 is chosen at each
    pixel from two hypotheses, the coarse flow and the best match in the whole other image, and a
    third one, if an initial flow is given; it is one of two at 1/4 again. The finest flow is
    upsampled to full resolution by blending its neighbourhood with learnt weights, which keeps
    edges sharp.

    Args:
        channels: Number of features at 1/2, 1/4, ... of the resolution.
        passes: Number of refinements of each level but the finest, finer levels first.
        radius: Largest displacement that a level compares, in its own pixels; the finest compares
            2.

    Raises:
        ValueError: Fewer than three levels, or not one entry of `passes` for each level but one.

    Reference:
        Warping and cost volume as in Sun et al., PWC-Net, CVPR 2018; the expected displacement
        ("soft argmax") as in Kendall et al., GC-Net, ICCV 2017, section 3.4; repeated gated
        updates and the upsampling as in Teed & Deng, RAFT, ECCV 2020, section 3.3.

    Example:
        >>> flows = RecurrentPyramid()(torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96))
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
        if len(channels) < 3 or len(passes) != len(channels) - 1 or min(radius, *passes) < 1:
            raise ValueError(
                "at least three levels, a pass for each but the finest and a radius of 1 are "
                f"needed, got channels {tuple(channels)}, passes {tuple(passes)}, radius {radius}"
            )
        self.radius, self.passes = radius, tuple(passes)
        self.encoder = nn.ModuleList(
            nn.Sequential(_conv(inputs, outputs, 2), _conv(outputs, outputs))
            for inputs, outputs in zip((3, *channels), channels, strict=False)
        )
        self.surroundings = nn.ModuleList(
            nn.Conv2d(coarse, fine, 1) for fine, coarse in zip(channels, channels[1:], strict=False)
        )
        self.context = nn.ModuleList(nn.Conv2d(c, CONTEXT, 1) for c in channels[1:])
        # For each level, the logarithm of the softmax's inverse temperature.
        self.sharpness = nn.Parameter(torch.full((len(channels),), 2.7))
        compared = (2 * radius + 1) ** 2
        self.match_globally = GlobalMatch()
        self.choose_coarse = FlowChoice(compared, CONTEXT)  # coarse, global and initial flow
        self.choose_fine = FlowChoice(compared, CONTEXT)  # coarse and initial flow
        self.global_sharpness = nn.Parameter(torch.tensor(3.4))
        compared += 4  # the initial flow of a pass, and its change
        self.decoder = nn.Sequential(_conv(compared + CONTEXT + HIDDEN, 112), _conv(112, 96))
        self.gates = nn.Conv2d(96, 2 * HIDDEN, 3, 1, 1)
        self.correct = nn.Sequential(_conv(HIDDEN, HIDDEN), nn.Conv2d(HIDDEN, 2, 3, 1, 1))
        self.remember = nn.Conv2d(HIDDEN, CONTEXT, 1)
        compared = (2 * FINE_RADIUS + 1) ** 2 + 4
        self.fine = nn.Sequential(_conv(compared + channels[0] + CONTEXT, FINE), _conv(FINE, FINE))
        self.correct_fine = nn.Conv2d(FINE, 2, 3, 1, 1)
        self.blend = nn.Conv2d(FINE, 9 * 4, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, SLOPE)
                nn.init.zeros_(module.get_parameter("bias"))
        self.choose_coarse.begin()
        self.choose_fine.begin()
        nn.init.zeros_(self.correct.get_parameter("1.weight"))
        nn.init.zeros_(self.correct_fine.weight)

    def forward(
        self, first: Tensor, second: Tensor, initial_flow: Tensor | None = None
    ) -> list[Tensor]:
        """Estimate the flow from `first` to `second`.

        Args:
            first: RGB images in [0, 1], ``[B, 3, H, W]``, H and W at least 16.
            second: The later images, same shape.
            initial_flow: A flow that may be right, such as that of the pair before, on the
                network's grid (`to_grid`); NaN where it is unknown. None is unknown everywhere.

        Returns:
            The flow at full resolution, then two for each pass of each level, newest first: the
            corrected one and the pass's initial one, ``[B, 2, ceil(H / s), ceil(W / s)]`` with
            s = 2 (one pass), 4, 8, 16, 32, each in pixels of its own resolution. The passes at 4
            and 8 are followed by the flow they began with, those at 8 also by the global match.

        Raises:
            ValueError: The images do not fit each other, are too small, or do not fit
                `initial_flow`.
        """
        check_pair(first, second)
        H, W = first.shape[-2:]
        given = None if initial_flow is None else self._given(initial_flow, H, W)
        features = self._encode(torch.cat([first, second]) - 0.5)
        flow = torch.zeros_like(first[:, :2, :1, :1]).to(_wide_dtype(first))
        hidden = first.new_zeros(len(first), HIDDEN, 1, 1)
        flows: list[Tensor] = []
        narrow = self.gates.weight.dtype  # of a network of a half type; similarities are wider
        for level in range(len(features) - 1, 0, -1):
            flow, hidden = 2 * _resize(flow, features[level]), _resize(hidden, features[level])
            matching = LevelMatching(features[level], self.sharpness[level], self.radius)
            context = self.context[level - 1](features[level][: len(first)])
            if level <= GLOBAL_LEVEL:
                begun = self._choose(level, flow, given, matching, context)
                flow = begun[-1]
                flows += [crop_to_level(f, H, W, level + 1) for f in begun]
            for _ in range(self.passes[level - 1]):
                initial, similarity, displacements = matching(flow)
                x = torch.cat([similarity, context, displacements, hidden], dim=1)
                x = self.decoder(x.to(narrow))
                gate, new = self.gates(x).chunk(2, dim=1)
                hidden = torch.lerp(hidden.to(new), new.tanh(), gate.sigmoid())
                flow = initial + self.correct(hidden).to(initial)
                flows += [crop_to_level(f, H, W, level + 1) for f in (initial, flow)]
        memory = _resize(self.remember(hidden), features[0])
        matching = LevelMatching(features[0], self.sharpness[0], FINE_RADIUS)
        initial, similarity, displacements = matching(2 * _resize(flow, features[0]))
        x = torch.cat([similarity, features[0][: len(first)], displacements, memory], dim=1)
        x = self.fine(x.to(narrow))
        flow = initial + self.correct_fine(x).to(initial)
        flows += [crop_to_level(f, H, W, 1) for f in (initial, flow)]
        full = convex_upsample(flow, self.blend(x).to(flow), 2)
        return [full[..., :H, :W], *flows[::-1]]

    @staticmethod
    def to_grid(flow: Tensor) -> Tensor:
        """Convert a flow to an initial flow on the network's grid.

        Args:
            flow: Flow ``[B, 2, H, W]`` in pixels, unknown where it is not finite.

        Returns:
            Mean of the known flow in each 4 x 4 pixels, ``[B, 2, ceil(H / 4), ceil(W / 4)]``, in
            pixels of the grid, NaN without known flow; `forward` takes it for images of this size.

        Example:
            >>> grid = RecurrentPyramid.to_grid(torch.full((1, 2, 64, 90), 8.0))
            >>> grid.shape, grid.mean().item()
            (torch.Size([1, 2, 16, 23]), 2.0)
        """
        step = 2 ** (GRID_LEVEL + 1)
        return _shrink(pad_to_multiple(flow, step), step)

    def _given(self, initial_flow: Tensor, H: int, W: int) -> Tensor:
        """Return the initial flow on the grid of the padded images."""
        step = 2 ** (GRID_LEVEL + 1)
        shape = (2, -(-H // step), -(-W // step))
        if initial_flow.dim() != 4 or initial_flow.shape[1:] != shape:
            raise ValueError(
                f"initial_flow must be on the network's grid, [B, {', '.join(map(str, shape))}], "
                f"got {list(initial_flow.shape)}"
            )
        return pad_to_multiple(initial_flow, 2 ** (len(self.encoder) - GRID_LEVEL - 1))

    def _choose(
        self,
        level: int,
        coarse: Tensor,
        given: Tensor | None,
        matching: "LevelMatching",
        context: Tensor,
    ) -> list[Tensor]:
        """Return the flow that a level begins with, after the other flows to be trained."""
        certain = torch.zeros_like(coarse[:, :1])
        hypotheses = [Hypothesis(coarse, certain)]
        if level == GLOBAL_LEVEL:
            unit2 = _unit(matching.centred2)
            hypotheses.append(self.match_globally(matching.unit1, unit2, self.global_sharpness))
        trained = [hypothesis.flow for hypothesis in hypotheses[1:]]
        choice = self.choose_coarse if level == GLOBAL_LEVEL else self.choose_fine
        if given is not None:
            flow = given.to(coarse)
            flow = flow if level == GRID_LEVEL else _shrink(flow, 2 ** (level - GRID_LEVEL))
            known = flow.isfinite().all(dim=1, keepdim=True)
            hypotheses.append(Hypothesis(flow.where(known, 0), certain, known))
        if len(hypotheses) > 1:
            coarse = choose_flow(hypotheses, choice(hypotheses, matching, context))
        return [*trained, coarse]

    def _encode(self, images: Tensor) -> list[Tensor]:
        x = pad_to_multiple(images, 2 ** len(self.encoder))
        features = []
        for stage in self.encoder:
            x = stage(x)
            features.append(x)
        for level in range(len(features) - 2, -1, -1):
            around = self.surroundings[level](features[level + 1])
            features[level] = features[level] + _resize(around, features[level])
        return features


class LevelMatching:
    """Features of one level, prepared for repeated comparison.

    Without their mean, features of different places are uncorrelated even before training, and the
    zeros outside the image are neutral. Unit vectors times sqrt(C) make the mean over C, which is
    the correlation, the cosine.

    Args:
        features: Features of both images, ``[2 B, C, h, w]``.
        sharpness: Logarithm of the softmax's inverse temperature.
        radius: Largest displacement that is compared.
    """

    def __init__(self, features: Tensor, sharpness: Tensor, radius: int) -> None:
        f1, f2 = features.to(_wide_dtype(features)).chunk(2)
        mean = (f1 + f2).mean(dim=(2, 3), keepdim=True) / 2
        self.unit1, self.centred2 = _unit(f1 - mean), f2 - mean
        self.sharpness, self.radius = sharpness, radius
        steps = torch.arange(-radius, radius + 1.0, dtype=f1.dtype, device=f1.device)
        dy, dx = torch.meshgrid(steps, steps, indexing="ij")
        self.displacements = torch.stack([dx.flatten(), dy.flatten()])  # in the volume's order

    def __call__(self, flow: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the initial flow around a flow, the similarities, and both displacements."""
        warped = _unit(warp(self.centred2, flow))
        volume = correlation(self.unit1, warped, radius=self.radius, stride=1)
        probability = (volume * self.sharpness.exp()).softmax(dim=1)
        step = torch.einsum("bkhw,ck->bchw", probability, self.displacements)
        initial = flow + step
        # An eighth brings long motions to the range of the other inputs.
        return initial, F.leaky_relu(volume, SLOPE), torch.cat([initial / 8, step], dim=1)


def _shrink(flow: Tensor, factor: int) -> Tensor:
    """Return the mean of the known flow in each ``factor x factor`` pixels, NaN without any."""
    known = flow.isfinite().all(dim=1, keepdim=True)
    total, share = (F.avg_pool2d(x.to(flow), factor) for x in (flow.where(known, 0), known))
    return torch.where(share > 0, total / share / factor, torch.nan)


def _unit(features: Tensor) -> Tensor:
    unit: Tensor = F.normalize(features, dim=1) * features.shape[1] ** 0.5
    return unit


def _resize(image: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(image, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _wide_dtype(image: Tensor) -> torch.dtype:
    """Return float32 or wider for flow and similarities: half types cannot resolve pixels."""
    return torch.promote_types(image.dtype, torch.float32)
