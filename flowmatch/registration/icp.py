"""ICP refinement of a motion that is nearly correct."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from flowmatch.geometry import (
    Matrix,
    as_motion_matrix,
    rotation_about,
    transform_points,
)
from flowmatch.geometry import motion as make_motion
from flowmatch.registration.keypoints import Points, as_points
from flowmatch.registration.normals import estimate_normals

_MAX_POINTS = 6000  # of the source: more do not improve six parameters
_METHODS = ("auto", "gicp", "icp")


class Refiner:
    """Iterative closest points between two clouds, prepared once for many initial motions.

    Args:
        source: ``[N, 3]``, metres; best one point per voxel.
        target: ``[M, 3]``.
        method: ``"gicp"`` is generalised ICP by small-gicp, ``"icp"`` flowmatch's own
            point-to-plane ICP; ``"auto"`` takes the first where small-gicp is installed.

    Raises:
        ValueError: Wrong shapes, or an unknown method.
        ImportError: ``"gicp"``, and small-gicp is not installed.
    """

    def __init__(self, source: ArrayLike, target: ArrayLike, method: str = "auto") -> None:
        if method not in _METHODS:
            raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
        a, b = as_points(source, "source"), as_points(target, "target")
        self._enough = min(len(a), len(b)) >= 10
        # Relative to the target's centroid: far from the origin rotation and translation correlate.
        self._centre = b.mean(0) if len(b) else np.zeros(3)
        b = b - self._centre
        installed = importlib.util.find_spec("small_gicp") is not None
        if method == "gicp" and not installed:
            raise ImportError("method 'gicp' needs small-gicp: pip install small-gicp")
        if not self._enough:
            return
        self._step = _point_to_plane(a, b) if method == "icp" or not installed else _gicp(a, b)

    def __call__(self, motion: ArrayLike, radius: float, iterations: int = 30) -> Matrix:
        """Refine a motion that is nearly correct.

        Args:
            motion: ``[4, 4]``, source to target.
            radius: Maximum distance of corresponding points, metres; it shrinks to a third in the
                second round.
            iterations: Maximum number of iterations per round.

        Returns:
            The refined motion, ``[4, 4]``; the initial one if no points are within the radius.

        Raises:
            ValueError: The motion is not rigid, or `radius` is not positive.
        """
        refined = as_motion_matrix(motion)
        if not radius > 0:
            raise ValueError(f"radius must be positive, got {radius}")
        if not self._enough:
            return refined
        refined[:3, 3] -= self._centre
        for limit in (radius, radius / 3):
            refined = self._step(refined, limit, iterations)
        refined[:3, 3] += self._centre
        return refined


def refine_motion(
    source: ArrayLike, target: ArrayLike, motion: ArrayLike, radius: float, *, method: str = "auto"
) -> Matrix:
    """Refine a motion that is nearly correct by ICP; `Refiner` does the same for many motions.

    Args:
        source: ``[N, 3]``, metres; best one point per voxel.
        target: ``[M, 3]``.
        motion: ``[4, 4]``, source to target.
        radius: Maximum distance of corresponding points, metres; it shrinks to a third in the
            second round.
        method: ``"gicp"`` (needs small-gicp), ``"icp"`` or ``"auto"``.

    Returns:
        The refined motion, ``[4, 4]``; the initial one if no points are within the radius.

    Raises:
        ValueError: Wrong shapes, an unknown method, or an argument is out of range.
        ImportError: ``"gicp"``, and small-gicp is not installed.

    Example:
        >>> points = np.random.default_rng(0).normal(size=(200, 3))
        >>> refine_motion(points, points, np.eye(4), 0.1, method="icp").round(6)[0].tolist()
        [1.0, 0.0, 0.0, 0.0]

    Reference:
        Chen and Medioni, ICRA 1991; Segal, Haehnel and Thrun, Generalized-ICP, RSS 2009.
    """
    return Refiner(source, target, method)(motion, radius)


_Step = Callable[[Matrix, float, int], Matrix]


def _gicp(a: Points, b: Points) -> _Step:
    library: Any = importlib.import_module("small_gicp")
    clouds = [library.PointCloud(points) for points in (a, b)]
    trees = [library.KdTree(cloud) for cloud in clouds]
    for cloud, tree in zip(clouds, trees, strict=True):
        library.estimate_covariances(cloud, tree, num_neighbors=20)

    def step(start: Matrix, radius: float, iterations: int) -> Matrix:
        result = library.align(
            clouds[1],
            clouds[0],
            trees[1],
            init_T_target_source=start,
            max_correspondence_distance=radius,
            max_iterations=iterations,
        )
        refined: Matrix = result.T_target_source
        return refined if result.num_inliers >= 10 and np.isfinite(refined).all() else start

    return step


def _point_to_plane(a: Points, b: Points) -> _Step:
    tree = cKDTree(b)
    a = a[:: -(-len(a) // _MAX_POINTS)]
    spacing = float(np.median(tree.query(b[:: max(1, len(b) // 500)], k=[2])[0]))
    normals = estimate_normals(b, 4 * max(spacing, 1e-9))

    def step(start: Matrix, radius: float, iterations: int) -> Matrix:
        for _ in range(iterations):
            moved = transform_points(start, a)
            distance, index = tree.query(moved, distance_upper_bound=radius)
            near = np.isfinite(distance)
            if near.sum() < 10:
                break
            n = normals[index[near]]
            residual = np.einsum("ni,ni->n", b[index[near]] - moved[near], n)
            rows = np.concatenate([np.cross(moved[near], n), n], axis=1)
            # Geman-McClure weights: large residuals have little influence.
            weights = (1 + (residual / (radius / 3)) ** 2) ** -2
            system = rows.T @ (weights[:, None] * rows)
            system += 1e-9 * np.trace(system) * np.eye(6)  # regularises sliding directions
            change = torch.from_numpy(np.linalg.solve(system, rows.T @ (weights * residual)))
            start = make_motion(rotation_about(change[:3]), change[3:]).numpy() @ start
            if change.abs().max() < 1e-6:
                break
        return start

    return step
