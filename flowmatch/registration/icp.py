"""The last centimetre: iterative closest points."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from flowmatch.geometry import motion as as_motion
from flowmatch.geometry import rotation_about
from flowmatch.registration.keypoints import Points, as_points
from flowmatch.registration.normals import estimate_normals

Matrix = NDArray[np.float64]
_MOST_POINTS = 6000  # of the source: more do not make six numbers better
_METHODS = ("auto", "gicp", "icp")


def as_motion_matrix(motion: ArrayLike) -> Matrix:
    """Return a new float64 ``[4, 4]``, or raise saying what came."""
    matrix = np.array(motion, np.float64)
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


def inverse(motion: ArrayLike) -> Matrix:
    """Return the motion back, ``[4, 4]``.

    Example:
        >>> inverse([[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])[0, 3].item()
        -5.0
    """
    matrix: Matrix = np.linalg.inv(np.asarray(motion, np.float64))
    return matrix


class Refiner:
    """Iterative closest points between two clouds, made ready for many starts.

    Args:
        source: ``[N, 3]``, metres; best one a voxel.
        target: ``[M, 3]``.
        method: ``"gicp"`` is generalised ICP by small-gicp, ``"icp"`` our own, point to plane;
            ``"auto"`` takes the first where small-gicp is installed.

    Raises:
        ValueError: Wrong shapes, or there is no such method.
        ImportError: ``"gicp"``, and small-gicp is not installed.
    """

    def __init__(self, source: ArrayLike, target: ArrayLike, method: str = "auto") -> None:
        if method not in _METHODS:
            raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
        a, b = as_points(source, "source"), as_points(target, "target")
        self._enough = min(len(a), len(b)) >= 10
        # Around the target's middle: an origin far away makes rotation and shift fight.
        self._middle = b.mean(0) if len(b) else np.zeros(3)
        b = b - self._middle
        installed = importlib.util.find_spec("small_gicp") is not None
        if method == "gicp" and not installed:
            raise ImportError("method 'gicp' needs small-gicp: pip install small-gicp")
        if not self._enough:
            return
        self._step = _point_to_plane(a, b) if method == "icp" or not installed else _gicp(a, b)

    def __call__(self, motion: ArrayLike, reach: float, iterations: int = 30) -> Matrix:
        """Improve a motion that is nearly right.

        Args:
            motion: ``[4, 4]``, source to target.
            reach: How far a point's partner may be, metres; it shrinks to a third along the way.
            iterations: At most, for each reach.

        Returns:
            The motion, ``[4, 4]``. Where no points are within reach, as it came.

        Raises:
            ValueError: The motion is not rigid, or `reach` is not positive.
        """
        found = as_motion_matrix(motion)
        if not reach > 0:
            raise ValueError(f"reach must be positive, got {reach}")
        if not self._enough:
            return found
        found[:3, 3] -= self._middle
        for near in (reach, reach / 3):
            found = self._step(found, near, iterations)
        found[:3, 3] += self._middle
        return found


def refine_motion(
    source: ArrayLike, target: ArrayLike, motion: ArrayLike, reach: float, *, method: str = "auto"
) -> Matrix:
    """Improve a motion that is nearly right: a `Refiner` used once.

    Args:
        source: ``[N, 3]``, metres; best one a voxel.
        target: ``[M, 3]``.
        motion: ``[4, 4]``, source to target.
        reach: How far a point's partner may be, metres; it shrinks to a third along the way.
        method: ``"gicp"`` (needs small-gicp), ``"icp"`` or ``"auto"``.

    Returns:
        The motion, ``[4, 4]``. Where no points are within reach, as it came.

    Raises:
        ValueError: Wrong shapes, there is no such method, or an argument is out of range.
        ImportError: ``"gicp"``, and small-gicp is not installed.

    Example:
        >>> points = np.random.default_rng(0).normal(size=(200, 3))
        >>> refine_motion(points, points, np.eye(4), 0.1, method="icp").round(6)[0].tolist()
        [1.0, 0.0, 0.0, 0.0]

    Reference:
        Chen and Medioni, ICRA 1991; Segal, Haehnel and Thrun, Generalized-ICP, RSS 2009.
    """
    return Refiner(source, target, method)(motion, reach)


_Step = Callable[[Matrix, float, int], Matrix]


def _gicp(a: Points, b: Points) -> _Step:
    library: Any = importlib.import_module("small_gicp")
    clouds = [library.PointCloud(points) for points in (a, b)]
    trees = [library.KdTree(cloud) for cloud in clouds]
    for cloud, tree in zip(clouds, trees, strict=True):
        library.estimate_covariances(cloud, tree, num_neighbors=20)

    def step(start: Matrix, reach: float, iterations: int) -> Matrix:
        result = library.align(
            clouds[1],
            clouds[0],
            trees[1],
            init_T_target_source=start,
            max_correspondence_distance=reach,
            max_iterations=iterations,
        )
        found: Matrix = result.T_target_source
        return found if result.num_inliers >= 10 and np.isfinite(found).all() else start

    return step


def _point_to_plane(a: Points, b: Points) -> _Step:
    tree = cKDTree(b)
    a = a[:: -(-len(a) // _MOST_POINTS)]
    spacing = float(np.median(tree.query(b[:: max(1, len(b) // 500)], k=[2])[0]))
    normals = estimate_normals(b, 4 * max(spacing, 1e-9))

    def step(start: Matrix, reach: float, iterations: int) -> Matrix:
        for _ in range(iterations):
            moved = move(start, a)
            distance, index = tree.query(moved, distance_upper_bound=reach)
            near = np.isfinite(distance)
            if near.sum() < 10:
                break
            n = normals[index[near]]
            off = np.einsum("ni,ni->n", b[index[near]] - moved[near], n)
            rows = np.concatenate([np.cross(moved[near], n), n], axis=1)
            # Geman and McClure's weights: what is far off pulls little.
            weights = (1 + (off / (reach / 3)) ** 2) ** -2
            normal = rows.T @ (weights[:, None] * rows)
            normal += 1e-9 * np.trace(normal) * np.eye(6)  # along surfaces nothing pulls
            change = torch.from_numpy(np.linalg.solve(normal, rows.T @ (weights * off)))
            start = as_motion(rotation_about(change[:3]), change[3:]).numpy() @ start
            if change.abs().max() < 1e-6:
                break
        return start

    return step
