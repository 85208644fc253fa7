"""Consistently oriented normals, and local reference frames."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree  # type: ignore[import-untyped]
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from flowmatch.registration.keypoints import Points, as_points, covariances, neighbourhoods

_ORIENTATION_NEIGHBOURS = 8


def estimate_normals(
    points: ArrayLike,
    radius: float,
    *,
    viewpoint: ArrayLike | None = None,
    neighbours: int = 30,
) -> NDArray[np.float64]:
    """Estimate the normal of the surface at each point.

    A normal is the direction in which the neighbours spread least. It points to `viewpoint`;
    without one, the sign is propagated along a minimum spanning tree that prefers parallel
    normals, and most normals of each connected component point to its centroid, a rule that is
    invariant to rigid motions.

    Args:
        points: ``[N, 3]``, metres; best one point per voxel.
        radius: Radius of the neighbourhood, metres: two to three voxels.
        viewpoint: Position of the sensor in the cloud's frame, ``[3]``.
        neighbours: Maximum number of neighbours per point.

    Returns:
        Unit vectors ``[N, 3]``.

    Raises:
        ValueError: Wrong shape, not finite, or `radius` is not positive.

    Example:
        >>> plane = [[x, y, 0.0] for x in range(5) for y in range(5)]
        >>> estimate_normals(plane, radius=2, viewpoint=[0, 0, 9])[12].tolist()
        [0.0, 0.0, 1.0]

    Reference:
        Hoppe et al., Surface Reconstruction from Unorganized Points, SIGGRAPH 1992, section 3.3.
    """
    cloud = as_points(points)
    if not radius > 0:
        raise ValueError(f"radius must be positive, got {radius}")
    if len(cloud) == 0:
        return cloud
    tree = cKDTree(cloud)
    index, distance = neighbourhoods(tree, cloud, radius, neighbours)
    known = np.isfinite(distance).astype(np.float64)
    near = np.where(known[..., None] > 0, cloud[np.minimum(index, len(cloud) - 1)], 0)
    centroid = near.sum(1) / known.sum(1, keepdims=True)
    normals: NDArray[np.float64] = np.linalg.eigh(covariances(cloud, centroid, index, known))[1][
        ..., 0
    ]
    if viewpoint is not None:
        eye = np.asarray(viewpoint, np.float64)
        if eye.shape != (3,):
            raise ValueError(f"viewpoint must be [3], got {list(eye.shape)}")
        away = np.einsum("ni,ni->n", normals, eye - cloud) < 0
        return np.where(away[:, None], -normals, normals) + 0.0
    return _orient(cloud, normals, index)


def _orient(cloud: Points, normals: NDArray[np.float64], index: NDArray[np.int64]) -> Points:
    """Flip normals to agree with neighbours, and to point mostly to their component's centroid."""
    count = len(cloud)
    nearest = index[:, 1 : _ORIENTATION_NEIGHBOURS + 1]
    row, column = np.repeat(np.arange(count), nearest.shape[1]), nearest.ravel()
    row, column = row[column < count], column[column < count]
    # Positive, because a sparse matrix treats zero as no edge.
    weights = 1.01 - np.abs(np.einsum("ni,ni->n", normals[row], normals[column]))
    graph = csr_array((weights, (row, column)), (count, count))
    forest = minimum_spanning_tree(graph.maximum(graph.T))
    forest = forest + forest.T
    components, component = connected_components(forest, directed=False)
    sign = np.ones(count)
    visited = np.zeros(components, bool)
    for start in range(count):
        if visited[component[start]]:
            continue
        visited[component[start]] = True
        order, parent = breadth_first_order(forest, start, directed=False)
        same = np.einsum("ni,ni->n", normals[order[1:]], normals[parent[order[1:]]]) >= 0
        for node, agrees in zip(order[1:].tolist(), same.tolist(), strict=True):
            sign[node] = sign[parent[node]] if agrees else -sign[parent[node]]
    sizes = np.bincount(component, minlength=components)
    sums = np.stack([np.bincount(component, cloud[:, k], components) for k in range(3)], 1)
    centroids = sums / sizes[:, None]
    inward = np.einsum("ni,ni->n", normals * sign[:, None], centroids[component] - cloud)
    outward = np.bincount(component, np.sign(inward), components) < 0
    return np.asarray(normals * np.where(outward[component], -sign, sign)[:, None] + 0.0)


