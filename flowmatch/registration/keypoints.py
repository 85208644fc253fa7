"""Down-sampling and keypoints of point clouds."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

Points = NDArray[np.float64]

_OUTLIER = 100  # times the median distance: farther points may be outliers
_MAX_COORDINATE = 1e12  # metres: powers of larger distances overflow float32


def as_points(points: ArrayLike, name: str = "points") -> Points:
    """Return points as float64 ``[N, 3]``.

    Raises:
        ValueError: Another type or shape, or coordinates that are not finite or too large.
    """
    array = np.asarray(points)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be [N, 3], got {array.dtype} {list(array.shape)}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; read_cloud drops points that are not")
    if array.size and np.abs(array).max() > _MAX_COORDINATE:
        raise ValueError(
            f"{name} must be within {_MAX_COORDINATE:g} m of the origin, "
            f"got {np.abs(array).max():g} m"
        )
    return array


def voxel_down(points: ArrayLike, voxel: float) -> Points:
    """Replace the points in each cell of a grid by their mean.

    Args:
        points: ``[N, 3]``, metres.
        voxel: Side of a cell, metres.

    Returns:
        Means ``[M, 3]``, in the order of their cells (x slowest).

    Raises:
        ValueError: Wrong shape, not finite, or `voxel` is not positive.

    Example:
        >>> voxel_down([[0.0, 0, 0], [0.2, 0, 0], [1.1, 0, 0]], voxel=1.0)
        array([[0.1, 0. , 0. ],
               [1.1, 0. , 0. ]])
    """
    cloud = as_points(points)
    if not voxel > 0:
        raise ValueError(f"voxel must be positive, got {voxel}")
    if len(cloud) == 0:
        return cloud
    cells = np.floor((cloud - cloud.min(0)) / voxel)
    if (cells.max(0) >= 2**20).any():
        extent = (cloud.max(0) - cloud.min(0)).max()
        raise ValueError(
            f"voxels of {voxel:g} m are too small for a cloud of {extent:g} m"
            f"{_outlier_message(cloud)}"
        )
    x, y, z = cells.astype(np.int64).T
    _, cell, counts = np.unique((x << 40) | (y << 20) | z, return_inverse=True, return_counts=True)
    sums = [np.bincount(cell, cloud[:, axis], len(counts)) for axis in range(3)]
    return np.stack(sums, axis=1) / counts[:, None]


def _outlier_message(cloud: Points) -> str:
    """Return a message on how many points are likely outliers, or an empty string."""
    distance = np.linalg.norm(cloud - np.median(cloud, axis=0), axis=1)
    limit = _OUTLIER * np.median(distance)
    count = int((distance > limit).sum())
    if not count:
        return ""
    return f": {count} of its {len(cloud)} points lie farther than {limit:g} m from the median"


def uniform_keypoints(points: ArrayLike, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Choose points uniformly at random.

    Args:
        points: ``[N, 3]``.
        count: Number of points; all if the cloud has fewer.
        seed: Random seed.

    Returns:
        Indices in ascending order, ``[min(count, N)]``.

    Example:
        >>> uniform_keypoints(np.zeros((9, 3)), 3).shape
        (3,)
    """
    total = len(np.asarray(points))
    indices = np.random.default_rng(seed).permutation(total)[: max(count, 0)]
    return np.sort(indices).astype(np.int64)


def neighbourhoods(
    tree: cKDTree, queries: Points, radius: float, limit: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the nearest neighbours of points within a radius.

    Args:
        tree: The cloud, N points.
        queries: ``[K, 3]``.
        radius: Radius of the neighbourhoods, metres.
        limit: Maximum number of neighbours per point, L.

    Returns:
        Indices, padded with N, and distances, padded with infinity, ``[K, L]``.
    """
    limit = min(limit, max(tree.n, 1))
    distance, index = tree.query(queries, k=[*range(1, limit + 1)], distance_upper_bound=radius)
    return index.astype(np.int64), distance


def covariances(
    points: Points, centres: Points, index: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the weighted scatter matrices of neighbours about their centres, ``[K, 3, 3]``."""
    near = points[np.minimum(index, len(points) - 1)] - centres[:, None]
    share = weights / np.maximum(weights.sum(1, keepdims=True), np.finfo(float).tiny)
    scatter: NDArray[np.float64] = np.einsum("kn,kni,knj->kij", share, near, near, optimize=True)
    return scatter


def iss_keypoints(
    points: ArrayLike,
    radius: float,
    *,
    count: int | None = None,
    ratios: tuple[float, float] = (0.975, 0.975),
    neighbours: int = 64,
) -> NDArray[np.int64]:
    """Choose keypoints where the surface is curved in every direction: intrinsic shape signatures.

    A point's saliency is the smallest eigenvalue of its neighbours' scatter matrix. Keypoints have
    three distinct eigenvalues and the largest saliency within `radius`.

    Args:
        points: ``[N, 3]``, metres; best one point per voxel.
        radius: Radius of the neighbourhood, metres: about six voxels.
        count: Maximum number of keypoints; the most salient are kept. None keeps all.
        ratios: Maximum ratio of the second eigenvalue to the first, and of the third to the second.
        neighbours: Maximum number of neighbours per point.

    Returns:
        Indices in ascending order.

    Raises:
        ValueError: Wrong shape, not finite, or `radius` is not positive.

    Example:
        >>> iss_keypoints(np.zeros((0, 3)), radius=1.0).tolist()
        []

    Reference:
        Zhong, Intrinsic Shape Signatures, ICCV Workshops 2009.
    """
    cloud = as_points(points)
    if not radius > 0:
        raise ValueError(f"radius must be positive, got {radius}")
    if len(cloud) == 0:
        return np.zeros(0, np.int64)
    tree = cKDTree(cloud)
    index, distance = neighbourhoods(tree, cloud, radius, neighbours)
    known = np.isfinite(distance)
    degree = known.sum(1)
    # Neighbours in dense regions weigh less, so that density does not increase the saliency.
    weights = known / degree[np.minimum(index, len(cloud) - 1)]
    values = np.linalg.eigvalsh(covariances(cloud, cloud, index, weights))
    third, second, first = np.maximum(values, 0).T
    distinct = (second < ratios[0] * first) & (third < ratios[1] * second)
    saliency = np.where(distinct & (degree >= 5), third, 0.0)
    nearby = np.where(known, saliency[np.minimum(index, len(cloud) - 1)], 0.0)
    peaks = np.flatnonzero((saliency > 0) & (saliency >= nearby.max(1)))
    if count is not None and len(peaks) > count:
        peaks = peaks[np.argsort(-saliency[peaks], kind="stable")[:count]]
    return np.sort(peaks).astype(np.int64)
