"""Pooling of feature maps to vectors; location is discarded."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowmatch.units import unit_vectors

_MIN_FEATURE = 1e-6  # features are clamped before they are raised to a power, as by the authors
_OVERLAP = 0.4  # desired overlap of neighbouring squares of R-MAC


def generalised_mean(features: Tensor, p: Tensor | float) -> Tensor:
    """Return the generalised mean of each channel, ``mean(x^p)^(1/p)``.

    Args:
        features: ``[B, C, h, w]``, clamped to at least 1e-6.
        p: Exponent, one number or one per channel: 1 gives the mean; large numbers approach the
            maximum.

    Returns:
        ``[B, C]``.

    Raises:
        ValueError: `features` is not a feature map.

    Example:
        >>> generalised_mean(torch.tensor([[[[1.0, 3.0]]]]), 1.0).tolist()
        [[2.0]]

    Reference:
        Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation, PAMI 2019,
        equation 3.
    """
    _check_map(features)
    powers = torch.as_tensor(p, dtype=features.dtype, device=features.device)
    clamped = features.clamp(min=_MIN_FEATURE).flatten(2)
    # Relative to the maximum: x^p alone overflows float32 at p = 100.
    largest = clamped.amax(2)
    relative = (clamped / largest[..., None]).pow(powers.reshape(1, -1, 1))
    return largest * relative.mean(2).pow(1 / powers.reshape(1, -1))


class GeM(nn.Module):
    """Generalised-mean pooling with a learned exponent.

    Args:
        p: Initial exponent.
        channels: Number of exponents: 1 shares one among all channels, else one per channel.

    Raises:
        ValueError: `p` is not positive.

    Example:
        >>> GeM()(torch.rand(2, 8, 5, 7)).shape
        torch.Size([2, 8])

    Reference:
        See `generalised_mean`; the authors start with one shared p = 3.
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
    """Max pooling of each channel (Tolias et al., ICLR 2016).

    Example:
        >>> MAC()(torch.tensor([[[[1.0, 3.0]]]])).tolist()
        [[3.0]]
    """

    def forward(self, features: Tensor) -> Tensor:
        """Pool ``[B, C, h, w]`` to ``[B, C]``."""
        _check_map(features)
        return features.amax((2, 3))


class SPoC(nn.Module):
    """Mean pooling of each channel (Babenko and Lempitsky, ICCV 2015, without centre prior).

    Example:
        >>> SPoC()(torch.tensor([[[[1.0, 3.0]]]])).tolist()
        [[2.0]]
    """

    def forward(self, features: Tensor) -> Tensor:
        """Pool ``[B, C, h, w]`` to ``[B, C]``."""
        _check_map(features)
        return features.mean((2, 3))


class Square(NamedTuple):
    """A square of a feature map.

    Attributes:
        top: Row of the upper left cell.
        left: Column of the upper left cell.
        side: Side in cells.
    """

    top: int
    left: int
    side: int


def rmac_squares(height: int, width: int, levels: int = 3) -> list[Square]:
    """Return the squares of R-MAC: at level l, l of them along the short side, more along the long.

    Args:
        height: Height of the feature map, cells.
        width: Width of the feature map, cells.
        levels: Number of sizes; squares of level l have the side ``2 min(h, w) / (l + 1)``.

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
    extra = 0  # squares along the long side, in addition to those along the short one
    if long > short:
        # The number for which the overlap at the first level is closest to the desired one.
        extra = min(
            range(1, 7), key=lambda m: abs((short * short - short * (long - short) / m)
                                           / short**2 - _OVERLAP)
        )  # fmt: skip
    squares: dict[Square, None] = {}
    for level in range(1, levels + 1):
        side = max(1, 2 * short // (level + 1))
        across, down = (level + (extra if size == long else 0) for size in (width, height))
        if height == width:
            across = down = level
        for top, left in itertools.product(
            _starts(height, side, down), _starts(width, side, across)
        ):
            squares[Square(top, left, side)] = None
    return list(squares)


def _starts(size: int, side: int, count: int) -> list[int]:
    """Return the starts of squares that are spread evenly from one end to the other."""
    if count == 1:
        return [(size - side) // 2]
    return [k * (size - side) // (count - 1) for k in range(count)]


class RMAC(nn.Module):
    """Sum of the maxima of squares of several sizes, each normalised to unit length.

    Args:
        levels: Number of sizes of squares, see `rmac_squares`.

    Raises:
        ValueError: `levels` is not positive.

    Example:
        >>> RMAC()(torch.rand(2, 8, 9, 12)).shape
        torch.Size([2, 8])

    Reference:
        See `rmac_squares`; without the whitening of regions.
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
        return torch.stack([unit_vectors(region, dim=1) for region in pooled]).sum(0)


POOLINGS: dict[str, type[nn.Module]] = {"gem": GeM, "mac": MAC, "spoc": SPoC, "rmac": RMAC}


def _check_map(features: Tensor) -> None:
    if features.dim() != 4 or not features.is_floating_point() or 0 in features.shape[1:]:
        raise ValueError(
            "features must be floats [B, C, h, w] and not empty, "
            f"got {features.dtype} {list(features.shape)}"
        )
