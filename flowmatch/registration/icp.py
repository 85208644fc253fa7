"""ICP refinement of a motion that is nearly correct."""

import numpy as np
import small_gicp
from numpy.typing import ArrayLike

from flowmatch.geometry import Matrix, as_motion_matrix
from flowmatch.registration.keypoints import as_points

_MIN_POINTS = 10
_NEIGHBOURS = 20  # that determine the covariance of a point
_CONVERGED = 0.01  # of the radius: changes of less end the iterations


class Refiner:
    """Generalised ICP between two clouds, prepared once for many initial motions.

    Args:
        source: ``[N, 3]``, metres; best one point per voxel.
        target: ``[M, 3]``.
        limit: Maximum number of points of the source, which are sampled; None takes all.

    Raises:
        ValueError: Wrong shapes.
    """

    def __init__(self, source: ArrayLike, target: ArrayLike, limit: int | None = None) -> None:
        a, b = as_points(source, "source"), as_points(target, "target")
        self._enough = min(len(a), len(b)) >= _MIN_POINTS
        if limit is not None:
            a = a[np.random.default_rng(0).permutation(len(a))[:limit]]
        # The size turns translations into rotations of the same effect.
        self._size = max(float(np.linalg.norm(np.ptp(a, axis=0))) if len(a) else 0.0, 1e-9)
        # Relative to the target's centroid: far from the origin rotation and translation correlate.
        self._centre = b.mean(0) if len(b) else np.zeros(3)
        if not self._enough:
            return
        self._source, self._target = (small_gicp.PointCloud(p) for p in (a, b - self._centre))
        self._tree = small_gicp.KdTree(self._target)
        small_gicp.estimate_covariances(self._target, self._tree, num_neighbors=_NEIGHBOURS)
        small_gicp.estimate_covariances(self._source, num_neighbors=_NEIGHBOURS)

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
            result = small_gicp.align(
                self._target,
                self._source,
                self._tree,
                init_T_target_source=refined,
                max_correspondence_distance=limit,
                max_iterations=iterations,
                translation_epsilon=_CONVERGED * limit,
                rotation_epsilon=_CONVERGED * limit / self._size,
            )
            if result.num_inliers >= _MIN_POINTS and np.isfinite(result.T_target_source).all():
                refined = result.T_target_source.copy()
        refined[:3, 3] += self._centre
        return refined


def refine_motion(source: ArrayLike, target: ArrayLike, motion: ArrayLike, radius: float) -> Matrix:
    """Refine a motion that is nearly correct by ICP; `Refiner` does the same for many motions.

    Args:
        source: ``[N, 3]``, metres; best one point per voxel.
        target: ``[M, 3]``.
        motion: ``[4, 4]``, source to target.
        radius: Maximum distance of corresponding points, metres; it shrinks to a third in the
            second round.

    Returns:
        The refined motion, ``[4, 4]``; the initial one if no points are within the radius.

    Raises:
        ValueError: Wrong shapes, or an argument is out of range.

    Example:
        >>> points = np.random.default_rng(0).normal(size=(200, 3))
        >>> refine_motion(points, points, np.eye(4), 0.1).round(6)[0].tolist()
        [1.0, 0.0, 0.0, 0.0]

    Reference:
        Segal, Haehnel and Thrun, Generalized-ICP, RSS 2009; computed by small-gicp (Koide, JOSS
        2024).
    """
    return Refiner(source, target)(motion, radius)
