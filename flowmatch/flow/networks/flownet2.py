"""FlowNet 2.0: stacks of FlowNets that correct each other, and a network for small motion.

Layers and their names are those of NVIDIA's flownet2-pytorch.

Reference:
    Ilg et al., FlowNet 2.0, CVPR 2017, figure 2 and sections 4 and 5.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.flow.networks.flownet import (
    UNIT,
    Decoder,
    FlowNet,
    FlowNetC,
    FlowNetS,
    conv,
    run_padded,
    scale_channels,
)
from flowmatch.ops import warp


class FlowNet2SD(FlowNet):
    """FlowNet "small displacements": a finer first layer, and smoother flows.

    Args:
        width: Multiplier of every layer's channels: 1 for the paper's network (45.37 M parameters).

    Example:
        >>> flows = FlowNet2SD(width=1 / 16)(torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96))
        >>> flows[0].shape
        torch.Size([1, 2, 16, 24])
    """

    # It was trained on flows * 20, the other networks on flows / 20. NVIDIA's FlowNet2 accounts for
    # that; its FlowNet2SD alone does not, and its flows are 400 times too long.
    unit = 1 / UNIT

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__(width, smooth=True)
        c1, c2, c3 = self.channels
        self.conv0 = conv(6, c1)
        self.conv1, self.conv1_1 = conv(c1, c1, 3, 2), conv(c1, c2)
        self.conv2, self.conv2_1 = conv(c2, c2, 3, 2), conv(c2, c2)
        self.conv3, self.conv3_1 = conv(c2, c3, 3, 2), conv(c3, c3)
        self._initialise()

    def _encode(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        half = self.conv1_1(self.conv1(self.conv0(torch.cat(inputs, dim=1))))
        skip2 = self.conv2_1(self.conv2(half))
        return skip2, self.conv3_1(self.conv3(skip2))


class _Correction(FlowNetS):
    """A later network of a stack; it takes both images, the warped second, a flow and its error."""

    inputs = 12


class FlowNet2CS(nn.Module):
    """A FlowNetC, and a FlowNetS that corrects its flow.

    Args:
        width: Multiplier of every layer's channels, except the 441 of the correlation: 1 for the
            paper's network (77.87 M parameters), 3/8 for the thin FlowNet2-cs (11.2 M).

    Example:
        >>> flows = FlowNet2CS(width=1 / 16)(torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96))
        >>> flows[0].shape
        torch.Size([1, 2, 16, 24])
    """

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        self.flownetc = FlowNetC(width=width)
        self.flownets_1 = _Correction(width=width)

    @property
    def corrections(self) -> tuple[FlowNetS, ...]:
        """The networks after the first, in order."""
        return (self.flownets_1,)

    def estimate(self, first: Tensor, second: Tensor) -> dict[int, Tensor]:
        """Return level -> flow, in pixels of that level, for padded images without their mean."""
        flows = self.flownetc.estimate(first, second)
        for correction in self.corrections:
            flow = 4 * F.interpolate(flows[2], scale_factor=4, mode="bilinear")
            warped = warp(second, flow, "border")
            flows = correction.estimate(first, second, warped, flow / UNIT, _norm(first - warped))
        return flows

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Estimate the flow from `first` to `second`.

        Args:
            first: RGB images in [0, 1], ``[B, 3, H, W]``, H and W at least 16.
            second: The later images, same shape.

        Returns:
            The flows of the last network ``[B, 2, ceil(H / s), ceil(W / s)]``, each in pixels of
            its own resolution: five for s = 4, 8, 16, 32, 64, and from FlowNet2 three for s = 1,
            2, 4.

        Raises:
            ValueError: The images do not fit each other or are too small.
        """
        return run_padded(self.estimate, first, second)


class FlowNet2CSS(FlowNet2CS):
    """A FlowNetC, and two FlowNetS in turn that correct its flow.

    Args:
        width: Multiplier of every layer's channels, except the 441 of the correlation: 1 for the
            paper's network (116.57 M parameters), 3/8 for the thin FlowNet2-css (16.7 M).

    Example:
        >>> flows = FlowNet2CSS(width=1 / 16)(torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96))
        >>> flows[0].shape
        torch.Size([1, 2, 16, 24])
    """

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__(width=width)
        self.flownets_2 = _Correction(width=width)

    @property
    def corrections(self) -> tuple[FlowNetS, ...]:
        """The networks after the first, in order."""
        return (self.flownets_1, self.flownets_2)


class _Fusion(Decoder):
    """Combine two flows at full resolution."""

    unit = 1.0
    levels = (2, 1, 0)

    def __init__(self, width: float) -> None:
        super().__init__()
        c0, c1, d1, d0 = scale_channels(width, 64, 128, 32, 16)
        self.conv0 = conv(11, c0)
        self.conv1, self.conv1_1 = conv(c0, c0, 3, 2), conv(c0, c1)
        self.conv2, self.conv2_1 = conv(c1, c1, 3, 2), conv(c1, c1)
        self._add_decoder((c1, c1, c0), (d1, d0), smooth=True)
        self._initialise()

    def estimate(self, *inputs: Tensor) -> dict[int, Tensor]:
        skip0 = self.conv0(torch.cat(inputs, dim=1))
        skip1 = self.conv1_1(self.conv1(skip0))
        return self._expand([self.conv2_1(self.conv2(skip1)), skip1, skip0])


class FlowNet2(FlowNet2CSS):
    """The whole FlowNet 2.0: FlowNet2CSS, FlowNet2SD, and a small network that fuses their flows.

    Args:
        width: Multiplier of every layer's channels, except the 441 of the correlation: 1 for the
            paper's network (162.52 M parameters).

    Example:
        >>> flows = FlowNet2(width=1 / 16)(torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96))
        >>> flows[0].shape
        torch.Size([1, 2, 64, 96])
    """

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__(width=width)
        self.flownets_d = FlowNet2SD(width=width)
        self.flownetfusion = _Fusion(width)

    def estimate(self, first: Tensor, second: Tensor) -> dict[int, Tensor]:
        """Return level -> flow, in pixels of that level, for padded images without their mean."""
        candidates = (
            self.flownets_d.estimate(first, second)[2],
            super().estimate(first, second)[2],
        )
        flows = [4 * F.interpolate(flow, scale_factor=4, mode="nearest") for flow in candidates]
        errors = [_norm(first - warp(second, flow, "border")) for flow in flows]
        return self.flownetfusion.estimate(first, *flows, *map(_norm, flows), *errors)


def _norm(image: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(image, dim=1, keepdim=True)
    return norm
