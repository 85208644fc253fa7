"""From a feature map to one vector: what is kept of where things are is nothing."""

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SMALLEST = 1e-6  # of a feature before it is raised to a power, as the authors clamp
_OVERLAP = 0.4  # wanted of R-MAC's neighbouring squares


def generalised_mean(features: Tensor, p: Tensor | float) -> Tensor:
    """Take the generalised mean of each channel, ``mean(x^p)^(1/p)``.

    Args:
        features: ``[B, C, h, w]``; what is below 1e-6 counts as that.
        p: 1 gives the mean; the larger, the closer to the maximum. One number, or one a channel.

    Returns:
        ``[B, C]``.

    Raises:
        ValueError: `features` is no feature map.

    Example:
        >>> generalised_mean(torch.tensor([[[[1.0, 3.0]]]]), 1.0).tolist()
        [[2.0]]

    Reference:
        Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation, PAMI 2019,
        equation 3.
    """
    _check_map(features)
    powers = torch.as_tensor(p, dtype=features.dtype, device=features.device)
    clamped = features.clamp(min=_SMALLEST).flatten(2)
    # Shares of the maximum: x^p alone overflows float32 at p = 100.
    largest = clamped.amax(2)
    shares = (clamped / largest[..., None]).pow(powers.reshape(1, -1, 1))
    return largest * shares.mean(2).pow(1 / powers.reshape(1, -1))


class GeM(nn.Module):
    """Pool by a generalised mean whose power is learnt.

    Args:
        p: The power to begin with.
        channels: 1 for one power shared by all channels, or their number.

    Example:
        >>> GeM()(torch.rand(2, 8, 5, 7)).shape
        torch.Size([2, 8])

    Reference:
        As `generalised_mean`; p = 3, shared, is what the authors begin with.
    """

    def __init__(self, p: float = 3.0, channels: int = 1) -> None:
        super().__init__()
        if not p > 0:
            raise ValueError(f"p must be positive, got {p}")
        self.p = nn.Parameter(torch.full((channels,), float(p)))

    def forward(self, features: Tensor) -> Tensor:
        """Pool ``[B, C, h, w]`` to ``[B, C]``."""
        return generalised_mean(features, self.p)


class MAC(nn.Module):
    """Pool by the maximum of each channel (Tolias et al., ICLR 2016).

    Example:
        >>> MAC()(torch.tensor([[[[1.0, 3.0]]]])).tolist()
        [[3.0]]
    """

    def forward(self, features: Tensor) -> Tensor:
        """Pool ``[B, C, h, w]`` to ``[B, C]``."""
        _check_map(features)
        return features.amax((2, 3))


class SPoC(nn.Module):
    """Pool by the mean of each channel (Babenko and Lempitsky, ICCV 2015, without centre prior).

    Example:
        >>> SPoC()(torch.tensor([[[[1.0, 3.0]]]])).tolist()
        [[2.0]]
    """

    def forward(self, features: Tensor) -> Tensor:
        """Pool ``[B, C, h, w]`` to ``[B, C]``."""
        _check_map(features)
        return features.mean((2, 3))


class Square(NamedTuple):
    """A square of a feature map: its upper left cell, and its side in cells."""

    top: int
    left: int
    side: int


def rmac_squares(height: int, width: int, levels: int = 3) -> list[Square]:
    """Lay R-MAC's squares over a map: at level l, l along the short side, more along the long.

    Args:
        height: Of the map, cells.
        width: The same.
        levels: How many sizes; at level l squares have the side ``2 min(h, w) / (l + 1)``.

    Returns:
        The squares, largest first.

    Raises:
        ValueError: A size is not positive.

    Example:
        >>> rmac_squares(4, 4, levels=1)
        [Square(top=0, left=0, side=4)]
        >>> len(rmac_squares(9, 12))
        20

    Reference:
        Tolias, Sicre, Jegou: Particular Object Retrieval with Integral Max-Pooling of CNN
        Activations, ICLR 2016, section 3.2.
    """
    if min(height, width, levels) < 1:
        raise ValueError(f"sizes must be positive, got {height} x {width}, {levels} levels")
    short, long = min(height, width), max(height, width)
    more = 0  # squares along the long side, beyond those along the short one
    if long > short:
        # That many at the first level overlap by a share closest to the wanted one.
        more = min(
            range(1, 7), key=lambda m: abs((short * short - short * (long - short) / m)
                                           / short**2 - _OVERLAP)
        )  # fmt: skip
    squares: dict[Square, None] = {}
    for level in range(1, levels + 1):
        side = max(1, 2 * short // (level + 1))
        across, down = (level + (more if size == long else 0) for size in (width, height))
        if height == width:
            across = down = level
        for top, left in itertools.product(
            _starts(height, side, down), _starts(width, side, across)
        ):
            squares[Square(top, left, side)] = None
    return list(squares)


def _starts(size: int, side: int, count: int) -> list[int]:
    """Spread squares evenly from one end to the other."""
    if count == 1:
        return [(size - side) // 2]
    return [k * (size - side) // (count - 1) for k in range(count)]


class RMAC(nn.Module):
    """Pool by maxima of squares of several sizes, each of length 1, added up.

    Args:
        levels: Sizes of squares, see `rmac_squares`.

    Example:
        >>> RMAC()(torch.rand(2, 8, 9, 12)).shape
        torch.Size([2, 8])

    Reference:
        As `rmac_squares`; without the whitening of regions.
    """

    def __init__(self, levels: int = 3) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"levels must be positive, got {levels}")
        self.levels = levels

    def forward(self, features: Tensor) -> Tensor:
        """Pool ``[B, C, h, w]`` to ``[B, C]``."""
        _check_map(features)
        squares = rmac_squares(features.shape[2], features.shape[3], self.levels)
        pooled = [
            features[:, :, top : top + side, left : left + side].amax((2, 3))
            for top, left, side in squares
        ]
        return torch.stack([F.normalize(some, dim=1) for some in pooled]).sum(0)


POOLINGS: dict[str, type[nn.Module]] = {"gem": GeM, "mac": MAC, "spoc": SPoC, "rmac": RMAC}


def _check_map(features: Tensor) -> None:
    if features.dim() != 4 or not features.is_floating_point() or 0 in features.shape[1:]:
        raise ValueError(
            "features must be floats [B, C, h, w] and not empty, "
            f"got {features.dtype} {list(features.shape)}"
        )
