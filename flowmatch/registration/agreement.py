"""Agreement of two surfaces after registration."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from flowmatch.geometry import transform_points
from flowmatch.registration.keypoints import as_points

_PARALLEL = 0.8  # cosine between corresponding normals: 37 degrees
_SAME_DIRECTION = 0.95  # cosine between normals that count as one direction: 18 degrees
_SAMPLE = 400  # normals that represent a cloud


class Agreement(NamedTuple):
    """Agreement of a moved cloud with another cloud.

    Attributes:
        overlap: Share of the source's points with a target point within the threshold and a
            parallel normal.
        balanced: Overlap with each point weighted by its inverse normal frequency: a floor laid on
            any other floor has a large overlap, but is weak evidence.
        rmse: Root mean square distance of the overlapping points along the target's normals,
            metres.
        information: ``[6, 6]``: mean square displacement off the target's surface that a rotation
            about the overlap's centroid (radians times its radius) and a translation cause.
    """

    overlap: float
    balanced: float
    rmse: float
    information: NDArray[np.float64]

    @property
    def slip_eigenvalue(self) -> float:
        """Smallest eigenvalue of `information`: 0 where surfaces can slide, as planes do."""
        return float(np.linalg.eigvalsh(self.information)[0])


NO_AGREEMENT = Agreement(0.0, 0.0, float("nan"), np.zeros((6, 6)))


def inverse_normal_frequency(normals: ArrayLike) -> NDArray[np.float64]:
    """Return weights inversely proportional to the share of normals in each direction.

    Args:
        normals: Unit vectors ``[N, 3]``; their sign does not matter.

    Returns:
        Weights ``[N]``, positive.

    Example:
        >>> normals = [[0, 0, 1], [0, 0, -1], [0, 0, 1], [1, 0, 0]]
        >>> inverse_normal_frequency(normals).round(2).tolist()
        [1.33, 1.33, 1.33, 4.0]

    Reference:
        After Rusinkiewicz and Levoy's normal-space sampling, Efficient Variants of the ICP
        Algorithm, 3DIM 2001.
    """
    directions = as_points(normals, "normals")
    if len(directions) == 0:
        return np.zeros(0)
    sample = np.random.default_rng(0).permutation(len(directions))[:_SAMPLE]
    share = (np.abs(directions @ directions[sample].T) > _SAME_DIRECTION).mean(1)
    return np.asarray(1 / np.maximum(share, 1 / len(sample)))


def agreement(
    source: ArrayLike,
    source_normals: ArrayLike,
    target: ArrayLike,
    target_normals: ArrayLike,
    motion: ArrayLike,
    threshold: float,
    weights: NDArray[np.float64] | None = None,
) -> Agreement:
    """Measure the agreement of two clouds under a motion.

    Args:
        source: ``[N, 3]``, metres; best one point per voxel.
        source_normals: Unit vectors ``[N, 3]``; their sign does not matter.
        target: ``[M, 3]``.
        target_normals: ``[M, 3]``.
        motion: ``[4, 4]``, source to target.
        threshold: Maximum distance of corresponding points, metres.
        weights: Inverse frequencies of the source's normals, ``[N]``; None computes them.

    Returns:
        `Agreement`; 0, NaN and zeros without overlap.

    Raises:
        ValueError: Shapes do not fit.

    Example:
        >>> points = np.random.default_rng(0).normal(size=(50, 3))
        >>> up = np.tile([0, 0, 1], (50, 1))
        >>> agreement(points, up, points, up, np.eye(4), 0.1).overlap
        1.0
    """
    a, b = as_points(source, "source"), as_points(target, "target")
    n, m = as_points(source_normals, "source_normals"), as_points(target_normals, "target_normals")
    if a.shape != n.shape or b.shape != m.shape:
        raise ValueError(
            f"each point needs a normal, got {len(n)} for {len(a)} and {len(m)} for {len(b)}"
        )
    if len(a) == 0 or len(b) == 0:
        return NO_AGREEMENT
    moved = transform_points(motion, a)
    distance, index = cKDTree(b).query(moved, distance_upper_bound=threshold)
    near = np.isfinite(distance)
    index = np.minimum(index, len(b) - 1)
    rotated = n @ np.asarray(motion, np.float64)[:3, :3].T
    near &= np.abs(np.einsum("ni,ni->n", rotated, m[index])) > _PARALLEL
    if not near.any():
        return NO_AGREEMENT
    weights = inverse_normal_frequency(n) if weights is None else weights
    across = m[index[near]]
    residual = np.einsum("ni,ni->n", b[index[near]] - moved[near], across)
    arm = moved[near] - moved[near].mean(0)
    size = max(float(np.sqrt((arm**2).sum(1).mean())), np.finfo(float).tiny)
    rows = np.concatenate([np.cross(arm / size, across), across], axis=1)
    return Agreement(
        float(near.mean()),
        float(weights[near].sum() / weights.sum()),
        float(np.sqrt((residual**2).mean())),
        rows.T @ rows / len(rows),
    )


def pair_information(points: ArrayLike) -> NDArray[np.float64]:
    """Return the information matrix ``[6, 6]`` of the points that two fragments share.

    Args:
        points: ``[K, 3]``, metres, in the source frame of the motion.

    Returns:
        The sum of ``G^T G`` with ``G = [I, 2 skew(p)]``.

    Example:
        >>> pair_information([[0.0, 0, 0], [1, 0, 0]])[0, 0].item()
        2.0

    Reference:
        Choi, Zhou and Koltun, Robust Reconstruction of Indoor Scenes, CVPR 2015, as in the 3DMatch
        benchmark.
    """
    shared = as_points(points)
    zero = np.zeros(len(shared))
    x, y, z = shared.T
    skew = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)
    rows = np.concatenate([np.tile(np.eye(3), (len(shared), 1, 1)), 2 * skew], axis=2)
    information: NDArray[np.float64] = np.einsum("kij,kil->jl", rows, rows)
    return information
