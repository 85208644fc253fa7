"""Directions of the surface: normals that agree on a side, and local reference frames."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree  # type: ignore[import-untyped]
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from flowmatch.registration.keypoints import Points, as_points, covariances, neighbourhoods

_NEIGHBOURS_OF_A_SIDE = 8


def estimate_normals(
    points: ArrayLike,
    radius: float,
    *,
    viewpoint: ArrayLike | None = None,
    neighbours: int = 30,
) -> NDArray[np.float64]:
    """Estimate the normal of the surface at each point.

    Its line is where the neighbours spread least. Its side is that of `viewpoint`; without one,
    neighbours agree on a side along a spanning tree of the most parallel ones, and most normals of
    each connected piece look towards its middle: a rule that a rigid motion does not change.

    Args:
        points: ``[N, 3]``, metres; best one a voxel.
        radius: Of the neighbourhood, metres: two to three voxels.
        viewpoint: Where the sensor stood, ``[3]``, in the cloud's frame.
        neighbours: Most that are looked at around a point.

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
    middle = near.sum(1) / known.sum(1, keepdims=True)
    normals: NDArray[np.float64] = np.linalg.eigh(covariances(cloud, middle, index, known))[1][
        ..., 0
    ]
    if viewpoint is not None:
        eye = np.asarray(viewpoint, np.float64)
        if eye.shape != (3,):
            raise ValueError(f"viewpoint must be [3], got {list(eye.shape)}")
        away = np.einsum("ni,ni->n", normals, eye - cloud) < 0
        return np.where(away[:, None], -normals, normals) + 0.0
    return _agree(cloud, normals, index)


def _agree(cloud: Points, normals: NDArray[np.float64], index: NDArray[np.int64]) -> Points:
    """Turn normals so that neighbours are on one side, and most look to their piece's middle."""
    count = len(cloud)
    few = index[:, 1 : _NEIGHBOURS_OF_A_SIDE + 1]
    row, column = np.repeat(np.arange(count), few.shape[1]), few.ravel()
    row, column = row[column < count], column[column < count]
    # Not zero, which a sparse matrix would take for no edge.
    weights = 1.01 - np.abs(np.einsum("ni,ni->n", normals[row], normals[column]))
    graph = csr_array((weights, (row, column)), (count, count))
    forest = minimum_spanning_tree(graph.maximum(graph.T))
    forest = forest + forest.T
    pieces, piece = connected_components(forest, directed=False)
    sign = np.ones(count)
    seen = np.zeros(pieces, bool)
    for start in range(count):
        if seen[piece[start]]:
            continue
        seen[piece[start]] = True
        order, parent = breadth_first_order(forest, start, directed=False)
        same = np.einsum("ni,ni->n", normals[order[1:]], normals[parent[order[1:]]]) >= 0
        for node, agrees in zip(order[1:].tolist(), same.tolist(), strict=True):
            sign[node] = sign[parent[node]] if agrees else -sign[parent[node]]
    sizes = np.bincount(piece, minlength=pieces)
    middle = np.stack([np.bincount(piece, cloud[:, k], pieces) for k in range(3)], 1)
    inward = np.einsum(
        "ni,ni->n", normals * sign[:, None], (middle / sizes[:, None])[piece] - cloud
    )
    outward = np.bincount(piece, np.sign(inward), pieces) < 0
    return np.asarray(normals * np.where(outward[piece], -sign, sign)[:, None] + 0.0)


def local_frames(
    points: ArrayLike,
    keypoints: ArrayLike,
    radius: float,
    *,
    sides: ArrayLike | None = None,
    neighbours: int = 256,
) -> NDArray[np.float64]:
    """Find axes at keypoints that turn with the cloud.

    z is where the neighbours spread least, those beyond two thirds of the radius left out. x is
    where most of the surface leaves the plane across z, near points counting more: a direction, so
    that nothing has to decide between it and its opposite.

    Args:
        points: ``[N, 3]``, metres; best one a voxel.
        keypoints: ``[K, 3]``.
        radius: Of the neighbourhood, metres.
        sides: Vectors ``[K, 3]``, such as normals, whose side of the surface z takes; without them
            it is the side where fewer neighbours lie.
        neighbours: Most that are looked at.

    Returns:
        Rotations ``[K, 3, 3]`` whose rows are x, y and z, as `ops.distance_field` takes them; the
        identity where there are fewer than three neighbours.

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
    given = None if sides is None else as_points(sides, "sides")
    if given is not None and given.shape != centres.shape:
        raise ValueError(f"sides must be {list(centres.shape)}, got {list(given.shape)}")
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
    to_side = -(weights * along).sum(1) if given is None else np.einsum("ki,ki->k", z, given)
    z[to_side < 0] *= -1
    # The sign of `along` does not matter from here on.
    x = np.einsum("kn,kni->ki", weights * along**2, near)
    x -= np.einsum("ki,ki->k", x, z)[:, None] * z
    length = np.linalg.norm(x, axis=1)
    # On a plane nothing leaves it, and any direction is as good.
    least = np.eye(3)[np.abs(z).argmin(1)]
    x = np.where(length[:, None] > 1e-9 * radius**5, x, np.cross(z, least))
    x /= np.maximum(np.linalg.norm(x, axis=1), np.finfo(float).tiny)[:, None]
    enough = known.sum(1) >= 3
    frames[enough] = np.stack([x, np.cross(z, x), z], axis=1)[enough]
    return frames
