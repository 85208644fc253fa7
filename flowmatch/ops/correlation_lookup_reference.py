"""Reference of one level of `correlation_lookup` in plain PyTorch, tap by tap."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flowmatch.ops._types import wide


class _Windows:
    """Windows of all pixels of f1: their first pixel in f2, and the weights for blending."""

    def __init__(self, f2: Tensor, coords: Tensor, scales: Sequence[float], radii: Sequence[int]):
        self.size = f2.shape[1:3]
        self.taps = [2 * radius + 2 for radius in radii]  # pixels of a window along y and x
        at = coords.flip(1).flatten(2) * coords.new_tensor(scales)[:, None]  # (y, x): [B, 2, N]
        # Coordinates that are not finite, or larger than any image, are moved outside.
        usable = (at.abs() < 2**24).all(1, keepdim=True)
        at = torch.where(usable, at, torch.full_like(at, -(2.0**24)))
        whole = at.detach().floor()
        self.rest = at - whole  # [B, 2, N]
        self.corner = whole.long() - torch.tensor(radii, device=at.device)[:, None]

    def tap(self, i: int, j: int) -> tuple[Tensor, Tensor]:
        """Return the index of a tap in the flattened f2, and whether it is inside: [B, N] each."""
        y, x = self.corner[:, 0] + i, self.corner[:, 1] + j
        H, W = self.size
        inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
        return torch.where(inside, y * W + x, 0), inside

    def weights(self) -> list[list[Tensor]]:
        """Return the bilinear weights of the four neighbours: [dy][dx] of [B, N]."""
        fy, fx = self.rest[:, 0], self.rest[:, 1]
        return [[(1 - fy) * (1 - fx), (1 - fy) * fx], [fy * (1 - fx), fy * fx]]


def _pixels(f: Tensor, index: Tensor) -> Tensor:
    """Fetch pixels of [B, H, W, C] by their flat index [B, N]: [B, N, C]."""
    return f.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, f.shape[-1]))


def _dots(f1: Tensor, f2: Tensor, windows: _Windows) -> list[list[Tensor]]:
    """Return the scaled dot products of each pixel with its window: [i][j] of [B, N]."""
    first, second = (f.to(wide(f.dtype)) for f in (f1, f2))
    first = first.flatten(1, 2) / math.sqrt(max(f1.shape[-1], 1))
    rows = []
    for i in range(windows.taps[0]):
        row = []
        for j in range(windows.taps[1]):
            index, inside = windows.tap(i, j)
            product = (first * _pixels(second, index)).sum(-1)
            # Not multiplied by `inside`: 0 times infinity is NaN.
            row.append(torch.where(inside, product, 0))
        rows.append(row)
    return rows


def correlation_lookup_reference(
    f1: Tensor,
    f2: Tensor,
    coords: Tensor,
    scale_y: float,
    scale_x: float,
    radius_y: int,
    radius_x: int,
) -> Tensor:
    """State what one level of `correlation_lookup` computes, in plain PyTorch."""
    B, H, W, _ = f1.shape
    if f2.numel() == 0 or f1.numel() == 0:
        side = (2 * radius_y + 1) * (2 * radius_x + 1)
        return f1.new_zeros(B, side, H, W)
    windows = _Windows(f2, coords, (scale_y, scale_x), (radius_y, radius_x))
    dots, weights = _dots(f1, f2, windows), windows.weights()
    planes = [
        sum(
            (weights[a][b] * dots[i + a][j + b] for a in (0, 1) for b in (0, 1)),
            start=f1.new_zeros(()),
        )
        for i in range(2 * radius_y + 1)
        for j in range(2 * radius_x + 1)
    ]
    return torch.stack(planes, 1).view(B, -1, H, W).to(f1.dtype)


def correlation_lookup_grad_reference(
    g: Tensor,
    f1: Tensor,
    f2: Tensor,
    coords: Tensor,
    scale_y: float,
    scale_x: float,
    radius_y: int,
    radius_x: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """State the gradients with respect to f1, f2 and coords."""
    # Not zeros_like: the sums are updated through views, which need contiguous tensors.
    total = [torch.zeros(f.shape, dtype=wide(f.dtype), device=f.device) for f in (f1, f2)]
    along = coords.new_zeros(coords.shape)
    if f2.numel() == 0 or f1.numel() == 0 or g.numel() == 0:
        return total[0].to(f1.dtype), total[1].to(f2.dtype), along
    windows = _Windows(f2, coords, (scale_y, scale_x), (radius_y, radius_x))
    first, second = (f.to(wide(f.dtype)) for f in (f1, f2))
    grads = g.to(first.dtype).flatten(2)
    side = 2 * radius_x + 1
    fy, fx = windows.rest[:, 0], windows.rest[:, 1]
    weights, dots = windows.weights(), _dots(f1, f2, windows)
    scale = 1 / math.sqrt(f1.shape[-1])
    flat1, flat2 = (t.view(t.shape[0], -1, t.shape[-1]) for t in total)
    for i in range(windows.taps[0]):
        for j in range(windows.taps[1]):
            tap = torch.zeros_like(fx)  # gradient of this dot product
            for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
                if 0 <= i - a <= 2 * radius_y and 0 <= j - b <= 2 * radius_x:
                    entry = grads[:, (i - a) * side + j - b]
                    tap += weights[a][b] * entry
                    along.flatten(2)[:, 0] += (
                        scale_x * entry * dots[i][j] * (1 if b else -1) * (fy if a else 1 - fy)
                    )
                    along.flatten(2)[:, 1] += (
                        scale_y * entry * dots[i][j] * (1 if a else -1) * (fx if b else 1 - fx)
                    )
            index, inside = windows.tap(i, j)
            weighted, valid = (scale * tap)[..., None], inside[..., None]
            flat1 += torch.where(valid, weighted * _pixels(second, index), 0)
            back = torch.where(valid, weighted * first.flatten(1, 2), 0)
            flat2.scatter_add_(1, index[..., None].expand_as(back), back)
    return total[0].to(f1.dtype), total[1].to(f2.dtype), along