def local_frames(
    points: ArrayLike,
    keypoints: ArrayLike,
    radius: float,
    *,
    sides: ArrayLike | None = None,
    neighbours: int = 256,
) -> NDArray[np.float64]:
    """Return local reference frames at keypoints, which rotate with the cloud.

    z is the direction in which the neighbours within two thirds of the radius spread least. x is
    the direction to the neighbours, averaged with weights that increase with their squared distance
    from the tangent plane and decrease with their distance: it has no sign ambiguity.

    Args:
        points: ``[N, 3]``, metres; best one point per voxel.
        keypoints: ``[K, 3]``.
        radius: Radius of the neighbourhood, metres.
        sides: Vectors ``[K, 3]``, such as normals, that choose the sign of z; without them z
            points away from most neighbours.
        neighbours: Maximum number of neighbours per keypoint.

    Returns:
        Rotations ``[K, 3, 3]`` whose rows are x, y and z, for `ops.distance_field`; the identity
        for keypoints with fewer than three neighbours.

    Raises:
        ValueError: Wrong shapes, not finite, or `radius` is not positive.

    Example:
        >>> local_frames([[0.0, 0, 0]], [[0.0, 0, 0]], radius=1.0)[0].tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]

    Reference:
        After Gojcic et al., The Perfect Match: 3D Point Cloud Matching with Smoothed Densities,
        CVPR 2019, section 3.2, and Yang et al., TOLDI, Pattern Recognition 2017.
    """
    cloud, centres = as_points(points), as_points(keypoints, "keypoints")
    if not radius > 0:
        raise ValueError(f"radius must be positive, got {radius}")
    directions = None if sides is None else as_points(sides, "sides")
    if directions is not None and directions.shape != centres.shape:
        raise ValueError(f"sides must be {list(centres.shape)}, got {list(directions.shape)}")
    frames = np.tile(np.eye(3), (len(centres), 1, 1))
    if len(cloud) == 0 or len(centres) == 0:
        return frames
    index, distance = neighbourhoods(cKDTree(cloud), centres, radius, neighbours)
    known = np.isfinite(distance)
    distance = np.where(known, distance, radius)
    inner = np.maximum(radius * 2 / 3 - distance, 0)
    z = np.linalg.eigh(covariances(cloud, centres, index, inner))[1][..., 0]
    near = cloud[np.minimum(index, len(cloud) - 1)] - centres[:, None]
    weights = (radius - distance) ** 2
    along = np.einsum("kni,ki->kn", near, z)
    if directions is None:
        agreement = -(weights * along).sum(1)
    else:
        agreement = np.einsum("ki,ki->k", z, directions)
    z[agreement < 0] *= -1
    # The sign of `along` does not matter below, so it is not updated.
    x = np.einsum("kn,kni->ki", weights * along**2, near)
    x -= np.einsum("ki,ki->k", x, z)[:, None] * z
    length = np.linalg.norm(x, axis=1)
    # On a plane x is undefined, and any tangent direction will do.
    least = np.eye(3)[np.abs(z).argmin(1)]
    x = np.where(length[:, None] > 1e-9 * radius**5, x, np.cross(z, least))
    x /= np.maximum(np.linalg.norm(x, axis=1), np.finfo(float).tiny)[:, None]
    enough = known.sum(1) >= 3
    frames[enough] = np.stack([x, np.cross(z, x), z], axis=1)[enough]
    return frames
