"""Affine and thin-plate transforms of the plane: parameters, points, grids, composition.

Points are (x, y) in units of half an image: -1 and 1 are its outer edges, so that a transform does
not depend on the resolution. The centre of pixel i of n lies at ``(2 i + 1) / n - 1``.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import xlogy  # type: ignore[import-untyped]
from torch import Tensor

AFFINE = 6
THIN_PLATE = 18
_SIDE = 3  # control points per side


def identity(kind: int, batch: int = 1) -> Tensor:
    """Return the parameters of the identity.

    Args:
        kind: `AFFINE` or `THIN_PLATE`.
        batch: Batch size.

    Returns:
        ``[batch, kind]``.

    Raises:
        ValueError: Unknown kind.

    Example:
        >>> identity(AFFINE)
        tensor([[1., 0., 0., 0., 1., 0.]])
    """
    if kind == AFFINE:
        theta = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0], dtype=torch.float32)
    elif kind == THIN_PLATE:
        theta = control_points().mT.flatten()
    else:
        raise ValueError(f"kind must be {AFFINE} or {THIN_PLATE}, got {kind}")
    return theta.expand(batch, kind).clone()


def control_points() -> Tensor:
    """Return the control points of the thin plate: ``[9, 2]``, row by row from (-1, -1) to (1, 1).

    Example:
        >>> control_points()[:3].tolist()
        [[-1.0, -1.0], [0.0, -1.0], [1.0, -1.0]]
    """
    ticks = torch.linspace(-1, 1, _SIDE, dtype=torch.float32)
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], -1)


def affine_points(theta: Tensor, points: Tensor) -> Tensor:
    """Transform points by ``x' = a x + b y + c, y' = d x + e y + f``.

    Args:
        theta: (a, b, c, d, e, f), ``[B, 6]``.
        points: ``[B, N, 2]``.

    Returns:
        ``[B, N, 2]``.

    Example:
        >>> theta = torch.tensor([[2.0, 0.0, 0.5, 0.0, 1.0, 0.0]])
        >>> affine_points(theta, torch.tensor([[[0.25, -1.0]]]))
        tensor([[[ 1., -1.]]])
    """
    matrix = theta.view(-1, 2, 3)
    return points @ matrix[..., :2].mT + matrix[:, None, :, 2]


def thin_plate_points(theta: Tensor, points: Tensor) -> Tensor:
    r"""Transform points by the thin-plate spline through nine control points.

    ``x' = a_0 + a_1 x + a_2 y + sum_k w_k U(|p - c_k|)`` with ``U(r) = r^2 log r^2``, and the same
    for y'; the weights are those that move each ``c_k`` exactly to its target.

    Args:
        theta: Targets of the nine `control_points`: their x, then their y, ``[B, 18]``.
        points: ``[B, N, 2]``.

    Returns:
        ``[B, N, 2]``.

    Example:
        >>> theta = identity(THIN_PLATE)
        >>> theta[:, :9] += 0.25
        >>> thin_plate_points(theta, torch.zeros(1, 1, 2)).round(decimals=4) + 0  # no -0
        tensor([[[0.2500, 0.0000]]])

    Reference:
        Bookstein, Principal warps, PAMI 1989.
    """
    targets = theta.view(-1, 2, _SIDE * _SIDE).mT  # [B, 9, 2]
    weights = torch.from_numpy(_solution()).to(points) @ targets.to(points)
    return spline_bases(points, control_points().to(points)) @ weights


def thin_plate_basis(points: Tensor) -> Tensor:
    """Return the weight of each control point's target: ``[..., N, 2]`` to ``[..., N, 9]``.

    The spline is linear in the targets of its control points, so that it can be fitted by least
    squares.

    Example:
        >>> thin_plate_basis(control_points()).round(decimals=4).eq(torch.eye(9)).all()
        tensor(True)
    """
    bases = spline_bases(points, control_points().to(points))
    return bases @ torch.from_numpy(_solution()).to(points)


def spline_bases(points: Tensor, control: Tensor) -> Tensor:
    """Return U of the distances to the control points, then 1, x, y: ``[..., N, K + 3]``."""
    squares = (points[..., None, :] - control).square().sum(-1)
    # xlogy is 0 at r = 0, the limit of r^2 log r^2; the clamp keeps its derivative finite there.
    radial = torch.xlogy(squares, squares.clamp_min(torch.finfo(squares.dtype).tiny))
    return torch.cat([radial, torch.ones_like(points[..., :1]), points], -1)


@lru_cache(maxsize=1)
def _solution() -> NDArray[np.float64]:
    """Return the matrix from targets of control points to spline weights, ``[12, 9]``.

    An array: a cached tensor would keep the mode (inference, meta) of the first call.
    """
    ticks = np.linspace(-1, 1, _SIDE)
    control = np.array([(x, y) for y in ticks for x in ticks])
    squares = ((control[:, None] - control) ** 2).sum(-1)
    K = len(control)
    system = np.zeros((K + 3, K + 3))
    system[:K, :K] = xlogy(squares, squares)
    system[:K, K] = 1
    system[:K, K + 1 :] = control
    system[K:, :K] = system[:K, K:].T
    return np.ascontiguousarray(np.linalg.inv(system)[:, :K])


def transform_points(stages: Tensor | Sequence[Tensor], points: Tensor) -> Tensor:
    """Transform points by one transform, or by several, the last of them first.

    With an affine and a thin-plate stage, the thin-plate transform is applied first, then the
    affine one: an image warped by the first stage is warped again by the second.

    Args:
        stages: One transform, ``[B, 6]`` or ``[B, 18]``, or a sequence of transforms.
        points: ``[B, N, 2]``.

    Returns:
        ``[B, N, 2]``.

    Raises:
        ValueError: Parameters have another shape.

    Example:
        >>> double = torch.tensor([[2.0, 0, 0, 0, 2, 0]])
        >>> right = torch.tensor([[1.0, 0, 1, 0, 1, 0]])
        >>> transform_points([double, right], torch.zeros(1, 1, 2))
        tensor([[[2., 0.]]])
    """
    if isinstance(stages, Tensor):
        stages = [stages]
    for theta in reversed(stages):
        if theta.dim() != 2 or theta.shape[1] not in (AFFINE, THIN_PLATE):
            raise ValueError(
                f"parameters must be [B, {AFFINE}] or [B, {THIN_PLATE}], got {tuple(theta.shape)}"
            )
        function = affine_points if theta.shape[1] == AFFINE else thin_plate_points
        points = function(theta, points)
    return points


def compose_affine(outer: Tensor, inner: Tensor) -> Tensor:
    """Return the affine transform that applies `inner`, then `outer`, ``[B, 6]``.

    Example:
        >>> double = torch.tensor([[2.0, 0, 0, 0, 2, 0]])
        >>> right = torch.tensor([[1.0, 0, 1, 0, 1, 0]])
        >>> compose_affine(double, right).tolist()
        [[2.0, 0.0, 2.0, 0.0, 2.0, 0.0]]
    """
    A, B = outer.view(-1, 2, 3), inner.view(-1, 2, 3)
    linear = A[..., :2] @ B[..., :2]
    shift = A[..., :2] @ B[..., 2:] + A[..., 2:]
    return torch.cat([linear, shift], -1).flatten(1)


def invert_affine(theta: Tensor) -> Tensor:
    """Return the inverse of an affine transform, ``[B, 6]``.

    Raises:
        RuntimeError: It is singular.

    Example:
        >>> invert_affine(torch.tensor([[2.0, 0, 1, 0, 4, 0]])).abs().tolist()
        [[0.5, 0.0, 0.5, 0.0, 0.25, 0.0]]
    """
    matrix = theta.view(-1, 2, 3)
    linear = torch.linalg.inv(matrix[..., :2])
    return torch.cat([linear, -linear @ matrix[..., 2:]], -1).flatten(1)


def pixel_grid(height: int, width: int) -> Tensor:
    """Return the centres of an image's pixels, row by row: ``[height * width, 2]``.

    Example:
        >>> pixel_grid(1, 2).tolist()
        [[-0.5, 0.0], [0.5, 0.0]]
    """
    x = (2 * torch.arange(width, dtype=torch.float32) + 1) / width - 1
    y = (2 * torch.arange(height, dtype=torch.float32) + 1) / height - 1
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows], -1).view(-1, 2)


def corner_grid(side: int = 20) -> Tensor:
    """Return a grid of points from edge to edge, to compare transforms on: ``[side^2, 2]``.

    Example:
        >>> corner_grid(2).tolist()
        [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]
    """
    ticks = torch.linspace(-1, 1, side, dtype=torch.float32)
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)


def warp_image(
    stages: Tensor | Sequence[Tensor],
    image: Tensor,
    size: tuple[int, int] | None = None,
    padding: str = "zeros",
) -> Tensor:
    """Warp an image backward: sample it, bilinearly, at the transformed pixels of a new image.

    Unlike with `flowmatch.ops.warp` the new image may have another size.

    Args:
        stages: Transforms from points of the new image to points of `image`.
        image: ``[B, C, H, W]``.
        size: Height and width of the new image; None takes those of `image`.
        padding: Values outside the image: ``"zeros"``, ``"border"`` or ``"reflection"``.

    Returns:
        ``[B, C, *size]``.

    Example:
        >>> image = torch.arange(4.0).view(1, 1, 1, 4)
        >>> warp_image(torch.tensor([[1.0, 0, 0.5, 0, 1, 0]]), image)
        tensor([[[[1., 2., 3., 0.]]]])
    """
    H, W = size or (image.shape[-2], image.shape[-1])
    points = pixel_grid(H, W).to(image).expand(len(image), -1, -1)
    where = transform_points(stages, points).view(-1, H, W, 2)
    return F.grid_sample(image, where, padding_mode=padding, align_corners=False)
