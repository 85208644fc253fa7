"""A sparse volume of signed distances, and the surface in it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.geometry import Matrix, as_motion_matrix, invert_motion, transform_points
from flowmatch.io import depth_to_points

Float = NDArray[np.float32]
Int = NDArray[np.int64]

_SIDE = 8  # voxels along a block
_CELLS = _SIDE**3
_CHUNK = 2048  # blocks worked on at once
_OFFSET = 2**20  # makes block coordinates positive, so that three fit into a key
_STEEPEST = 1.0  # change from voxel to voxel that a surface can make; edges of shadows make more


class Surface(NamedTuple):
    """Points on a surface."""

    points: NDArray[np.float64]
    """``[N, 3]``, metres."""
    normals: NDArray[np.float64]
    """Unit vectors ``[N, 3]``, to the side that cameras saw it from."""


class TSDFVolume:
    """Truncated signed distances on a sparse grid: blocks of 8 x 8 x 8 voxels near surfaces.

    Args:
        voxel: Side of a voxel, metres.
        truncation: Voxels in front of a surface and behind it that know of it; more than the
            sensor's noise, less than the thickness of things.
        most: Blocks at most, 4 kB each.

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

    def __init__(self, voxel: float = 0.01, truncation: float = 4.0, most: int = 2**18) -> None:
        if not (voxel > 0 and truncation >= 2 and most >= 1):
            raise ValueError(
                "a positive voxel, a truncation of 2 voxels or more and room for a block are "
                f"needed, got {voxel}, {truncation} and {most}"
            )
        self.voxel, self.truncation, self.most = voxel, truncation, most
        self._keys: Int = np.zeros(0, np.int64)  # ascending
        self._rows: Int = np.zeros(0, np.int64)  # where each key's block is kept
        self._distance: Float = np.zeros((0, _CELLS), np.float32)
        self._weight: Float = np.zeros((0, _CELLS), np.float32)

    def __len__(self) -> int:
        """Return how many blocks there are."""
        return len(self._keys)

    def add(self, depth: ArrayLike, intrinsics: ArrayLike, pose: ArrayLike) -> None:
        """Add what a depth picture shows.

        Args:
            depth: ``[H, W]`` along the optical axis, metres; what is not positive is unknown.
            intrinsics: Camera matrix ``[3, 3]``, pixels.
            pose: ``[4, 4]``, camera to world.

        Raises:
            ValueError: Wrong shapes, the pose is not rigid, or there would be more than `most`
                blocks.
        """
        picture, camera = np.asarray(depth, np.float32), np.asarray(intrinsics, np.float64)
        picture = np.where(np.isfinite(picture) & (picture > 0), picture, np.float32(np.nan))
        seen, place = depth_to_points(picture, camera), as_motion_matrix(pose)
        chosen = self._touched(seen, place)
        self._make(chosen)
        rows = self._find(chosen)
        for start in range(0, len(chosen), _CHUNK):
            part = slice(start, start + _CHUNK)
            self._average(chosen[part], rows[part], picture, camera, invert_motion(place))

    def surface(self, least: float = 0.0) -> Surface:
        """Return where the distance changes its sign, between neighbouring voxels.

        Args:
            least: Weight that a voxel must have: pictures, each counting one over the square of
                its depth in metres.
        """
        points, normals = [np.zeros((0, 3))], [np.zeros((0, 3))]
        for start in range(0, len(self._keys), _CHUNK):
            part = slice(start, start + _CHUNK)
            blocks = _unpack(self._keys[part])
            values = self._with_neighbours(blocks, least)
            at, along = _crossings(values)
            points.append(self.voxel * (blocks[at[:, 0].astype(np.int64)] * _SIDE + at[:, 1:]))
            normals.append(along)
        return Surface(np.concatenate(points), np.concatenate(normals))

    def _touched(self, seen: NDArray[np.float64], pose: Matrix) -> Int:
        """Return the keys of blocks within the truncation of points, along their rays."""
        reach = self.truncation * self.voxel
        length = np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1e-9)
        steps = int(np.ceil(2 * reach / (self.voxel * _SIDE / 2))) + 1
        keys = []
        for off in np.linspace(-reach, reach, max(steps, 2)):
            at = transform_points(pose, seen * (1 + off / length)) / (self.voxel * _SIDE)
            cells = np.floor(at + 0.5 / _SIDE).astype(np.int64)  # voxel 0's middle is at 0
            if len(cells) and np.abs(cells).max() >= _OFFSET:
                raise ValueError(
                    f"voxels of {self.voxel:g} m are too small {np.abs(at).max():.0f} blocks "
                    "from the origin"
                )
            keys.append(np.unique(_pack(cells)))
        return np.unique(np.concatenate(keys))

    def _make(self, keys: Int) -> None:
        new = np.setdiff1d(keys, self._keys, assume_unique=True)
        have = len(self._keys)
        if have + len(new) > self.most:
            raise ValueError(
                f"more than {self.most} blocks of {_SIDE * self.voxel:g} m would be needed; "
                "take a larger voxel or fewer pictures"
            )
        if have + len(new) > len(self._distance):
            more = max(len(new), len(self._distance))
            empty = np.zeros((min(more, self.most - have), _CELLS), np.float32)
            self._distance = np.concatenate([self._distance, empty])
            self._weight = np.concatenate([self._weight, empty])
        keys = np.concatenate([self._keys, new])
        rows = np.concatenate([self._rows, have + np.arange(len(new))])
        order = np.argsort(keys)
        self._keys, self._rows = keys[order], rows[order]

    def _find(self, keys: Int) -> Int:
        """Return the rows of blocks, -1 where there is none."""
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        found: Int = np.where(self._keys[at] == keys, self._rows[at], -1)
        return found

    def _average(
        self, keys: Int, rows: Int, depth: Float, camera: Matrix, to_camera: Matrix
    ) -> None:
        corner = self.voxel * _SIDE * _unpack(keys).astype(np.float64)
        turn = to_camera[:3, :3]
        within = (self.voxel * _GRID @ turn.T).astype(np.float32)
        at = transform_points(to_camera, corner).astype(np.float32)[:, None] + within
        z = np.maximum(at[..., 2], np.float32(1e-6))
        # By the whole matrix: a skew, too, belongs to the camera.
        pixels = at @ camera[:2].T.astype(np.float32) / z[..., None]
        pixels[at[..., 2] <= 0] = -1
        reach = np.float32(self.truncation * self.voxel)
        told = _sample(depth, pixels, reach)
        off = (told - z) / reach
        known = off >= -1  # NaN is not
        # A sensor's error grows with the square of the depth.
        weight = np.where(known, 1 / np.maximum(told, np.float32(0.1)) ** 2, 0)
        before = self._weight[rows]
        after = before + weight
        value = np.where(known, np.minimum(off, 1), 0)
        mean = (self._distance[rows] * before + value * weight) / np.where(after > 0, after, 1)
        self._distance[rows], self._weight[rows] = mean, after

    def _with_neighbours(self, blocks: Int, least: float) -> Float:
        """Return blocks with a voxel before and two behind, ``[n, 11, 11, 11]``, x y z."""
        around = np.stack([self._find(_pack(blocks + step)) for step in _AROUND], axis=1)
        rows = around[:, _WHICH]
        known = (rows >= 0) & (self._weight[rows, _WHERE] > least)
        side = _SIDE + 3
        values: Float = np.where(known, self._distance[rows, _WHERE], np.float32(np.nan))
        return values.reshape(-1, side, side, side)


