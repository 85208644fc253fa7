"""FlowConfidence: the distribution of a flow's error at each pixel, whatever gave the flow."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.flow.networks.padding import pad_to_multiple
from flowmatch.ops import correlation, warp

THRESHOLDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Endpoint errors in pixels; the network predicts the probability of a smaller error for each."""
SLOPE = 0.1
"""Slope of the LeakyReLU after every convolution."""
STRIDE = 16
"""Sides are padded to multiples of the coarsest level's stride."""
RADIUS = 2
"""Largest displacement at which features are compared, in pixels of a quarter of the resolution."""
EVIDENCE = 16
"""Channels of `evidence`."""


class FlowConfidence(nn.Module):
    """Network that judges a flow: 0.2 M parameters, a sixth of the work of `RecurrentPyramid`.

    It sees both frames, the flow and the flow back, and none of the network or method that they
    come from. `evidence` compares the frames at full resolution; at a quarter of the resolution,
    features of the second frame are warped by the flow and compared with the first's in a small
    window. A U-Net combines them. For each of `THRESHOLDS`, it gives the probability that the
    endpoint error is smaller (`within`); from these follows the expected error (`expected_error`).

    Reference:
        Ordinal outputs as in Frank & Hall, A Simple Approach to Ordinal Classification, ECML 2001;
        confidence learnt from frames and flow as in Mac Aodha et al., Learning a Confidence Measure
        for Optical Flow, TPAMI 2013; the comparison around the flow as in Truong et al., PDC-Net,
        CVPR 2021; calibration after Platt, 1999.

    Example:
        >>> frames, still = torch.rand(2, 1, 3, 48, 64), torch.zeros(1, 2, 48, 64)
        >>> FlowConfidence()(*frames, still, still).shape
        torch.Size([1, 8, 48, 64])
    """

    calibration: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.describe = nn.Sequential(_conv(3, 16, 2), _conv(16, 24, 2), _conv(24, 24))
        self.at_half = _conv(4 * EVIDENCE, 32)
        self.down_quarter = _conv(32, 32, 2)
        compared = (2 * RADIUS + 1) ** 2 + 24
        self.at_quarter = _conv(32 + compared, 48)
        self.down_eighth = nn.Sequential(_conv(48, 44, 2), _conv(44, 44))
        self.down_sixteenth = _conv(44, 44, 2)
        self.up_eighth = _conv(44 + 44, 32)
        self.up_quarter = _conv(32 + 48, 32)
        self.up_half = _conv(32 + 32, 24)
        self.out = nn.Conv2d(24, len(THRESHOLDS), 3, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, SLOPE)
                nn.init.zeros_(module.get_parameter("bias"))
        nn.init.zeros_(self.out.weight)
        # Factor and shift of each threshold's logit, fitted after training (`calibrate`).
        self.register_buffer("calibration", torch.tensor([[1.0, 0.0]] * len(THRESHOLDS)))

    def forward(self, first: Tensor, second: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
        """Judge the flow from `first` to `second`.

        Args:
            first: RGB images in [0, 1], ``[B, 3, H, W]``.
            second: The later images, same shape.
            forward: Flow from the first to the second, ``[B, 2, H, W]``, pixels.
            backward: Flow from the second to the first, same shape.

        Returns:
            Logits of the probability that the endpoint error is below each of `THRESHOLDS`,
            ``[B, 8, H, W]``, rising along the thresholds.

        Raises:
            ValueError: The shapes do not fit each other.
        """
        expected = (len(first), 2, *first.shape[-2:])
        if first.shape != second.shape or not (forward.shape == backward.shape == expected):
            raise ValueError(
                "expected frames [B, 3, H, W] of one shape and flows [B, 2, H, W] of their size, "
                f"got frames {tuple(first.shape)} and {tuple(second.shape)}, flows "
                f"{tuple(forward.shape)} and {tuple(backward.shape)}"
            )
        H, W = first.shape[-2:]
        first, second, forward, backward = (
            pad_to_multiple(part, STRIDE) for part in (first, second, forward, backward)
        )
        half = self.at_half(F.pixel_unshuffle(evidence(first, second, forward, backward), 2))
        compared = self._compare(first, second, forward)
        quarter = self.at_quarter(torch.cat([self.down_quarter(half), *compared], dim=1))
        eighth = self.down_eighth(quarter)
        x = self.up_eighth(torch.cat([_twice(self.down_sixteenth(eighth)), eighth], dim=1))
        x = self.up_quarter(torch.cat([_twice(x), quarter], dim=1))
        x = self.out(self.up_half(torch.cat([_twice(x), half], dim=1))).float()
        return self._calibrate(_twice(_rising(x))[..., :H, :W])

    def _compare(self, first: Tensor, second: Tensor, forward: Tensor) -> list[Tensor]:
        """Return the similarities around the flow, and the features of the first frame."""
        one, two = self.describe(torch.cat([first, second]) - 0.5).chunk(2)
        warped = warp(two.float(), F.avg_pool2d(forward, 4) / 4)
        return [correlation(_unit(one.float()), _unit(warped), radius=RADIUS, stride=1), one]

    def _calibrate(self, logits: Tensor) -> Tensor:
        factor, shift = self.calibration.T[..., None, None]
        # The maximum over the thresholds so far keeps probabilities in order.
        ordered: Tensor = (logits * factor + shift).cummax(dim=1).values
        return ordered


def within(logits: Tensor, pixels: float = 1.0) -> Tensor:
    """Return the probability that the error is below one of `THRESHOLDS`, ``[B, H, W]``.

    Args:
        logits: Output of `FlowConfidence`.
        pixels: The threshold.
    """
    return logits[:, THRESHOLDS.index(pixels)].sigmoid()


def expected_error(logits: Tensor) -> Tensor:
    """Return the expected endpoint error, ``[B, H, W]``, in pixels.

    The probability of a larger error is linear between the thresholds; errors above the last one
    count as its double.

    Args:
        logits: Output of `FlowConfidence`.
    """
    larger = F.pad(torch.sigmoid(-logits), (0, 0, 0, 0, 1, 0), value=1.0)
    steps = torch.tensor([0.0, *THRESHOLDS], device=logits.device).diff()[:, None, None]
    between = ((larger[:, 1:] + larger[:, :-1]) / 2 * steps).sum(dim=1)
    return between + larger[:, -1] * THRESHOLDS[-1]


def evidence(first: Tensor, second: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """Compare two frames along a flow, pixel by pixel, ``[B, 16, H, W]``.

    The channels: gray value of the first frame (1) and its gradient (2); differences of colour (3)
    and of the gradient (2) after warping; whether the flow leaves the frame (1); by how much the
    flow back misses the pixel, absolute and relative to the motion (2); derivatives of the flow
    (4); its length (1).
    """
    warped = warp(second, forward, padding_mode="border")
    gray, gray_warped = (image.mean(dim=1, keepdim=True) for image in (first, warped))
    gradient, gradient_warped = (_gradient(image) for image in (gray, gray_warped))
    back = warp(backward, forward, padding_mode="border")
    gap = (forward + back).norm(dim=1, keepdim=True)
    length = forward.norm(dim=1, keepdim=True)
    H, W = forward.shape[-2:]
    x = torch.arange(W, device=forward.device) + forward[:, :1]
    y = torch.arange(H, device=forward.device)[:, None] + forward[:, 1:]
    outside = (x < 0) | (x > W - 1) | (y < 0) | (y > H - 1)
    return torch.cat(
        [
            gray - 0.5,
            4 * gradient,
            4 * (warped - first),
            8 * (gradient_warped - gradient),
            outside.to(first),
            (4 * gap).log1p() / 2,
            gap / (1 + length + back.norm(dim=1, keepdim=True)),
            (2 * _gradient(forward)).tanh(),
            length.log1p() / 4,
        ],
        dim=1,
    )


def _gradient(image: Tensor) -> Tensor:
    """Return the differences of neighbouring pixels along x and y, ``[B, 2 C, H, W]``."""
    right = F.pad(image.diff(dim=-1), (0, 1))
    down = F.pad(image.diff(dim=-2), (0, 0, 0, 1))
    return torch.cat([right, down], dim=1)


def _rising(x: Tensor) -> Tensor:
    """Return logits that rise along the thresholds: the first channel, and steps on top."""
    return torch.cat([x[:, :1], F.softplus(x[:, 1:])], dim=1).cumsum(dim=1)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.LeakyReLU(SLOPE, inplace=True)
    )


def _unit(features: Tensor) -> Tensor:
    """Return features of length sqrt(C), whose mean product over C is the cosine."""
    unit: Tensor = F.normalize(features, dim=1) * features.shape[1] ** 0.5
    return unit


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
