"""What a picture is turned into before two of them are compared."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NEIGHBOURHOOD = 31  # pixels, over which the strength of edges is made equal
_FAINT = 0.05  # mean strength of edges (of normalised colours) below which a place counts as empty

FRONTS = ("colour", "structure")


def structure(image: Tensor) -> Tensor:
    """Return the direction of the edges of a picture, whichever side of them is the brighter one.

    The structure tensor summed over the colours: a negative has the same one, and so has a picture
    with its colours exchanged. It is divided by its own strength once, so that it grows like an
    edge and not like its square, and by the mean strength around, so that faint parts count too.

    Args:
        image: ``[B, C, H, W]``.

    Returns:
        ``[B, 3, H, W]`` float32: strength times the cosine and the sine of twice the direction, and
        the strength.

    Example:
        >>> ramp = torch.arange(5.0).expand(1, 3, 5, 5)
        >>> (structure(ramp) - structure(-ramp)).abs().max()
        tensor(0.)

    Reference:
        Bigun & Granlund, Optimal orientation detection of linear symmetry, ICCV 1987.
    """
    around = F.pad(image.float(), (1, 1, 1, 1), mode="replicate")
    right = (around[..., 1:-1, 2:] - around[..., 1:-1, :-2]) / 2
    down = (around[..., 2:, 1:-1] - around[..., :-2, 1:-1]) / 2
    xx, yy, xy = (right * right).sum(1), (down * down).sum(1), (right * down).sum(1)
    strength = (xx + yy + 1e-8).sqrt()
    tensor = torch.stack([(xx - yy) / strength, 2 * xy / strength, strength], 1)
    return tensor / (_mean_around(strength[:, None]) + _FAINT)


def _mean_around(values: Tensor) -> Tensor:
    """Return the mean over a square neighbourhood, one axis after the other: 16 times less work."""
    reach = _NEIGHBOURHOOD // 2
    for kernel, padding in (((_NEIGHBOURHOOD, 1), (reach, 0)), ((1, _NEIGHBOURHOOD), (0, reach))):
        values = F.avg_pool2d(values, kernel, 1, padding, count_include_pad=False)
    return values


class SmallBackbone(nn.Module):
    """Features of stride 8 from eight convolutions.

    Args:
        width: Channels of the first; the features have four times as many.
        front: What the first one sees: ``"colour"``, the picture, or its `structure`.

    Raises:
        ValueError: There is no such front.
    """

    stride = 8

    def __init__(self, width: int = 24, front: str = "colour") -> None:
        super().__init__()
        if front not in FRONTS:
            raise ValueError(f"front must be one of {', '.join(FRONTS)}, got {front!r}")
        self.width, self.front = width, front
        layers: list[nn.Module] = []
        before = 3
        for channels, stride in (
            (width, 2), (width, 1), (2 * width, 2), (2 * width, 1),
            (4 * width, 2), (4 * width, 1), (4 * width, 1),
        ):  # fmt: skip
            layers += [
                nn.Conv2d(before, channels, 3, stride, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
            before = channels
        # Without a ReLU at the end: the sign of a feature tells as much as its size.
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, 4 * width, 1))

    def forward(self, image: Tensor) -> Tensor:
        """``[B, 3, H, W]`` in any range to ``[B, 4 * width, H / 8, W / 8]``."""
        seen = structure(image) if self.front == "structure" else image
        features: Tensor = self.layers(seen)
        return features
