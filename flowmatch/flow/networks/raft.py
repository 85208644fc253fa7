"""RAFT and its small version, with torchvision's names and a correlation computed on demand.

Reference:
    Teed & Deng, RAFT: Recurrent All-Pairs Field Transforms for Optical Flow, ECCV 2020, sections
    3.1 to 3.3 and figure 7; layers and names are those of torchvision's ``raft_large`` and
    ``raft_small``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.flow.networks.padding import check_pair, round_up
from flowmatch.flow.networks.pyramid import convex_upsample
from flowmatch.flow.networks.raft_layers import (
    LARGE,
    LEVELS,
    SMALL,
    STRIDE,
    Encoder,
    Sizes,
    UpdateBlock,
    conv,
)
from flowmatch.ops import correlation_lookup, correlation_pyramid

SMALLEST_INPUT = 128
"""Smallest side of the padded images, in pixels."""
MAX_ITERATIONS = 1000
"""Largest number of iterations, which an untrusted file may ask for."""


class _Raft(nn.Module):
    """Base of both versions, which differ in their sizes only."""

    def __init__(self, sizes: Sizes, iterations: int) -> None:
        super().__init__()
        if not 1 <= iterations <= MAX_ITERATIONS:
            raise ValueError(f"iterations must be 1 to {MAX_ITERATIONS}, got {iterations}")
        self.iterations = iterations
        self.sizes = sizes
        self.feature_encoder = Encoder(
            sizes.encoder, sizes.features, nn.InstanceNorm2d, sizes.bottleneck
        )
        self.context_encoder = Encoder(
            sizes.encoder, sizes.hidden + sizes.context, sizes.context_norm, sizes.bottleneck
        )
        self.update_block = UpdateBlock(sizes)
        if sizes.blends:
            self.mask_predictor = nn.ModuleDict({
                "convrelu": conv(sizes.hidden, 256, 3),
                "conv": nn.Conv2d(256, 9 * STRIDE**2, 1),
            })  # fmt: skip

    def forward(
        self, first: Tensor, second: Tensor, initial_flow: Tensor | None = None
    ) -> list[Tensor]:
        """Estimate the flow from `first` to `second`.

        Args:
            first: RGB images in [0, 1], ``[B, 3, H, W]``, H and W at least 16.
            second: The later images, same shape.
            initial_flow: Initial flow on the network's grid, from `estimate` or `to_grid`; None is
                zero.

        Returns:
            Flows ``[B, 2, H, W]`` in pixels: in training those of all iterations, the last one
            first, otherwise that of the last one only.

        Raises:
            ValueError: The images do not fit each other are too small, or do not fit
                `initial_flow`.
        """
        return self.estimate(first, second, initial_flow)[0]

    def estimate(
        self, first: Tensor, second: Tensor, initial_flow: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Estimate the flow, and also return it on the network's grid.

        Args:
            first: RGB images in [0, 1], ``[B, 3, H, W]``.
            second: The later images, same shape.
            initial_flow: Initial flow on the network's grid; None is zero.

        Returns:
            The flows of `forward`, and the last of them on the grid, ``[B, 2, h, w]`` in grid
            pixels. A grid pixel is 8 x 8 image pixels, and the grid covers the images with their
            padding: ``h = max(ceil(H / 8), 16)``, and w alike.

        Raises:
            ValueError: For the same reasons as in `forward`.
        """
        check_pair(first, second)
        H, W = first.shape[-2:]
        left, right, top, bottom = pads = _padding(H, W)
        images = [2 * F.pad(image, pads, mode="replicate") - 1 for image in (first, second)]
        wide = torch.promote_types(first.dtype, torch.float32)  # half types cannot resolve pixels
        # One after the other, because the first layers take most of the memory.
        f1, f2 = (self.feature_encoder(image).to(wide) for image in images)
        first_features, *pyramid = (
            f.contiguous(memory_format=torch.channels_last)
            for f in (f1, *correlation_pyramid(f2, LEVELS))
        )
        state = self.context_encoder(images[0]).split([self.sizes.hidden, self.sizes.context], 1)
        hidden, context = state[0].tanh(), state[1].relu()
        grid = _coordinates(f1)
        coords = grid if initial_flow is None else grid + _checked(initial_flow, grid).to(grid)
        flows = []
        for iteration in range(self.iterations):
            coords = coords.detach()  # no gradient between iterations (the paper's section 3.3)
            corr = correlation_lookup(first_features, pyramid, coords, self.sizes.radius)
            hidden, delta_flow = self.update_block(
                hidden, context, corr.to(hidden.dtype), (coords - grid).to(hidden.dtype)
            )
            coords = coords + delta_flow.to(wide)
            if self.training or iteration == self.iterations - 1:
                full = self._upsample(coords - grid, hidden)
                flows.append(full[..., top : top + H, left : left + W])
        return flows[::-1], coords - grid

    @staticmethod
    def to_grid(flow: Tensor) -> Tensor:
        """Convert a flow to an initial flow on the network's grid.

        Args:
            flow: Flow ``[B, 2, H, W]`` in pixels, H and W at least 16, unknown where it is not
                finite.

        Returns:
            Mean of the known flow in each pixel of the grid, ``[B, 2, h, w]``, in grid pixels, 0
            without known flow; `forward` takes it for images of the same size.

        Example:
            >>> flow = torch.full((1, 2, 128, 160), 24.0)
            >>> initial_flow = RAFTSmall.to_grid(flow)
            >>> initial_flow.shape, initial_flow.mean().item()
            (torch.Size([1, 2, 16, 20]), 3.0)
        """
        known = flow.isfinite().all(dim=1, keepdim=True)
        pads = _padding(*flow.shape[-2:])
        total, count = (
            F.avg_pool2d(F.pad(x.to(flow), pads, mode="replicate"), STRIDE)
            for x in (flow.where(known, 0), known)
        )
        return total / count.clamp(min=STRIDE**-2) / STRIDE

    def _upsample(self, flow: Tensor, hidden: Tensor) -> Tensor:
        """Upsample a flow from the grid to the pixels of the padded images."""
        if not self.sizes.blends:
            up = F.interpolate(flow, scale_factor=STRIDE, mode="bilinear", align_corners=True)
            return STRIDE * up
        scores = self.mask_predictor["conv"](self.mask_predictor["convrelu"](hidden))
        # A quarter, as in the published training, keeps the gradients of this branch small.
        return convex_upsample(flow, 0.25 * scores.to(flow), STRIDE, border="constant")


