"""The energy of variational refinement and its minimisation, as tensor code for any device.

Reference:
    Brox et al., High Accuracy Optical Flow Estimation Based on a Theory for Warping, ECCV 2004: the
    energy and the two nested iterations. Discretised as in OpenCV's ``VariationalRefinement``.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from flowmatch.ops import warp

# The images are warped anew at each scale, so a few iterations at many scales find more than many
# at few; the last scale is used twice.
SCALES = (*(2 ** (-k / 4) for k in range(8, -1, -1)), 1.0)
ITERATIONS = 3  # of the weights, at each scale
SMALLEST = 16  # smallest side, in pixels

# Parameters of the energy, for gray values from 0 to 255.
SMOOTHNESS = 20.0
BRIGHTNESS = 5.0
GRADIENT = 10.0
SOLVER_ITERATIONS = 5
RELAXATION = 1.6
EPSILON = 0.001  # the penalty of a residual r is sqrt(r^2 + EPSILON^2)
ZETA = 0.1  # keeps the normalisation of residuals finite where the image is flat

# Padding of (left, right, top, bottom), as F.pad takes it.
RIGHT, BELOW = (0, 1), (0, 0, 0, 1)
SHIFT_RIGHT, SHIFT_LEFT = (1, -1), (-1, 1)
SHIFT_DOWN, SHIFT_UP = (0, 0, 1, -1), (0, 0, -1, 1)

Solver = Callable[[Tensor, Tensor, Tensor], Tensor]


def refine_over_scales(first: Tensor, second: Tensor, flow: Tensor, solver: Solver) -> Tensor:
    """Refine flows from a quarter of the resolution to the full resolution.

    Args:
        first: Gray images, 0 to 255, ``[B, 1, H, W]``.
        second: The later images, same shape.
        flow: Flows ``[B, 2, H, W]`` in pixels.
        solver: Function that refines a flow at one resolution, such as `minimise_energy`.

    Returns:
        The refined flows, ``[B, 2, H, W]``.
    """
    H, W = flow.shape[-2:]
    for size in scaled_sizes(H, W):
        initial = resize_flow(flow, size)
        refined = solver(reduce_image(first, size), reduce_image(second, size), initial)
        # Only the change is enlarged, so that the flow keeps its detail.
        flow = flow + resize_flow(refined - initial, (H, W))
    return flow


def scaled_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Return the height and width of each scale, coarse to fine, that is not too small."""
    sizes = [(round(height * scale), round(width * scale)) for scale in SCALES]
    return [size for size in sizes if min(size) >= SMALLEST]


# ---- Resizing ----------------------------------------------------------------------------------


def resize_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a flow to (height, width), by areas or bilinearly; its values scale with its size."""
    h, w = flow.shape[-2:]
    if size == (h, w):
        return flow
    resized = (
        reduce_image(flow, size) if size[1] < w else F.interpolate(flow, size, mode="bilinear")
    )
    return torch.stack([resized[:, 0] * (size[1] / w), resized[:, 1] * (size[0] / h)], dim=1)


def reduce_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Reduce images ``[..., H, W]`` to (height, width): means over the area of each new pixel."""
    return _reduce(_reduce(image, -2, size[0]), -1, size[1])


