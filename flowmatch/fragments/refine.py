"""The last centimetre: iterative closest points."""

import importlib.util
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from flowmatch.fragments.keypoints import as_points
from flowmatch.fragments.normals import estimate_normals
from flowmatch.geometry import motion as as_motion
from flowmatch.geometry import rotation_about

_METHODS = ("auto", "gicp", "icp")


class Agreement(NamedTuple):
    """How well a moved cloud lies on another."""

    overlap: float
    """Share of the source's points with a point of the target within the threshold."""
    rmse: float
    """Of these, root mean square distance along the target's normals, metres."""
    information: NDArray[np.float64]
    """``[6, 6]``: how much rotation (radians times the target's size) and shift move the source
    off the target's surface, as a mean over these points."""


def as_motions(motion: ArrayLike) -> NDArray[np.float64]:
    """Return a motion as float64 ``[4, 4]``, or raise saying what came."""
    matrix = np.asarray(motion, np.float64)
    rigid = matrix.shape == (4, 4) and np.allclose(
        matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-3
    )
    if not rigid:
        raise ValueError(f"motion must be a rigid [4, 4], got {np.array2string(matrix)[:200]}")
    return matrix


def move(motion: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
    """Move points ``[N, 3]`` by a motion ``[4, 4]``.

    Example:
        >>> move(np.eye(4), [[1, 2, 3]])
        array([[1., 2., 3.]])
    """
    matrix = np.asarray(motion, np.float64)
    moved: NDArray[np.float64] = np.asarray(points, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def refine_motion(
    source: ArrayLike,
    target: ArrayLike,
    motion: ArrayLike,
    reach: float,
    *,
    method: str = "auto",
    iterations: int = 40,
) -> NDArray[np.float64]:
    """Improve a motion that is nearly right.

    Args:
        source: ``[N, 3]``, metres; best one a voxel.
        target: ``[M, 3]``.
        motion: ``[4, 4]``, source to target.
        reach: How far a point's partner may be, metres; it shrinks to a third along the way.
        method: ``"gicp"`` is generalised ICP by small-gicp, ``"icp"`` our own, point to plane;
            ``"auto"`` takes the first where small-gicp is installed.
        iterations: At most, for each reach.

    Returns:
        The motion, ``[4, 4]``. Where no points are within reach, as it came.

    Raises:
        ValueError: Wrong shapes, or there is no such method.
        ImportError: ``"gicp"``, and small-gicp is not installed.

    Example:
        >>> points = np.random.default_rng(0).normal(size=(200, 3))
        >>> refine_motion(points, points, np.eye(4), 0.1, method="icp").round(6)[0].tolist()
        [1.0, 0.0, 0.0, 0.0]

    Reference:
        Chen and Medioni, ICRA 1991; Segal, Haehnel and Thrun, Generalized-ICP, RSS 2009.
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
    a, b, found = as_points(source, "source"), as_points(target, "target"), as_motions(motion)
    if not reach > 0:
        raise ValueError(f"reach must be positive, got {reach}")
    if min(len(a), len(b)) < 10:
        return found
    installed = importlib.util.find_spec("small_gicp") is not None
    if method == "gicp" and not installed:
        raise ImportError("method 'gicp' needs small-gicp: pip install small-gicp")
    # Around the target's middle: an origin far away makes rotation and shift fight.
    middle = b.mean(0)
    shift = np.eye(4)
    shift[:3, 3] = -middle
    start = shift @ found
    steps = [reach, reach / 3]
    if method == "icp" or not installed:
        moved = _point_to_plane(a, b - middle, start, steps, iterations)
    else:
        moved = _gicp(a, b - middle, start, steps, iterations)
    return np.asarray(np.linalg.inv(shift) @ moved)


def _gicp(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    start: NDArray[np.float64],
    steps: list[float],
    iterations: int,
) -> NDArray[np.float64]:
    library: Any = importlib.import_module("small_gicp")
    clouds = [library.PointCloud(points) for points in (a, b)]
    trees = [library.KdTree(cloud) for cloud in clouds]
    for cloud, tree in zip(clouds, trees, strict=True):
        library.estimate_covariances(cloud, tree, num_neighbors=20)
    for step in steps:
        result = library.align(
            clouds[1],
            clouds[0],
            trees[1],
            init_T_target_source=start,
            max_correspondence_distance=step,
            max_iterations=iterations,
        )
        if result.num_inliers < 10 or not np.isfinite(result.T_target_source).all():
            break
        start = result.T_target_source
    return start


def _point_to_plane(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    start: NDArray[np.float64],
    steps: list[float],
    iterations: int,
) -> NDArray[np.float64]:
    tree = cKDTree(b)
    spacing = float(np.median(tree.query(b[:: max(1, len(b) // 500)], k=[2])[0]))
    normals = estimate_normals(b, 4 * max(spacing, 1e-9))
    for step in steps:
        for _ in range(iterations):
            moved = move(start, a)
            distance, index = tree.query(moved, distance_upper_bound=step)
            near = np.isfinite(distance)
            if near.sum() < 10:
                return start
            n = normals[index[near]]
            off = np.einsum("ni,ni->n", b[index[near]] - moved[near], n)
            rows = np.concatenate([np.cross(moved[near], n), n], axis=1)
            # Geman and McClure's weights: what is far off pulls little.
            weights = (1 + (off / (step / 3)) ** 2) ** -2
            normal = rows.T @ (weights[:, None] * rows)
            damping = 1e-9 * np.trace(normal) * np.eye(6)  # along surfaces nothing pulls
            change = np.linalg.solve(normal + damping, rows.T @ (weights * off))
            turn = torch.from_numpy(change)
            start = as_motion(rotation_about(turn[:3]), turn[3:]).numpy() @ start
            if np.abs(change).max() < 1e-6:
                break
    return start


def agreement(
    source: ArrayLike,
    target: ArrayLike,
    target_normals: ArrayLike,
    motion: ArrayLike,
    threshold: float,
    *,
    source_normals: ArrayLike | None = None,
) -> Agreement:
    """Measure how well a motion puts one cloud on the other.

    Args:
        source: ``[N, 3]``, metres; best one a voxel.
        target: ``[M, 3]``.
        target_normals: ``[M, 3]``; their side does not matter.
        motion: ``[4, 4]``, source to target.
        threshold: How near a partner must be, metres.
        source_normals: ``[N, 3]``; if given, partners must also be parallel within 37 degrees.

    Returns:
        Overlap, rmse and information; 0, NaN and zeros where nothing is near.

    Example:
        >>> points = np.random.default_rng(0).normal(size=(50, 3))
        >>> agreement(points, points, np.tile([0, 0, 1], (50, 1)), np.eye(4), 0.1).overlap
        1.0
    """
    a, b = as_points(source, "source"), as_points(target, "target")
    normals = as_points(target_normals, "target_normals")
    if len(a) == 0 or len(b) == 0:
        return Agreement(0.0, float("nan"), np.zeros((6, 6)))
    moved = move(motion, a)
    distance, index = cKDTree(b).query(moved, distance_upper_bound=threshold)
    near = np.isfinite(distance)
    if source_normals is not None:
        turned = as_points(source_normals, "source_normals") @ np.asarray(motion)[:3, :3].T
        partner = normals[np.minimum(index, len(b) - 1)]
        near &= np.abs(np.einsum("ni,ni->n", turned, partner)) > 0.8
    if not near.any():
        return Agreement(0.0, float("nan"), np.zeros((6, 6)))
    n = normals[index[near]]
    off = np.einsum("ni,ni->n", b[index[near]] - moved[near], n)
    arm = moved[near] - moved[near].mean(0)
    size = max(float(np.sqrt((arm**2).sum(1).mean())), np.finfo(float).tiny)
    rows = np.concatenate([np.cross(arm / size, n), n], axis=1)
    information = rows.T @ rows / len(rows)
    return Agreement(float(near.mean()), float(np.sqrt((off**2).mean())), information)
