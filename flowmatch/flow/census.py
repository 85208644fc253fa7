"""Soft census distance: the difference of pixel neighbourhoods, independent of exposure."""

import torch
import torch.nn.functional as F
from torch import Tensor


def census_distance(first: Tensor, second: Tensor, radius: int = 3) -> Tensor:
    """Compare the neighbourhoods of pixels by the signs of differences, which ignore exposure.

    Each of the ``(2 radius + 1)^2`` differences to the centre, of gray values in 0..255, is
    squashed by ``t = d / sqrt(0.81 + d^2)``; the distance of two neighbourhoods is the sum of
    ``s / (0.1 + s)``, with ``s = (t1 - t2)^2``.

    Args:
        first: RGB images in [0, 1], ``[B, 3, H, W]``.
        second: The other images, same shape.
        radius: Radius of the neighbourhood, in pixels.

    Returns:
        Distances ``[B, H, W]``, 0 for equal neighbourhoods; `radius` pixels at the border are 0.

    Reference:
        Meister et al., UnFlow, AAAI 2018, section 3.3 (a soft version of Zabih & Woodfill's
        census).
    """
    signs = [_signs(image, radius) for image in (first, second)]
    square = (signs[0] - signs[1]).square()
    distance = (square / (0.1 + square)).sum(dim=1)
    inside = torch.zeros_like(distance)
    inside[:, radius:-radius, radius:-radius] = 1
    return distance * inside


def _signs(image: Tensor, radius: int) -> Tensor:
    weights = image.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    gray = 255 * (image * weights).sum(dim=1, keepdim=True)
    side = 2 * radius + 1
    neighbours = F.unfold(gray, side, padding=radius).view(len(gray), side**2, *gray.shape[-2:])
    difference = neighbours - gray
    return difference / (0.81 + difference.square()).sqrt()
