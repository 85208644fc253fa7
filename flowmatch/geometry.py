"""Rigid motions: matrices [..., 4, 4] that take a point x to R x + t.

Functions on tensors are batched and differentiable. `transform_points`, `invert_motion` and
`as_motion_matrix` are the NumPy half: one motion, float64.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Matrix = NDArray[np.float64]
"""A matrix, such as a motion ``[4, 4]``."""


def motion(rotation: Tensor, translation: Tensor) -> Tensor:
    """Combine rotations and translations into motions.

    Args:
        rotation: ``[..., 3, 3]``.
        translation: ``[..., 3]``, metres.

    Returns:
        Motions ``[..., 4, 4]``.

    Example:
        >>> motion(torch.eye(3), torch.tensor([1.0, 2.0, 3.0]))[0].tolist()
        [1.0, 0.0, 0.0, 1.0]
    """
    if rotation.shape[-2:] != (3, 3) or translation.shape[-1:] != (3,):
        raise ValueError(
            "rotation must be [..., 3, 3] and translation [..., 3], "
            f"got {tuple(rotation.shape)} and {tuple(translation.shape)}"
        )
    upper = torch.cat([rotation, translation[..., None]], -1)
    lower = upper.new_tensor([0, 0, 0, 1]).expand(*upper.shape[:-2], 1, 4)
    return torch.cat([upper, lower], -2)


def transform(motions: Tensor, points: Tensor) -> Tensor:
    """Transform points by motions.

    Args:
        motions: ``[..., 4, 4]``.
        points: ``[..., N, 3]``.

    Returns:
        ``R x + t``, ``[..., N, 3]``.

    Example:
        >>> turn = rotation_about(torch.tensor([0.0, 0.0, torch.pi / 2]))
        >>> transform(motion(turn, torch.zeros(3)), torch.tensor([[1.0, 0, 0]])).round()
        tensor([[0., 1., 0.]])
    """
    return points @ motions[..., :3, :3].mT + motions[..., None, :3, 3]


def invert(motions: Tensor) -> Tensor:
    """Return the inverse motions, ``[..., 4, 4]``: exact where R is a rotation.

    Example:
        >>> invert(motion(torch.eye(3), torch.tensor([1.0, 2.0, 3.0])))[:3, 3]
        tensor([-1., -2., -3.])
    """
    rotation = motions[..., :3, :3].mT
    return motion(rotation, -(rotation @ motions[..., :3, 3, None])[..., 0])


def compose(*motions: Tensor) -> Tensor:
    """Return the product of motions, the last applied first: ``compose(a, b)`` is a after b.

    Example:
        >>> step = motion(torch.eye(3), torch.tensor([1.0, 0.0, 0.0]))
        >>> compose(step, step, step)[0, 3]
        tensor(3.)
    """
    if not motions:
        raise ValueError("at least one motion is needed")
    product: Tensor = motions[0]
    for following in motions[1:]:
        product = product @ following
    return product


def rotation_about(vectors: Tensor) -> Tensor:
    """Return rotations from rotation vectors.

    Args:
        vectors: ``[..., 3]``: direction of the axis times the angle in radians.

    Returns:
        Rotations ``[..., 3, 3]``.

    Example:
        >>> rotation_about(torch.zeros(3))[0]
        tensor([1., 0., 0.])

    Reference:
        Rodrigues' formula.
    """
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).view(*x.shape, 3, 3)
    # The matrix exponential is also exact for small angles, where the formula divides 0 by 0.
    return torch.matrix_exp(skew)


def rotation_angle(first: Tensor, second: Tensor) -> Tensor:
    """Return the angle between two rotations or motions, ``[...]`` radians in 0 to pi.

    Args:
        first: ``[..., 3, 3]`` or ``[..., 4, 4]``.
        second: The same.

    Example:
        >>> rotation_angle(torch.eye(3), rotation_about(torch.tensor([0.0, 0.5, 0.0])))
        tensor(0.5000)
    """
    relative = first[..., :3, :3].mT @ second[..., :3, :3]
    # The arc cosine alone loses half of the digits near 0 and pi.
    axis = torch.stack(
        [
            relative[..., 2, 1] - relative[..., 1, 2],
            relative[..., 0, 2] - relative[..., 2, 0],
            relative[..., 1, 0] - relative[..., 0, 1],
        ],
        -1,
    )
    trace = relative.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.atan2(torch.linalg.vector_norm(axis, dim=-1), trace - 1)


def translation_error(first: Tensor, second: Tensor) -> Tensor:
    """Return the distance between the translations of two motions ``[..., 4, 4]``, metres.

    It grows with the distance of the scene from the origin where the rotations differ.

    Example:
        >>> translation_error(torch.eye(4), motion(torch.eye(3), torch.tensor([3.0, 4.0, 0.0])))
        tensor(5.)
    """
    distance: Tensor = torch.linalg.vector_norm(first[..., :3, 3] - second[..., :3, 3], dim=-1)
    return distance


def fit_motion(source: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Fit the motion between corresponding points by least squares.

    Args:
        source: ``[..., N, 3]``.
        target: Corresponding points, ``[..., N, 3]``.
        weights: Non-negative weights ``[..., N]``; None weighs all points equally.

    Returns:
        Motions ``[..., 4, 4]`` that minimise ``sum w |R source + t - target|^2``, never a
        reflection. If the points do not determine the rotation (collinear, or fewer than three),
        it is one of the minimisers.

    Raises:
        ValueError: Shapes do not fit.

    Example:
        >>> points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
        >>> fit_motion(points, points + 1)[:3, 3]
        tensor([1.0000, 1.0000, 1.0000])

    Reference:
        Kabsch, Acta Crystallographica A32, 1976; the sign: Umeyama, PAMI 1991.
    """
    if source.shape != target.shape or source.shape[-1:] != (3,) or source.dim() < 2:
        raise ValueError(
            "source and target must be [..., N, 3], "
            f"got {tuple(source.shape)} and {tuple(target.shape)}"
        )
    if weights is None:
        weights = source.new_ones(source.shape[:-1])
    if weights.shape != source.shape[:-1]:
        raise ValueError(f"weights must be {tuple(source.shape[:-1])}, got {tuple(weights.shape)}")
    share = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    centres = [(share[..., None] * points).sum(-2, keepdim=True) for points in (source, target)]
    covariance = (share[..., None] * (target - centres[1])).mT @ (source - centres[0])
    left, _, right = torch.linalg.svd(covariance)
    sign = torch.ones_like(covariance[..., 0])
    sign[..., 2] = torch.linalg.det(left @ right).sign()
    rotation = (left * sign[..., None, :]) @ right
    translation = centres[1][..., 0, :] - (rotation @ centres[0].mT)[..., 0]
    return motion(rotation, translation)