def _reduce(image: Tensor, dim: int, new: int) -> Tensor:
    old = image.shape[dim]
    if old == new:
        return image
    # In units of 1 / new of an old pixel, all borders of old and new pixels are integers.
    begin = torch.arange(new, device=image.device) * old
    shape = (new, 1) if dim == -2 else (new,)
    result = torch.zeros_like(image.narrow(dim, 0, new))
    for tap in range(-(-old // new) + 1):
        index = begin // new + tap
        overlap = torch.minimum(begin + old, (index + 1) * new) - torch.maximum(begin, index * new)
        weight = (overlap.clamp(min=0) / old).to(image).view(shape)
        result = torch.addcmul(result, image.index_select(dim, index.clamp(max=old - 1)), weight)
    return result


# ---- The energy at one resolution --------------------------------------------------------------


def minimise_energy(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """Minimise the energy at one resolution, beginning with a flow.

    The second image is warped once. Each iteration linearises the penalties at the flow so far and
    solves for the change of the flow by successive over-relaxation.

    Args:
        first: Gray images, 0 to 255, ``[B, 1, H, W]``.
        second: The later images, same shape.
        flow: Initial flows ``[B, 2, H, W]`` in pixels.

    Returns:
        The refined flows, ``[B, 2, H, W]``.
    """
    derivatives = _derivatives(first, warp(second, flow, padding_mode="border"))
    change = torch.zeros_like(flow)
    for _ in range(ITERATIONS):
        if torch.is_grad_enabled() and (derivatives.requires_grad or flow.requires_grad):
            # Recomputed in the backward pass: the solver keeps dozens of tensors of its size.
            change = checkpoint(_iterate, derivatives, flow, change, use_reentrant=False)
        else:
            change = _iterate(derivatives, flow, change)
    return flow + change


def _derivatives(first: Tensor, warped: Tensor) -> Tensor:
    """Return the derivatives of the images, ``[B, 8, H, W]``: x, y, z, xx, xy, yy, xz, yz.

    Those in space are of the mean of both images; z, in time, is their difference.
    """
    mean, z = (first + warped) / 2, warped - first
    x, y = _central(mean, -1), _central(mean, -2)
    second = [_central(x, -1), _central(x, -2), _central(y, -2), _central(z, -1), _central(z, -2)]
    return torch.cat([x, y, z, *second], dim=1)


def _central(image: Tensor, dim: int) -> Tensor:
    """Return the differences of the two neighbours along a dimension; the border is repeated."""
    n = image.shape[dim]
    padded = torch.cat([image.narrow(dim, 0, 1), image, image.narrow(dim, n - 1, 1)], dim)
    return padded.narrow(dim, 2, n) - padded.narrow(dim, 0, n)


def _iterate(derivatives: Tensor, flow: Tensor, change: Tensor) -> Tensor:
    """Linearise the energy at ``flow + change`` and return the change that minimises it."""
    a, b = _data_term(derivatives, change)
    links, smooth = _smoothness_term(flow, flow + change)
    total = links.sum(dim=1, keepdim=True)
    coefficients = torch.cat([a[:, :1] + total, a[:, 1:2] + total, a[:, 2:], b + smooth, links], 1)
    return _solve(coefficients, change)


def _data_term(derivatives: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrix (11, 22, 12) and the right side of the linearised data term."""
    x, y, z, xx, xy, yy, xz, yz = derivatives.chunk(8, dim=1)
    u, v = change.chunk(2, dim=1)
    # Brightness: one residual, x u + y v + z. Gradient: one residual in x and one in y. Each is
    # divided by the length of its own gradient, so that strong edges do not dominate.
    norm = x * x + y * y + ZETA**2
    norm_x, norm_y = xx * xx + xy * xy + ZETA**2, xy * xy + yy * yy + ZETA**2
    residual = (z + x * u + y * v).square() / norm
    weight = (BRIGHTNESS / 2) * torch.rsqrt(residual + EPSILON**2) / norm
    residual = (xz + xx * u + xy * v).square() / norm_x + (yz + xy * u + yy * v).square() / norm_y
    both = (GRADIENT / 2) * torch.rsqrt(residual + EPSILON**2)
    weight_x, weight_y = both / norm_x, both / norm_y
    matrix = [
        weight * x * x + weight_x * xx * xx + weight_y * xy * xy + ZETA**2,
        weight * y * y + weight_x * xy * xy + weight_y * yy * yy + ZETA**2,
        weight * x * y + weight_x * xx * xy + weight_y * xy * yy,
    ]
    right = [
        -(weight * z * x + weight_x * xz * xx + weight_y * yz * xy),
        -(weight * z * y + weight_x * xz * xy + weight_y * yz * yy),
    ]
    return torch.cat(matrix, dim=1), torch.cat(right, dim=1)


def _smoothness_term(initial: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights to the left, right, upper and lower pixel, and the right side."""
    x, y = _to_next(flow)
    square = (x.square() + y.square()).sum(dim=1, keepdim=True)
    weight = (SMOOTHNESS / 2) * torch.rsqrt(square + EPSILON**2)
    right, below = F.pad(weight[..., :-1], RIGHT), F.pad(weight[..., :-1, :], BELOW)
    links = torch.cat([F.pad(right, SHIFT_RIGHT), right, F.pad(below, SHIFT_DOWN), below], dim=1)
    x, y = _to_next(initial)
    x, y = right * x, below * y
    return links, x - F.pad(x, SHIFT_RIGHT) + y - F.pad(y, SHIFT_DOWN)


def _to_next(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Return the differences to the right and to the lower pixel, 0 at the border."""
    return F.pad(flow.diff(dim=-1), RIGHT), F.pad(flow.diff(dim=-2), BELOW)


# ---- Successive over-relaxation ----------------------------------------------------------------


def _solve(coefficients: Tensor, change: Tensor) -> Tensor:
    """Iterate on the linear system, the pixels in the colours of a chessboard.

    The neighbours of a pixel are of the other colour, so all pixels of one colour change at once.

    Args:
        coefficients: Matrix (11, 22, 12), right side (2) and weights to the left, right, upper and
            lower pixel, ``[B, 9, H, W]``.
        change: Initial solution, ``[B, 2, H, W]``.

    Returns:
        The solution, ``[B, 2, H, W]``.
    """
    H, W = change.shape[-2:]
    colours = [torch.split(part, [2, 1, 2, 4], dim=1) for part in _split_chessboard(coefficients)]
    red, black = _split_chessboard(change)
    even = (torch.arange(red.shape[-2], device=red.device) % 2 == 0)[:, None]
    for _ in range(SOLVER_ITERATIONS):
        red = _relax(red, black, colours[0], even)
        black = _relax(black, red, colours[1], ~even)
    return _merge_chessboard(red, black)[..., :H, :W]


def _relax(
    values: Tensor, others: Tensor, system: tuple[Tensor, ...], left_apart: Tensor
) -> Tensor:
    """Return new values of the pixels of one colour, given those of the other colour.

    In rows where `left_apart` is true, the right neighbour has the index of the pixel, and the left
    neighbour the index before; in the other rows, the left one and the index after.
    """
    diagonal, mixed, right_side, links = system
    left, right, above, below = links.chunk(4, dim=1)
    first = torch.where(left_apart, F.pad(others, SHIFT_RIGHT), others)
    second = torch.where(left_apart, others, F.pad(others, SHIFT_LEFT))
    total = torch.addcmul(right_side, left, first)
    total = torch.addcmul(total, right, second)
    total = torch.addcmul(total, above, F.pad(others, SHIFT_DOWN))
    total = torch.addcmul(total, below, F.pad(others, SHIFT_UP))
    u, v = values.chunk(2, dim=1)
    total_u, total_v = total.chunk(2, dim=1)
    diagonal_u, diagonal_v = diagonal.chunk(2, dim=1)
    u = torch.lerp(u, (total_u - mixed * v) / diagonal_u, RELAXATION)
    v = torch.lerp(v, (total_v - mixed * u) / diagonal_v, RELAXATION)
    return torch.cat([u, v], dim=1)


def _split_chessboard(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return pixels (y, x) with even and with odd x + y, each ``[B, C, H, W / 2]``.

    Sides are padded to even numbers.
    """
    H, W = image.shape[-2:]
    if H % 2 or W % 2:
        image = F.pad(image, (0, W % 2, 0, H % 2), mode="replicate")
    upper, lower = image[..., 0::2, :], image[..., 1::2, :]
    red = torch.stack([upper[..., 0::2], lower[..., 1::2]], dim=-2)
    black = torch.stack([upper[..., 1::2], lower[..., 0::2]], dim=-2)
    return red.flatten(-3, -2), black.flatten(-3, -2)


def _merge_chessboard(red: Tensor, black: Tensor) -> Tensor:
    """Reverse `_split_chessboard`, padding included."""
    upper = torch.stack([red[..., 0::2, :], black[..., 0::2, :]], dim=-1).flatten(-2)
    lower = torch.stack([black[..., 1::2, :], red[..., 1::2, :]], dim=-1).flatten(-2)
    return torch.stack([upper, lower], dim=-2).flatten(-3, -2)
