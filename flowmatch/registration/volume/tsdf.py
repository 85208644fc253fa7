"""A truncated signed distance volume (TSDF) on a sparse grid, and its surface."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.geometry import Matrix, as_motion_matrix, invert_motion, transform_points
from flowmatch.io import depth_to_points

Float = NDArray[np.float32]
Int = NDArray[np.int64]

SIDE = 8  # voxels along a block
_CELLS = SIDE**3
_CHUNK = 2048  # blocks processed at once
_OFFSET = 2**20  # makes block coordinates positive, so that three fit into a key
MAX_STEP = 1.0  # change between voxels at a surface; at occlusion boundaries it is larger


class Surface(NamedTuple):
    """Points on a surface.

    Attributes:
        points: ``[N, 3]``, metres.
        normals: Unit normals ``[N, 3]`` that point to the side of the cameras.
    """

    points: NDArray[np.float64]
    normals: NDArray[np.float64]


class TSDFVolume:
    """Truncated signed distances on a sparse grid: blocks of 8 x 8 x 8 voxels near surfaces.

    Args:
        voxel: Side of a voxel, metres.
        truncation: Truncation distance, in voxels; more than the sensor's noise, less than the
            thickness of objects.
        max_blocks: Maximum number of blocks, 4 kB each.

    Raises:
        ValueError: An argument is not positive, or `truncation` is below 2.

    Example:
        >>> volume = TSDFVolume(voxel=0.02)
        >>> volume.add(np.full((40, 40), 1.0), [[40, 0, 20], [0, 40, 20], [0, 0, 1]], np.eye(4))
        >>> volume.surface().points[:, 2].round(3).max().item()
        1.0

    Reference:
        Curless and Levoy, A Volumetric Method for Building Complex Models from Range Images,
        SIGGRAPH 1996; in blocks: Niessner et al., Voxel Hashing, SIGGRAPH Asia 2013.
    """

    def __init__(
        self, voxel: float = 0.01, truncation: float = 4.0, max_blocks: int = 2**18
    ) -> None:
        if not (voxel > 0 and truncation >= 2 and max_blocks >= 1):
            raise ValueError(
                "a positive voxel, a truncation of 2 voxels or more and room for a block are "
                f"needed, got {voxel}, {truncation} and {max_blocks}"
            )
        self.voxel, self.truncation, self.max_blocks = voxel, truncation, max_blocks
        self._keys: Int = np.zeros(0, np.int64)  # ascending
        self._rows: Int = np.zeros(0, np.int64)  # row of each key's block
        self._distance: Float = np.zeros((0, _CELLS), np.float32)
        self._weight: Float = np.zeros((0, _CELLS), np.float32)

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self._keys)

    def add(self, depth: ArrayLike, intrinsics: ArrayLike, pose: ArrayLike) -> None:
        """Integrate a depth image.

        Args:
            depth: ``[H, W]`` along the optical axis, metres; values that are not positive are
                unknown.
            intrinsics: Camera matrix ``[3, 3]``, pixels.
            pose: ``[4, 4]``, camera to world.

        Raises:
            ValueError: Wrong shapes, the pose is not rigid, or more than `max_blocks` blocks
                would be needed.
        """
        image, camera = np.asarray(depth, np.float32), np.asarray(intrinsics, np.float64)
        image = np.where(np.isfinite(image) & (image > 0), image, np.float32(np.nan))
        points, to_world = depth_to_points(image, camera), as_motion_matrix(pose)
        keys = self._touched_blocks(points, to_world)
        self._allocate(keys)
        rows = self._find(keys)
        for start in range(0, len(keys), _CHUNK):
            part = slice(start, start + _CHUNK)
            self._average(keys[part], rows[part], image, camera, invert_motion(to_world))

    def surface(self, min_weight: float = 0.0) -> Surface:
        """Return the zero crossings of the distance between neighbouring voxels.

        Args:
            min_weight: Weight that a voxel must exceed: a sum over images, each weighted by the
                inverse square of its depth in metres.
        """
        points, normals = [np.zeros((0, 3))], [np.zeros((0, 3))]
        for start in range(0, len(self._keys), _CHUNK):
            part = slice(start, start + _CHUNK)
            blocks = _unpack(self._keys[part])
            values = self._with_neighbours(blocks, min_weight)
            at, directions = _zero_crossings(values)
            points.append(self.voxel * (blocks[at[:, 0].astype(np.int64)] * SIDE + at[:, 1:]))
            normals.append(directions)
        return Surface(np.concatenate(points), np.concatenate(normals))

    @property
    def blocks(self) -> Int:
        """Coordinates of the blocks, ``[B, 3]``: block (1, 0, 0) begins at x = 8 voxels."""
        return _unpack(self._keys)

    def distances(self, first: ArrayLike, count: int) -> Float:
        """Return the distances in a cube of blocks and one voxel more at its ends.

        Args:
            first: Coordinates of the first block, ``[3]``.
            count: Number of blocks along a side, n.

        Returns:
            ``[8 n + 1, 8 n + 1, 8 n + 1]``, x y z, in truncation distances, positive on the side of
            the cameras; NaN where it is unknown.
        """
        rows = self._find(_pack(np.asarray(first, np.int64) + _lattice(range(count + 1))))
        known = (rows >= 0)[:, None] & (self._weight[rows] > 0)
        values = np.where(known, self._distance[rows], np.float32(np.nan))
        side = count + 1
        cube = values.reshape(side, side, side, SIDE, SIDE, SIDE).transpose(0, 3, 1, 4, 2, 5)
        end = count * SIDE + 1
        result: Float = cube.reshape(side * SIDE, side * SIDE, side * SIDE)[:end, :end, :end]
        return result

    def _touched_blocks(self, points: NDArray[np.float64], pose: Matrix) -> Int:
        """Return the keys of blocks within the truncation distance of points along their rays."""
        band = self.truncation * self.voxel
        length = np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-9)
        steps = int(np.ceil(2 * band / (self.voxel * SIDE / 2))) + 1
        keys = []
        for offset in np.linspace(-band, band, max(steps, 2)):
            at = transform_points(pose, points * (1 + offset / length)) / (self.voxel * SIDE)
            cells = np.floor(at + 0.5 / SIDE).astype(np.int64)  # the centre of voxel 0 is at 0
            if len(cells) and np.abs(cells).max() >= _OFFSET:
                raise ValueError(
                    f"voxels of {self.voxel:g} m are too small {np.abs(at).max():.0f} blocks "
                    "from the origin"
                )
            keys.append(np.unique(_pack(cells)))
        return np.unique(np.concatenate(keys))

    def _allocate(self, keys: Int) -> None:
        new = np.setdiff1d(keys, self._keys, assume_unique=True)
        count = len(self._keys)
        if count + len(new) > self.max_blocks:
            raise ValueError(
                f"more than {self.max_blocks} blocks of {SIDE * self.voxel:g} m would be needed; "
                "choose a larger voxel or fewer images"
            )
        if count + len(new) > len(self._distance):
            growth = max(len(new), len(self._distance))
            empty = np.zeros((min(growth, self.max_blocks - count), _CELLS), np.float32)
            self._distance = np.concatenate([self._distance, empty])
            self._weight = np.concatenate([self._weight, empty])
        keys = np.concatenate([self._keys, new])
        rows = np.concatenate([self._rows, count + np.arange(len(new))])
        order = np.argsort(keys)
        self._keys, self._rows = keys[order], rows[order]

    def _find(self, keys: Int) -> Int:
        """Return the rows of blocks, -1 for absent ones."""
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        rows: Int = np.where(self._keys[at] == keys, self._rows[at], -1)
        return rows

    def _average(
        self, keys: Int, rows: Int, depth: Float, camera: Matrix, to_camera: Matrix
    ) -> None:
        corner = self.voxel * SIDE * _unpack(keys).astype(np.float64)
        rotation = to_camera[:3, :3]
        within = (self.voxel * _GRID @ rotation.T).astype(np.float32)
        at = transform_points(to_camera, corner).astype(np.float32)[:, None] + within
        z = np.maximum(at[..., 2], np.float32(1e-6))
        # The whole camera matrix, because it may have a skew.
        pixels = at @ camera[:2].T.astype(np.float32) / z[..., None]
        pixels[at[..., 2] <= 0] = -1
        band = np.float32(self.truncation * self.voxel)
        measured = _interpolate_depth(depth, pixels, band)
        distance = (measured - z) / band
        known = distance >= -1  # False for NaN
        # A sensor's error grows with the square of the depth.
        weight = np.where(known, 1 / np.maximum(measured, np.float32(0.1)) ** 2, 0)
        previous = self._weight[rows]
        total = previous + weight
        value = np.where(known, np.minimum(distance, 1), 0)
        mean = (self._distance[rows] * previous + value * weight) / np.where(total > 0, total, 1)
        self._distance[rows], self._weight[rows] = mean, total

    def _with_neighbours(self, blocks: Int, min_weight: float) -> Float:
        """Return blocks padded by one voxel before and two after, ``[n, 11, 11, 11]``, x y z."""
        adjacent = np.stack([self._find(_pack(blocks + step)) for step in _ADJACENT], axis=1)
        rows = adjacent[:, _BLOCK]
        known = (rows >= 0) & (self._weight[rows, _CELL] > min_weight)
        side = SIDE + 3
        values: Float = np.where(known, self._distance[rows, _CELL], np.float32(np.nan))
        return values.reshape(-1, side, side, side)


def _interpolate_depth(depth: Float, pixels: Float, edge: np.float32) -> Float:
    """Interpolate depth at pixels ``[..., 2]``; at depth edges take the nearest pixel."""
    height, width = depth.shape
    low, high = np.float32(-0.5), np.array([width, height], np.float32) - np.float32(0.5)
    inside = np.all((pixels >= low) & (pixels < high), axis=-1)
    place = np.where(inside[..., None], pixels, 0)
    u, v = np.round(place).astype(np.int32).transpose(-1, *range(place.ndim - 1))
    nearest = depth[v, u]
    first = np.clip(np.floor(place), 0, [max(width - 2, 0), max(height - 2, 0)]).astype(np.int32)
    share = np.clip(place - first, 0, 1).astype(np.float32)
    u, v = first[..., 0], first[..., 1]
    right, down = np.minimum(u + 1, width - 1), np.minimum(v + 1, height - 1)
    corners = depth[v, u], depth[v, right], depth[down, u], depth[down, right]
    upper = corners[0] + share[..., 0] * (corners[1] - corners[0])
    lower = corners[2] + share[..., 0] * (corners[3] - corners[2])
    bilinear = upper + share[..., 1] * (lower - upper)
    smooth = np.maximum.reduce(corners) - np.minimum.reduce(corners) < edge  # False for NaN
    return np.where(inside, np.where(smooth, bilinear, nearest), np.float32(np.nan))


def _pack(cells: Int) -> Int:
    x, y, z = (cells + _OFFSET).T
    keys: Int = (x << 42) | (y << 21) | z
    return keys


def _unpack(keys: Int) -> Int:
    mask = 2 * _OFFSET - 1
    return np.stack([keys >> 42, (keys >> 21) & mask, keys & mask], axis=1) - _OFFSET


def _lattice(values: Sequence[int] | range) -> Int:
    return np.stack(np.meshgrid(values, values, values, indexing="ij"), axis=-1).reshape(-1, 3)


_GRID = _lattice(range(SIDE))
_ADJACENT = _lattice((-1, 0, 1))
_PADDED = _lattice(range(-1, SIDE + 2))
_BLOCK: Int = (_PADDED // SIDE + 1) @ np.array([9, 3, 1])
_CELL: Int = (_PADDED % SIDE) @ np.array([SIDE**2, SIDE, 1])


def _slopes(values: Float) -> list[Float]:
    """Return the gradient in the inner 9 x 9 x 9: central or one-sided differences."""
    inner = slice(1, -1)
    slopes: list[Float] = []
    for axis in (1, 2, 3):
        change = np.diff(values, axis=axis)
        backward, forward = (np.delete(change, end, axis) for end in (-1, 0))
        index = [slice(None), inner, inner, inner]
        index[axis] = slice(None)
        backward, forward = backward[tuple(index)], forward[tuple(index)]
        both = np.where(np.isnan(forward), backward, backward + forward)
        total = np.where(np.isnan(backward), forward, both)
        count = np.where(np.isnan(backward) | np.isnan(forward), np.float32(1), np.float32(2))
        slopes.append((total / count).astype(np.float32))
    return slopes


def _zero_crossings(values: Float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find changes of sign between the 8 x 8 x 8 voxels of blocks and the next along x, y and z.

    Returns:
        ``[N, 4]``: block, and position in voxels from its first voxel; normals ``[N, 3]``.
    """
    slopes = np.stack(_slopes(values), axis=-1)
    inner = values[:, 1:-1, 1:-1, 1:-1]
    own = (slice(None), *[slice(SIDE)] * 3)
    places, normals = [], []
    for axis in (1, 2, 3):
        following = list(own)
        following[axis] = slice(1, SIDE + 1)
        first, second = inner[own], inner[tuple(following)]
        change = (first < 0) != (second < 0)
        index = np.nonzero(change & (np.abs(first - second) < MAX_STEP))
        share = (first[index] / (first[index] - second[index])).astype(np.float64)
        at = np.stack(index, axis=1).astype(np.float64)
        at[:, axis] += share
        ends = slopes[own][index], slopes[tuple(following)][index]
        gradient = ends[0] * (1 - share[:, None]) + ends[1] * share[:, None]
        length = np.linalg.norm(gradient, axis=1)
        valid = length > 0  # False for NaN
        places.append(at[valid])
        normals.append(gradient[valid] / length[valid, None])
    return np.concatenate(places), np.concatenate(normals)
