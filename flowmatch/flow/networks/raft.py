"""RAFT and its small version, with torchvision's names, on windows computed when asked for.

Reference:
    Teed & Deng, RAFT: Recurrent All-Pairs Field Transforms for Optical Flow, ECCV 2020, sections
    3.1 to 3.3 and figure 7; layers and names are those of torchvision's ``raft_large`` and
    ``raft_small``.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.flow.networks.pyramid import blend_up
from flowmatch.flow.networks.sizes import check_pair
from flowmatch.ops import correlation_lookup, correlation_pyramid

STRIDE = 8  # of the grid that the flow is refined on
LEVELS = 4  # of the pyramid: the coarsest must still be a picture
LEAST = 128  # pixels to a side that the network sees
MOST_ITERATIONS = 1000  # the count may come with a stranger's file


@dataclass(frozen=True)
class _Sizes:
    """What the two versions differ in."""

    encoder: tuple[int, int, int, int]  # channels of the stem and of the three layers
    bottleneck: bool
    features: int
    hidden: int
    context: int
    context_norm: type[nn.Module] | None
    radius: int
    correlation: tuple[int, ...]  # channels of the layers over the windows
    flow: tuple[int, int]  # and of those over the flow
    motion: int
    recurrent: tuple[tuple[int, int], ...]  # kernels of the recurrent units
    head: int
    blends: bool  # the upsampling is learnt


_LARGE = _Sizes(
    encoder=(64, 64, 96, 128), bottleneck=False, features=256, hidden=128, context=128,
    context_norm=nn.BatchNorm2d, radius=4, correlation=(256, 192), flow=(128, 64), motion=128,
    recurrent=((1, 5), (5, 1)), head=256, blends=True,
)  # fmt: skip
_SMALL = _Sizes(
    encoder=(32, 32, 64, 96), bottleneck=True, features=128, hidden=96, context=64,
    context_norm=None, radius=3, correlation=(96,), flow=(64, 32), motion=82,
    recurrent=((3, 3),), head=128, blends=False,
)  # fmt: skip


def _conv(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    norm: type[nn.Module] | None = None,
    relu: bool = True,
) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2)]
    if norm is not None:
        layers.append(norm(outputs))
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class _Block(nn.Module):
    """A residual block; every convolution has a norm and a ReLU, the last one too."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, norm: type[nn.Module] | None, narrow: bool
    ) -> None:
        super().__init__()
        if narrow:
            self.convnormrelu1 = _conv(inputs, outputs // 4, 1, 1, norm)
            self.convnormrelu2 = _conv(outputs // 4, outputs // 4, 3, stride, norm)
            self.convnormrelu3 = _conv(outputs // 4, outputs, 1, 1, norm)
        else:
            self.convnormrelu1 = _conv(inputs, outputs, 3, stride, norm)
            self.convnormrelu2 = _conv(outputs, outputs, 3, 1, norm)
            self.convnormrelu3 = nn.Sequential()
        self.downsample = nn.Sequential()
        if stride > 1:
            self.downsample = _conv(inputs, outputs, 1, stride, norm, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convnormrelu3(self.convnormrelu2(self.convnormrelu1(x)))
        return F.relu(self.downsample(x) + y)


class _Encoder(nn.Module):
    """From a picture to features at 1/8 of its resolution."""

    def __init__(
        self,
        channels: tuple[int, int, int, int],
        outputs: int,
        norm: type[nn.Module] | None,
        narrow: bool,
    ) -> None:
        super().__init__()
        stem, *layers = channels
        self.convnormrelu = _conv(3, stem, 7, 2, norm)
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
        x = self.convnormrelu(x)
        for number in (1, 2, 3):
            x = self.get_submodule(f"layer{number}")(x)
        features: Tensor = self.conv(x)
        return features


class _MotionEncoder(nn.Module):
    """What the windows show and where they are, in one tensor that ends with the flow itself."""

    def __init__(self, sizes: _Sizes) -> None:
        super().__init__()
        self.side = 2 * sizes.radius + 1
        first, *rest = sizes.correlation
        self.convcorr1 = _conv(LEVELS * self.side**2, first, 1)
        self.convcorr2 = _conv(first, rest[0], 3) if rest else nn.Sequential()
        self.convflow1 = _conv(2, sizes.flow[0], 7)
        self.convflow2 = _conv(sizes.flow[0], sizes.flow[1], 3)
        self.conv = _conv(sizes.correlation[-1] + sizes.flow[-1], sizes.motion - 2, 3)

    def forward(self, flow: Tensor, windows: Tensor) -> Tensor:
        weight, bias = (self.convcorr1.get_parameter(name) for name in ("0.weight", "0.bias"))
        # The published weights count a window column by column, `correlation_lookup` row by row.
        # The weights are turned, not the windows: those are a thousand times as many.
        windows_of = weight.view(-1, LEVELS, self.side, self.side, 1, 1)
        turned = windows_of.transpose(2, 3).flatten(1, 3)
        seen = self.convcorr2(F.relu(F.conv2d(windows, turned, bias)))
        moved = self.convflow2(self.convflow1(flow))
        return torch.cat([self.conv(torch.cat([seen, moved], dim=1)), flow], dim=1)


class _RecurrentUnit(nn.Module):
    """A gated recurrent unit whose products are convolutions (section 3.3, equations 3 to 6)."""

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


class _UpdateBlock(nn.Module):
    """One iteration: look at the windows, renew the hidden state, read a step off it."""

    def __init__(self, sizes: _Sizes) -> None:
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
        self, hidden: Tensor, context: Tensor, windows: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor]:
        x = torch.cat([context, self.motion_encoder(flow, windows)], dim=1)
        for unit in self.recurrent_block.values():
            hidden = unit(hidden, x)
        return hidden, self.flow_head["conv2"](F.relu(self.flow_head["conv1"](hidden)))


class _Raft(nn.Module):
    """What both versions share, which is everything but the sizes."""

    def __init__(self, sizes: _Sizes, iterations: int) -> None:
        super().__init__()
        if not 1 <= iterations <= MOST_ITERATIONS:
            raise ValueError(f"iterations must be 1 to {MOST_ITERATIONS}, got {iterations}")
        self.iterations = iterations
        self.sizes = sizes
        self.feature_encoder = _Encoder(
            sizes.encoder, sizes.features, nn.InstanceNorm2d, sizes.bottleneck
        )
        self.context_encoder = _Encoder(
            sizes.encoder, sizes.hidden + sizes.context, sizes.context_norm, sizes.bottleneck
        )
        self.update_block = _UpdateBlock(sizes)
        if sizes.blends:
            self.mask_predictor = nn.ModuleDict({
                "convrelu": _conv(sizes.hidden, 256, 3),
                "conv": nn.Conv2d(256, 9 * STRIDE**2, 1),
            })  # fmt: skip

    def forward(self, first: Tensor, second: Tensor, start: Tensor | None = None) -> list[Tensor]:
        """Estimate the flow from `first` to `second`.

        Args:
            first: RGB images in [0, 1], ``[B, 3, H, W]``, H and W at least 16.
            second: The later images, same shape.
            start: Flow to begin with, as `estimate` and `to_grid` give it; None begins with none.

        Returns:
            Flows ``[B, 2, H, W]`` in pixels: in training that of each iteration, the last one
            first, and else that of the last one alone.

        Raises:
            ValueError: The images do not fit each other or are too small, or `start` does not fit.
        """
        return self.estimate(first, second, start)[0]

    def estimate(
        self, first: Tensor, second: Tensor, start: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Do as `forward`, and also give back what the flow was refined on.

        Args:
            first: As in `forward`.
            second: As in `forward`.
            start: As in `forward`.

        Returns:
            The flows of `forward`, and the last of them on the network's grid, ``[B, 2, h, w]`` in
            grid pixels. A grid pixel is 8 x 8 image pixels, and the grid covers the images with
            their padding: ``h = max(ceil(H / 8), 16)``, and w alike.

        Raises:
            ValueError: As in `forward`.
        """
        check_pair(first, second)
        H, W = first.shape[-2:]
        left, right, top, bottom = pads = _padding(H, W)
        images = [2 * F.pad(image, pads, mode="replicate") - 1 for image in (first, second)]
        kind = torch.promote_types(first.dtype, torch.float32)  # half types cannot tell pixels
        # One after the other: the first layers are what the memory of large pictures goes into.
        f1, f2 = (self.feature_encoder(image).to(kind) for image in images)
        first_features, *pyramid = (
            f.contiguous(memory_format=torch.channels_last)
            for f in (f1, *correlation_pyramid(f2, LEVELS))
        )
        state = self.context_encoder(images[0]).split([self.sizes.hidden, self.sizes.context], 1)
        hidden, context = state[0].tanh(), state[1].relu()
        grid = _coordinates(f1)
        coords = grid if start is None else grid + _checked(start, grid).to(grid)
        flows = []
        for iteration in range(self.iterations):
            coords = coords.detach()  # each step learns by itself (the paper's section 3.3)
            windows = correlation_lookup(first_features, pyramid, coords, self.sizes.radius)
            hidden, step = self.update_block(
                hidden, context, windows.to(hidden.dtype), (coords - grid).to(hidden.dtype)
            )
            coords = coords + step.to(kind)
            if self.training or iteration == self.iterations - 1:
                full = self._enlarge(coords - grid, hidden)
                flows.append(full[..., top : top + H, left : left + W])
        return flows[::-1], coords - grid

    def to_grid(self, flow: Tensor) -> Tensor:
        """Bring a flow to the grid that the network begins on.

        Args:
            flow: Flow ``[B, 2, H, W]`` in pixels, H and W at least 16; where it is not finite it
                is unknown and not counted.

        Returns:
            Means over the pixels of the grid, ``[B, 2, h, w]``, in grid pixels, 0 where nothing is
            known: what `forward` takes as `start` for images of the same size.

        Example:
            >>> flow = torch.full((1, 2, 128, 160), 24.0)
            >>> start = RAFTSmall(iterations=1).to_grid(flow)
            >>> start.shape, start.mean().item()
            (torch.Size([1, 2, 16, 20]), 3.0)
        """
        known = flow.isfinite().all(dim=1, keepdim=True)
        pads = _padding(*flow.shape[-2:])
        total, count = (
            F.avg_pool2d(F.pad(x.to(flow), pads, mode="replicate"), STRIDE)
            for x in (flow.where(known, 0), known)
        )
        return total / count.clamp(min=STRIDE**-2) / STRIDE

    def _enlarge(self, flow: Tensor, hidden: Tensor) -> Tensor:
        """Bring a flow from the grid to the pixels of the padded images."""
        if not self.sizes.blends:
            up = F.interpolate(flow, scale_factor=STRIDE, mode="bilinear", align_corners=True)
            return STRIDE * up
        scores = self.mask_predictor["conv"](self.mask_predictor["convrelu"](hidden))
        # A quarter, as in the published training, where it kept this branch's gradients small.
        return blend_up(flow, 0.25 * scores.to(flow), STRIDE, border="constant")


def _padding(height: int, width: int) -> tuple[int, int, int, int]:
    """Left, right, top and bottom, as RAFT's: to whole grid pixels, the picture in the middle."""
    more = [max(LEAST, -(-side // STRIDE) * STRIDE) - side for side in (width, height)]
    return more[0] // 2, more[0] - more[0] // 2, more[1] // 2, more[1] - more[1] // 2


def _coordinates(features: Tensor) -> Tensor:
    """Return (x, y) of every pixel, ``[B, 2, h, w]``."""
    B, _, h, w = features.shape
    y = torch.arange(h, dtype=features.dtype, device=features.device)
    x = torch.arange(w, dtype=features.dtype, device=features.device)
    return torch.stack([x.expand(h, w), y[:, None].expand(h, w)]).expand(B, -1, -1, -1)


def _checked(start: Tensor, grid: Tensor) -> Tensor:
    if start.shape != grid.shape:
        raise ValueError(
            f"start must be a flow on the network's grid, {list(grid.shape)}, "
            f"got {list(start.shape)}"
        )
    return start


class RAFT(_Raft):
    """RAFT: a flow at 1/8 of the resolution, refined over and over by what it points at.

    5.3 M parameters, named as those of torchvision's ``raft_large``. The windows of the correlation
    are computed when they are looked at, never the volume of all pairs: memory grows with the
    number of pixels, not with its square.

    Args:
        iterations: How often the flow is refined, 12 as in torchvision; RAFT is evaluated with 32
            on Sintel and 24 on KITTI. The attribute of this name may be changed at any time.

    Reference:
        Teed & Deng, ECCV 2020; ``raft_large`` of torchvision.

    Example:
        >>> model = RAFT(iterations=2).eval()
        >>> [flow.shape for flow in model(torch.rand(1, 3, 50, 130), torch.rand(1, 3, 50, 130))]
        [torch.Size([1, 2, 50, 130])]
    """

    def __init__(self, *, iterations: int = 12) -> None:
        super().__init__(_LARGE, iterations)


class RAFTSmall(_Raft):
    """RAFT's small version, 1.0 M parameters, named as those of torchvision's ``raft_small``.

    Args:
        iterations: As in `RAFT`.

    Reference:
        Teed & Deng, ECCV 2020, figure 7; ``raft_small`` of torchvision.

    Example:
        >>> model = RAFTSmall(iterations=2)  # in training mode, as networks are when made
        >>> [flow.shape for flow in model(torch.rand(1, 3, 32, 48), torch.rand(1, 3, 32, 48))]
        [torch.Size([1, 2, 32, 48]), torch.Size([1, 2, 32, 48])]
    """

    def __init__(self, *, iterations: int = 12) -> None:
        super().__init__(_SMALL, iterations)
