"""Triangle meshes of signed distance volumes, and the connected parts of surfaces."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from flowmatch.io._files import optional_module
from flowmatch.registration.keypoints import Points
from flowmatch.registration.volume.tsdf import MAX_STEP, SIDE, TSDFVolume

_BLOCKS = 8  # blocks along the side of a region
_STEPS = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)[14:]
_FINE = 1024  # of a voxel: vertices that are closer are one


class Mesh(NamedTuple):
    """A triangle mesh.

    Attributes:
        points: Vertices ``[N, 3]``, metres.
        normals: Unit normals of the vertices, ``[N, 3]``, to the side of the cameras.
        faces: Indices of vertices ``[F, 3]``, counter-clockwise as the cameras see them.
    """

    points: Points
    normals: NDArray[np.float64]
    faces: NDArray[np.int64]


def extract_mesh(volume: TSDFVolume) -> Mesh:
    """Extract the surface of a volume by marching cubes.

    Triangles at unknown voxels, and at steps between a surface and what it hides, are left out.

    Args:
        volume: The volume.

    Raises:
        ImportError: scikit-image is not installed.

    Example:
        >>> volume = TSDFVolume(voxel=0.02)
        >>> volume.add(np.full((40, 40), 1.0), [[40, 0, 20], [0, 40, 20], [0, 0, 1]], np.eye(4))
        >>> extract_mesh(volume).points[:, 2].round(3).max().item()
        1.0

    Reference:
        Lewiner et al., Efficient Implementation of Marching Cubes' Cases with Topological
        Guarantees, Journal of Graphics Tools 2003; computed by scikit-image.
    """
    measure = optional_module("skimage.measure", "a mesh", "scans")
    vertices, triangles, count = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], 0
    for region in np.unique(volume.blocks // _BLOCKS, axis=0):
        values = volume.distances(region * _BLOCKS, _BLOCKS)
        known = np.isfinite(values)
        filled = np.where(known, values, np.float32(1))
        if not ((filled < 0).any() and (filled > 0).any()):
            continue
        places, faces, *_ = measure.marching_cubes(filled, 0.0, gradient_direction="descent")
        low, high = np.floor(places).astype(int), np.ceil(places).astype(int)
        ends = [tuple(corner.T) for corner in (low, high)]
        valid = known[ends[0]] & known[ends[1]]
        valid &= np.abs(filled[ends[0]] - filled[ends[1]]) < MAX_STEP
        faces = faces[valid[faces].all(axis=1)]
        vertices.append(places + region * (_BLOCKS * SIDE))
        triangles.append(faces + count)
        count += len(places)
    return _join(np.concatenate(vertices), np.concatenate(triangles), volume.voxel)


def _join(vertices: Points, faces: NDArray[np.int64], voxel: float) -> Mesh:
    """Join the vertices that regions share, and drop those without a triangle."""
    keys = np.rint(vertices * _FINE).astype(np.int64)
    _, first, index = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    faces = index.ravel()[faces]
    a, b, c = faces.T if len(faces) else np.zeros((3, 0), np.int64)
    faces = faces[(a != b) & (b != c) & (c != a)]
    used, numbers = np.unique(faces, return_inverse=True)
    points, faces = voxel * vertices[first[used]], numbers.reshape(-1, 3)
    corners = points[faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    sums = [
        sum(np.bincount(faces[:, k], across[:, axis], len(points)) for k in range(3))
        for axis in range(3)
    ]
    normals = np.stack(sums, axis=1) if len(points) else np.zeros((0, 3))
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return Mesh(points, normals / np.maximum(length, np.finfo(float).tiny), faces)


def part_sizes(points: Points, distance: float) -> NDArray[np.int64]:
    """Return the number of points of the connected part that each point belongs to.

    Args:
        points: ``[N, 3]``, metres.
        distance: Side of cells; points in the same or in adjacent cells are connected.

    Returns:
        ``[N]``.

    Example:
        >>> part_sizes(np.array([[0.0, 0, 0], [0.1, 0, 0], [5, 0, 0]]), 0.2).tolist()
        [2, 2, 1]
    """
    if len(points) == 0:
        return np.zeros(0, np.int64)
    grid = np.floor((points - points.min(0)) / distance).astype(np.int64) + 1
    shape = grid.max(0) + 2
    cells, cell = np.unique(np.ravel_multi_index(tuple(grid.T), tuple(shape)), return_inverse=True)
    edges = []
    for step in _STEPS:
        other = cells + (step[0] * shape[1] + step[1]) * shape[2] + step[2]
        at = np.minimum(np.searchsorted(cells, other), len(cells) - 1)
        found = np.flatnonzero(cells[at] == other)
        edges.append(np.stack([found, at[found]]))
    rows, columns = np.concatenate(edges, axis=1)
    graph = csr_array((np.ones(len(rows), np.int8), (rows, columns)), (len(cells), len(cells)))
    part = connected_components(graph, directed=False)[1][cell]
    sizes: NDArray[np.int64] = np.bincount(part)[part].astype(np.int64)
    return sizes


def select_vertices(mesh: Mesh, kept: NDArray[np.bool_]) -> Mesh:
    """Return a mesh with some of its vertices, and the triangles between them."""
    numbers = np.cumsum(kept) - 1
    faces = mesh.faces[kept[mesh.faces].all(axis=1)]
    return Mesh(mesh.points[kept], mesh.normals[kept], numbers[faces])