def _padding(height: int, width: int) -> tuple[int, int, int, int]:
    """Return RAFT's padding left, right, top and bottom: to whole grid pixels, image centred."""
    x, y = (max(SMALLEST_INPUT, round_up(side, STRIDE)) - side for side in (width, height))
    return x // 2, x - x // 2, y // 2, y - y // 2


def _coordinates(features: Tensor) -> Tensor:
    """Return (x, y) of every pixel, ``[B, 2, h, w]``."""
    B, _, h, w = features.shape
    y = torch.arange(h, dtype=features.dtype, device=features.device)
    x = torch.arange(w, dtype=features.dtype, device=features.device)
    return torch.stack([x.expand(h, w), y[:, None].expand(h, w)]).expand(B, -1, -1, -1)


def _checked(initial_flow: Tensor, grid: Tensor) -> Tensor:
    if initial_flow.shape != grid.shape:
        raise ValueError(
            f"initial_flow must be on the network's grid, {list(grid.shape)}, "
            f"got {list(initial_flow.shape)}"
        )
    return initial_flow


class RAFT(_Raft):
    """RAFT: a flow at 1/8 of the resolution, refined iteratively by the correlation around it.

    5.3 M parameters, named as those of torchvision's ``raft_large``. The correlation is computed on
    demand, around the current flow, never for all pairs of pixels: memory grows with the number of
    pixels, not with its square.

    Args:
        iterations: Number of refinements, 12 as in torchvision; RAFT is evaluated with 32 on Sintel
            and 24 on KITTI. The attribute of this name may be changed at any time.

    Reference:
        Teed & Deng, ECCV 2020; ``raft_large`` of torchvision.

    Example:
        >>> model = RAFT(iterations=2).eval()
        >>> [flow.shape for flow in model(torch.rand(1, 3, 50, 130), torch.rand(1, 3, 50, 130))]
        [torch.Size([1, 2, 50, 130])]
    """

    def __init__(self, *, iterations: int = 12) -> None:
        super().__init__(LARGE, iterations)


class RAFTSmall(_Raft):
    """RAFT's small version, 1.0 M parameters, named as those of torchvision's ``raft_small``.

    Args:
        iterations: Number of refinements.

    Reference:
        Teed & Deng, ECCV 2020, figure 7; ``raft_small`` of torchvision.

    Example:
        >>> model = RAFTSmall(iterations=2)  # in training mode, with all flows
        >>> [flow.shape for flow in model(torch.rand(1, 3, 32, 48), torch.rand(1, 3, 32, 48))]
        [torch.Size([1, 2, 32, 48]), torch.Size([1, 2, 32, 48])]
    """

    def __init__(self, *, iterations: int = 12) -> None:
        super().__init__(SMALL, iterations)
