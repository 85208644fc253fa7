"""Fast point feature histograms (FPFH), the classical descriptor of point clouds."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from flowmatch.registration.keypoints import as_points

BINS = 11
_PARALLEL = 1e-12


def fpfh(points: ArrayLike, normals: ArrayLike, radius: float) -> NDArray[np.float32]:
    """Describe each point by the relative orientation of the normals around it.

    For each pair of neighbours, three angles of the Darboux frame are counted in histograms of 11
    bins; the histograms of a point's neighbours are added to its own, weighted by the inverse
    distance.

    Args:
        points: ``[N, 3]``, metres; best one point per voxel.
        normals: Consistently oriented unit normals ``[N, 3]``, see `estimate_normals`.
        radius: Radius of the neighbourhood, metres: about five voxels.

    Returns:
        Descriptors ``[N, 33]``: 11 bins each of the cosine between the second normal and v, the
        cosine between the first normal and the line, and the angle of the second normal about v.
        Each histogram sums to 100, or is 0 for a point without neighbours.

    Raises:
        ValueError: Wrong shapes, not finite, or `radius` is not positive.

    Example:
        >>> plane = np.array([[x, y, 0.0] for x in range(5) for y in range(5)])
        >>> fpfh(plane, np.tile([0.0, 0, 1], (25, 1)), radius=2)[12].argmax().item()
        5

    Reference:
        Rusu, Blodow and Beetz, Fast Point Feature Histograms, ICRA 2009.
    """
    cloud, directions = as_points(points), as_points(normals, "normals")
    if cloud.shape != directions.shape:
        raise ValueError(f"normals must be {list(cloud.shape)}, got {list(directions.shape)}")
    if not radius > 0:
        raise ValueError(f"radius must be positive, got {radius}")
    pairs = cKDTree(cloud).query_pairs(radius, output_type="ndarray") if len(cloud) else None
    if pairs is None or len(pairs) == 0:
        return np.zeros((len(cloud), 3 * BINS), np.float32)
    bins, distance = _pair_features(cloud, directions, pairs)
    own = _histograms(len(cloud), pairs, bins)
    weight = 1 / np.maximum(distance, 1e-3 * radius)
    rows, columns = np.concatenate([pairs, pairs[:, ::-1]]).T
    weights = csr_array((np.tile(weight, 2), (rows, columns)), (len(cloud), len(cloud)))
    total = _to_percent(own) + _to_percent(weights @ own)
    return _to_percent(total).astype(np.float32)


def _pair_features(
    cloud: NDArray[np.float64], normals: NDArray[np.float64], pairs: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the three bins of each pair, ``[P, 3]``, and its length, ``[P]``."""
    first, second = pairs.T
    line = cloud[second] - cloud[first]
    distance = np.sqrt(np.einsum("pi,pi->p", line, line))
    line /= np.maximum(distance, np.finfo(float).tiny)[:, None]
    n1, n2 = normals[first], normals[second]
    a1, a2, both = (np.einsum("pi,pi->p", a, b) for a, b in ((n1, line), (n2, line), (n1, n2)))
    # The frame u, v = line x u, w = u x v is at the point whose normal is closer to the line: the
    # order does not matter. Vectors are not formed, only the products that the angles need.
    swap = np.abs(a1) < np.abs(a2)
    phi, other = np.where(swap, -a2, a1), np.where(swap, -a1, a2)  # of u and the line; the other
    square = 1 - phi**2  # of the length of v; 0, but for rounding, where u lies on the line
    length = np.sqrt(np.where(square > _PARALLEL, square, np.inf))
    alpha = _triple(n1, n2, line) / length
    theta = np.arctan2((other - phi * both) / length, both)  # radians about v
    shares = np.stack([(alpha + 1) / 2, (phi + 1) / 2, theta / (2 * np.pi) + 0.5], axis=1)
    return np.clip((BINS * shares).astype(np.int64), 0, BINS - 1), distance


def _triple(
    a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the products a x b . c, ``[P]``."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = a.T, b.T, c.T
    product = (ay * bz - az * by) * cx + (az * bx - ax * bz) * cy + (ax * by - ay * bx) * cz
    return np.asarray(product)


def _histograms(
    count: int, pairs: NDArray[np.int64], bins: NDArray[np.int64]
) -> NDArray[np.float64]:
    places = bins + BINS * np.arange(3)
    flat = np.concatenate([3 * BINS * pairs[:, k, None] + places for k in range(2)]).ravel()
    return np.bincount(flat, minlength=count * 3 * BINS).reshape(count, -1).astype(np.float64)


def _to_percent(histograms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale each of the three histograms to a sum of 100; empty ones stay 0."""
    parts = histograms.reshape(len(histograms), 3, BINS)
    total = parts.sum(2, keepdims=True)
    scaled = np.where(total > 0, 100 * parts / np.where(total > 0, total, 1), 0)
    return np.asarray(scaled.reshape(histograms.shape))
