"""How well a motion lays one surface on another."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from flowmatch.registration.icp import move
from flowmatch.registration.keypoints import as_points

_PARALLEL = 0.8  # cosine: 37 degrees
_SAME_WAY = 0.95  # cosine: 18 degrees
_SAMPLE = 400  # normals that stand for all


class Agreement(NamedTuple):
    """How well a moved cloud lies on another."""

    overlap: float
    """Share of the source's points with a point of the target within the threshold, their normals
    parallel."""
    balanced: float
    """The same with points weighing less the more of the source's normals are parallel to theirs:
    a floor laid on any other floor is a large overlap, but says little."""
    rmse: float
    """Of these points, root mean square distance along the target's normals, metres."""
    information: NDArray[np.float64]
    """``[6, 6]``: the mean square distance by which a rotation about the overlap's middle (radians
    times its radius), and a shift, move these points off the target's surface."""

    @property
    def grip(self) -> float:
        """The smallest eigenvalue: 0 where surfaces can slide, as a plane does on a plane."""
        return float(np.linalg.eigvalsh(self.information)[0])


NO_AGREEMENT = Agreement(0.0, 0.0, float("nan"), np.zeros((6, 6)))


def rarity(normals: ArrayLike) -> NDArray[np.float64]:
    """Weigh each normal by one over the share of all that are parallel to it.

    Args:
        normals: Unit vectors ``[N, 3]``; their side does not matter.

    Returns:
        Weights ``[N]``, positive.

    Example:
        >>> rarity([[0, 0, 1], [0, 0, -1], [0, 0, 1], [1, 0, 0]]).round(2).tolist()
        [1.33, 1.33, 1.33, 4.0]

    Reference:
        In the spirit of Rusinkiewicz and Levoy's normal-space sampling, Efficient Variants of the
        ICP Algorithm, 3DIM 2001.
    """
    directions = as_points(normals, "normals")
    if len(directions) == 0:
        return np.zeros(0)
    chosen = np.random.default_rng(0).permutation(len(directions))[:_SAMPLE]
    share = (np.abs(directions @ directions[chosen].T) > _SAME_WAY).mean(1)
    return np.asarray(1 / np.maximum(share, 1 / len(chosen)))


def agreement(
    source: ArrayLike,
    source_normals: ArrayLike,
    target: ArrayLike,
    target_normals: ArrayLike,
    motion: ArrayLike,
    threshold: float,
) -> Agreement:
    """Measure how well a motion puts one cloud on the other.

    Args:
        source: ``[N, 3]``, metres; best one a voxel.
        source_normals: Unit vectors ``[N, 3]``; their side does not matter.
        target: ``[M, 3]``.
        target_normals: ``[M, 3]``.
        motion: ``[4, 4]``, source to target.
        threshold: How near a partner must be, metres.

    Returns:
        `Agreement`; 0, NaN and zeros where nothing is near.

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
    moved = move(motion, a)
    distance, index = cKDTree(b).query(moved, distance_upper_bound=threshold)
    near = np.isfinite(distance)
    index = np.minimum(index, len(b) - 1)
    turned = n @ np.asarray(motion, np.float64)[:3, :3].T
    near &= np.abs(np.einsum("ni,ni->n", turned, m[index])) > _PARALLEL
    if not near.any():
        return NO_AGREEMENT
    weights, across = rarity(n), m[index[near]]
    off = np.einsum("ni,ni->n", b[index[near]] - moved[near], across)
    arm = moved[near] - moved[near].mean(0)
    size = max(float(np.sqrt((arm**2).sum(1).mean())), np.finfo(float).tiny)
    rows = np.concatenate([np.cross(arm / size, across), across], axis=1)
    return Agreement(
        float(near.mean()),
        float(weights[near].sum() / weights.sum()),
        float(np.sqrt((off**2).mean())),
        rows.T @ rows / len(rows),
    )
