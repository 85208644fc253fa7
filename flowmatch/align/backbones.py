"""Feature extractors for alignment."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WINDOW = 31  # side in pixels of the window that equalises the strength of edges
_MIN_STRENGTH = 0.05  # added to the mean edge strength, so that flat areas stay near 0

FRONTS = ("colour", "structure")


def structure(image: Tensor) -> Tensor:
    """Return the orientation and strength of edges, independent of their contrast's sign.

    The structure tensor summed over the colours: it is the same for a negative and for exchanged
    colour channels. It is divided by its strength once, so that it is linear in the contrast, and
    by the mean strength in a window, so that low-contrast areas count as well.

    Args:
        image: ``[B, C, H, W]``.

    Returns:
        ``[B, 3, H, W]`` float32: strength times the cosine and the sine of twice the orientation,
        and the strength.

    Example:
        >>> ramp = torch.arange(5.0).expand(1, 3, 5, 5)
        >>> (structure(ramp) - structure(-ramp)).abs().max()
        tensor(0.)

    Reference:
        Bigun & Granlund, Optimal orientation detection of linear symmetry, ICCV 1987.
    """
    padded = F.pad(image.float(), (1, 1, 1, 1), mode="replicate")
    right = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    xx, yy, xy = (right * right).sum(1), (down * down).sum(1), (right * down).sum(1)
    strength = (xx + yy + 1e-8).sqrt()
    tensor = torch.stack([(xx - yy) / strength, 2 * xy / strength, strength], 1)
    return tensor / (_window_mean(strength[:, None]) + _MIN_STRENGTH)


def _window_mean(values: Tensor) -> Tensor:
    """Return the mean over a square window, separably: 16 times less work."""
    half = _WINDOW // 2
    for kernel, padding in (((_WINDOW, 1), (half, 0)), ((1, _WINDOW), (0, half))):
        values = F.avg_pool2d(values, kernel, 1, padding, count_include_pad=False)
    return values


class SmallBackbone(nn.Module):
    """Eight convolutions with a total stride of 8.

    Args:
        width: Channels of the first layer; the features have four times as many.
        front: Input of the first layer: ``"colour"``, the image itself, or ``"structure"``, its
            `structure`.

    Raises:
        ValueError: Unknown front.
    """

    stride = 8

    def __init__(self, width: int = 24, front: str = "colour") -> None:
        super().__init__()
        if front not in FRONTS:
            raise ValueError(f"front must be one of {', '.join(FRONTS)}, got {front!r}")
        self.width, self.front = width, front
        layers: list[nn.Module] = []
        inputs = 3
        for channels, stride in (
            (width, 2), (width, 1), (2 * width, 2), (2 * width, 1),
            (4 * width, 2), (4 * width, 1), (4 * width, 1),
        ):  # fmt: skip
            layers += [
                nn.Conv2d(inputs, channels, 3, stride, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
            inputs = channels
        # No ReLU at the end: the sign of a feature is as informative as its magnitude.
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, 4 * width, 1))

    def forward(self, image: Tensor) -> Tensor:
        """``[B, 3, H, W]`` in any range to ``[B, 4 * width, H / 8, W / 8]``."""
        inputs = structure(image).to(image.dtype) if self.front == "structure" else image
        features: Tensor = self.layers(inputs)
        return features
