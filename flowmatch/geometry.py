"""Rigid motions: matrices [..., 4, 4] that take a point x to R x + t."""

import torch
from torch import Tensor


def motion(rotation: Tensor, translation: Tensor) -> Tensor:
    """Put a rotation and a translation together.

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
    """Move points.

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
    """Return the motions back, ``[..., 4, 4]``: exact where R is a rotation.

    Example:
        >>> invert(motion(torch.eye(3), torch.tensor([1.0, 2.0, 3.0])))[:3, 3]
        tensor([-1., -2., -3.])
    """
    back = motions[..., :3, :3].mT
    return motion(back, -(back @ motions[..., :3, 3, None])[..., 0])


def compose(*motions: Tensor) -> Tensor:
    """Return the motion that applies the last first: ``compose(a, b)`` is a after b.

    Example:
        >>> step = motion(torch.eye(3), torch.tensor([1.0, 0.0, 0.0]))
        >>> compose(step, step, step)[0, 3]
        tensor(3.)
    """
    if not motions:
        raise ValueError("at least one motion is needed")
    done: Tensor = motions[0]
    for following in motions[1:]:
        done = done @ following
    return done


def rotation_about(vectors: Tensor) -> Tensor:
    """Turn about axes by their length in radians.

    Args:
        vectors: ``[..., 3]``: direction of the axis times the angle.

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
    # Also exact for small angles, where the formula divides 0 by 0.
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
    turn = first[..., :3, :3].mT @ second[..., :3, :3]
    # The arc cosine alone loses half of the digits near 0 and pi.
    axis = torch.stack(
        [
            turn[..., 2, 1] - turn[..., 1, 2],
            turn[..., 0, 2] - turn[..., 2, 0],
            turn[..., 1, 0] - turn[..., 0, 1],
        ],
        -1,
    )
    trace = turn.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.atan2(torch.linalg.vector_norm(axis, dim=-1), trace - 1)


def translation_error(first: Tensor, second: Tensor) -> Tensor:
    """Return the distance between the translations of two motions ``[..., 4, 4]``, metres.

    It grows with the distance of the scene from the origin where the rotations differ.

    Example:
        >>> translation_error(torch.eye(4), motion(torch.eye(3), torch.tensor([3.0, 4.0, 0.0])))
        tensor(5.)
    """
    apart: Tensor = torch.linalg.vector_norm(first[..., :3, 3] - second[..., :3, 3], dim=-1)
    return apart


def fit_motion(source: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Find the motion that brings corresponding points together, in the least-squares sense.

    Args:
        source: ``[..., N, 3]``.
        target: Where they should come to, ``[..., N, 3]``.
        weights: ``[..., N]``, not negative; None weighs all alike.

    Returns:
        Motions ``[..., 4, 4]`` that minimise ``sum w |R source + t - target|^2``, never a
        reflection. Where the points leave the rotation open, on a line or fewer than three, it is
        one of the best.

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