def _sample(depth: Float, pixels: Float, edge: np.float32) -> Float:
    """Read depth between pixels ``[..., 2]``; the nearest one's where neighbours are far apart."""
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
    above = corners[0] + share[..., 0] * (corners[1] - corners[0])
    below = corners[2] + share[..., 0] * (corners[3] - corners[2])
    between = above + share[..., 1] * (below - above)
    smooth = np.maximum.reduce(corners) - np.minimum.reduce(corners) < edge  # NaN is not
    return np.where(inside, np.where(smooth, between, nearest), np.float32(np.nan))


def _pack(cells: Int) -> Int:
    x, y, z = (cells + _OFFSET).T
    keys: Int = (x << 42) | (y << 21) | z
    return keys


def _unpack(keys: Int) -> Int:
    mask = 2 * _OFFSET - 1
    return np.stack([keys >> 42, (keys >> 21) & mask, keys & mask], axis=1) - _OFFSET


def _lattice(values: Sequence[int] | range) -> Int:
    return np.stack(np.meshgrid(values, values, values, indexing="ij"), axis=-1).reshape(-1, 3)


_GRID = _lattice(range(_SIDE))
_AROUND = _lattice((-1, 0, 1))
_PADDED = _lattice(range(-1, _SIDE + 2))
_WHICH: Int = (_PADDED // _SIDE + 1) @ np.array([9, 3, 1])
_WHERE: Int = (_PADDED % _SIDE) @ np.array([_SIDE**2, _SIDE, 1])


def _slopes(values: Float) -> list[Float]:
    """Return the gradient in the middle 9 x 9 x 9, from both sides or the one that is known."""
    inner = slice(1, -1)
    slopes: list[Float] = []
    for axis in (1, 2, 3):
        change = np.diff(values, axis=axis)
        before, after = (np.delete(change, end, axis) for end in (-1, 0))
        index = [slice(None), inner, inner, inner]
        index[axis] = slice(None)
        before, after = before[tuple(index)], after[tuple(index)]
        mean = np.where(np.isnan(before), after, np.where(np.isnan(after), before, before + after))
        count = np.where(np.isnan(before) | np.isnan(after), np.float32(1), np.float32(2))
        slopes.append((mean / count).astype(np.float32))
    return slopes


def _crossings(values: Float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find changes of sign from the 8 x 8 x 8 voxels of blocks to the next along x, y and z.

    Returns:
        ``[N, 4]``: block, and place in voxels from its first; normals ``[N, 3]``.
    """
    slopes = np.stack(_slopes(values), axis=-1)
    middle = values[:, 1:-1, 1:-1, 1:-1]
    own = (slice(None), *[slice(_SIDE)] * 3)
    places, normals = [], []
    for axis in (1, 2, 3):
        beyond = list(own)
        beyond[axis] = slice(1, _SIDE + 1)
        here, there = middle[own], middle[tuple(beyond)]
        change = (here < 0) != (there < 0)
        index = np.nonzero(change & (np.abs(here - there) < _STEEPEST))
        share = (here[index] / (here[index] - there[index])).astype(np.float64)
        at = np.stack(index, axis=1).astype(np.float64)
        at[:, axis] += share
        ends = slopes[own][index], slopes[tuple(beyond)][index]
        along = ends[0] * (1 - share[:, None]) + ends[1] * share[:, None]
        length = np.linalg.norm(along, axis=1)
        whole = length > 0  # NaN is not
        places.append(at[whole])
        normals.append(along[whole] / length[whole, None])
    return np.concatenate(places), np.concatenate(normals)