def as_motion_matrix(motion: ArrayLike) -> Matrix:
    """Return a motion as a new float64 array ``[4, 4]``.

    Raises:
        ValueError: It is not a rigid motion.

    Example:
        >>> as_motion_matrix(np.eye(4))[0].tolist()
        [1.0, 0.0, 0.0, 0.0]
    """
    matrix = np.array(motion, np.float64)
    rigid = matrix.shape == (4, 4) and np.allclose(
        matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-3
    )
    if not rigid:
        raise ValueError(f"motion must be a rigid [4, 4], got {np.array2string(matrix)[:200]}")
    return matrix


def transform_points(motion: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
    """Transform points ``[N, 3]`` by a motion ``[4, 4]``, in NumPy.

    Example:
        >>> transform_points(np.eye(4), [[1, 2, 3]])
        array([[1., 2., 3.]])
    """
    matrix = np.asarray(motion, np.float64)
    moved: NDArray[np.float64] = np.asarray(points, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def invert_motion(motion: ArrayLike) -> Matrix:
    """Return the inverse of a motion ``[4, 4]``, in NumPy.

    Example:
        >>> invert_motion([[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])[0, 3].item()
        -5.0
    """
    matrix: Matrix = np.asarray(motion, np.float64)
    return np.asarray(np.linalg.inv(matrix), np.float64)


# ---- Pinhole cameras, in NumPy -----------------------------------------------------------------

DEPTH_TOLERANCE, RELATIVE_DEPTH_TOLERANCE = 0.03, 0.02
"""Difference in metres, and share of the depth, within which two depths are of one surface."""


def unproject(pixels: ArrayLike, depth: ArrayLike, camera: ArrayLike) -> NDArray[np.float64]:
    """Return the points that pixels with a known depth show, in the camera's axes.

    Args:
        pixels: Pixels (x, y), ``[..., 2]``.
        depth: Depth along the optical axis, metres, ``[...]``.
        camera: Intrinsics ``[3, 3]``, pixels.

    Returns:
        Points ``[..., 3]``, metres.

    Example:
        >>> unproject([[3, 1]], [2.0], np.eye(3)).tolist()
        [[6.0, 2.0, 2.0]]
    """
    xy = np.asarray(pixels)
    homogeneous = np.concatenate([xy, np.ones((*xy.shape[:-1], 1))], axis=-1)
    rays = homogeneous @ np.linalg.inv(np.asarray(camera)).T
    return np.asarray(rays * np.asarray(depth)[..., None])


def depths_agree(measured: ArrayLike, expected: ArrayLike) -> NDArray[np.bool_]:
    """Return where two depths, in metres, are of the same surface; NaN agrees with nothing.

    Example:
        >>> depths_agree([1.0, 1.0, np.nan], [1.04, 1.1, 1.0]).tolist()
        [True, False, False]
    """
    depth = np.asarray(expected)
    with np.errstate(invalid="ignore"):
        difference = np.abs(np.asarray(measured) - depth)
        return np.asarray(difference < DEPTH_TOLERANCE + RELATIVE_DEPTH_TOLERANCE * depth)
