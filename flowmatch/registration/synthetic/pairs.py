"""Pairs of scans with known motions: synthetic rooms, and posed RGB-D frames."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]
from scipy.spatial import cKDTree  # type: ignore[import-untyped]
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

from flowmatch.geometry import Matrix, invert_motion, transform_points
from flowmatch.io import depth_to_points, read_depth, read_intrinsics, read_poses
from flowmatch.registration.keypoints import Points, voxel_down
from flowmatch.registration.synthetic.solids import Float, Room, make_room

_MIN_OVERLAP = 0.3  # share of the first scan's points that the second shows
_SHARED = 0.05  # metres within which a point counts as shared
_ATTEMPTS = 20
_CLEARANCE = 0.35  # metres between a camera and any surface


class ScanPair(NamedTuple):
    """Two scans of one scene, each in its camera's frame: x right, y down, z forward.

    Attributes:
        source: ``[N, 3]``, metres.
        target: ``[M, 3]``, metres.
        motion: ``[4, 4]``, source to target.
    """

    source: Points
    target: Points
    motion: Matrix


class Scans(Protocol):
    """An indexed collection of scan pairs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ScanPair: ...


@dataclass(frozen=True)
class Sensor:
    """A depth camera.

    Attributes:
        size: Height and width, pixels.
        focal: Focal length as a multiple of the width.
        max_depth: Maximum depth, metres.
        noise: Standard deviation of the depth at 0 m, metres, and its increase per square metre.
        quantization: Quantisation step of the inverse depth, per metre.
        grazing: Minimum cosine between the ray and the surface normal for a measurement.
        holes: Share of the image without depth, in blobs.

    Reference:
        Nguyen, Izadi and Lovell, Modeling Kinect Sensor Noise, 3DIMPVT 2012: noise of
        1.2 mm + 1.9 mm (z - 0.4 m)^2.
    """

    size: tuple[int, int] = (120, 160)
    focal: float = 0.9
    max_depth: float = 4.0
    noise: tuple[float, float] = (0.001, 0.0015)
    quantization: float = 0.0015
    grazing: float = 0.12
    holes: float = 0.05

    @property
    def intrinsics(self) -> Matrix:
        """Camera matrix ``[3, 3]``, pixels."""
        height, width = self.size
        f = self.focal * width
        return np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1.0]])


def render_depth(
    room: Room,
    pose: ArrayLike,
    sensor: Sensor | None = None,
    rng: np.random.Generator | None = None,
) -> Float:
    """Render a depth image of a room.

    Args:
        room: The room.
        pose: ``[4, 4]``, camera to room; the camera's z points forward, its y down.
        sensor: The camera.
        rng: Source of random numbers for noise and holes; None renders exact depth.

    Returns:
        Depth along the optical axis ``[H, W]``, metres, float32; NaN where unknown.

    Example:
        >>> room = make_room(np.random.default_rng(0))
        >>> pose = np.eye(4)
        >>> pose[:3, 3] = room.size / 2
        >>> render_depth(room, pose, Sensor(size=(3, 4))).shape
        (3, 4)
    """
    sensor = sensor or Sensor()
    matrix = np.asarray(pose, np.float32)
    height, width = sensor.size
    rays = depth_to_points(np.ones((height, width)), sensor.intrinsics).astype(np.float32)
    lengths = np.linalg.norm(rays, axis=1)
    distance, cosine = room.trace(matrix[:3, 3], (rays / lengths[:, None]) @ matrix[:3, :3].T)
    depth = (distance / lengths).reshape(height, width).astype(np.float32)
    cosine = cosine.reshape(height, width)
    depth[~np.isfinite(depth) | (depth > sensor.max_depth)] = np.nan
    return depth if rng is None else _simulate_sensor(depth, cosine, sensor, rng)


def _simulate_sensor(
    depth: Float, cosine: Float, sensor: Sensor, rng: np.random.Generator
) -> Float:
    """Return depth with the noise, quantisation and holes of a sensor."""
    deviation = sensor.noise[0] + sensor.noise[1] * depth**2
    # Errors of neighbouring pixels are correlated, because their matching windows overlap.
    noise = gaussian_filter(rng.standard_normal(depth.shape), 0.6)
    measured = depth + deviation * noise / noise.std()
    if sensor.quantization > 0:  # uniform steps of the disparity
        measured = 1 / (
            np.round(1 / np.maximum(measured, 0.1) / sensor.quantization) * sensor.quantization
        )
    blobs = gaussian_filter(rng.standard_normal(depth.shape), 4.0)
    measured[blobs < np.quantile(blobs, sensor.holes)] = np.nan
    measured[cosine <= sensor.grazing] = np.nan
    # At depth edges one side is visible to only one of the sensor's two cameras.
    for axis in (0, 1):
        jump = np.abs(np.diff(depth, axis=axis)) > 0.05 * np.delete(depth, 0, axis)
        edge = np.zeros_like(depth, bool)
        np.moveaxis(edge, axis, 0)[1:] = np.moveaxis(jump, axis, 0)
        measured[edge & (rng.random(depth.shape) < 0.7)] = np.nan
    return np.asarray(measured, np.float32)


@dataclass(frozen=True)
class SyntheticScans:
    """Random pairs of scans of furnished rooms; the seed and the index determine an item.

    Attributes:
        seed: Random seed.
        sensor: The camera; its noise and holes vary around the given values.
        length: Nominal number of items.

    Example:
        >>> pair = SyntheticScans(sensor=Sensor(size=(24, 32)))[0]
        >>> pair.motion.shape
        (4, 4)
    """

    seed: int = 0
    sensor: Sensor = field(default_factory=Sensor)
    length: int = 1_000_000

    def __len__(self) -> int:
        """Return `length`."""
        return self.length

    def __getitem__(self, index: int) -> ScanPair:
        """Return pair `index`.

        Raises:
            IndexError: The index is not in 0 to `length` - 1.
        """
        if not 0 <= index < self.length:
            raise IndexError(f"index must be below {self.length}, got {index}")
        rng = np.random.default_rng([self.seed, index, 3])
        return _sample_overlapping(lambda: self._pair(rng))

    def _pair(self, rng: np.random.Generator) -> ScanPair:
        room = make_room(rng)
        poses = _sample_poses(room, rng)
        clouds = []
        for pose in poses:
            strength = rng.uniform(0.2, 1.2)
            sensor = Sensor(
                self.sensor.size,
                self.sensor.focal,
                self.sensor.max_depth,
                (self.sensor.noise[0] * strength, self.sensor.noise[1] * strength),
                self.sensor.quantization * float(rng.uniform(0, 1)),
                self.sensor.grazing,
                self.sensor.holes * float(rng.uniform(0, 2)),
            )
            depth = render_depth(room, pose, sensor, rng)
            clouds.append(depth_to_points(depth, sensor.intrinsics))
        return ScanPair(clouds[0], clouds[1], invert_motion(poses[1]) @ poses[0])


def _sample_overlapping(sample: Callable[[], ScanPair]) -> ScanPair:
    """Return the first of 20 sampled pairs that overlaps by 30 %, else the best one."""
    best: tuple[float, ScanPair] | None = None
    for _ in range(_ATTEMPTS):
        pair = sample()
        share = overlap(pair)
        if best is None or share > best[0]:
            best = share, pair
        if share >= _MIN_OVERLAP:
            break
    assert best is not None
    return best[1]


def _sample_poses(room: Room, rng: np.random.Generator) -> tuple[Matrix, Matrix]:
    """Sample two camera poses in free space that look at about the same place."""
    aim = np.array([*(room.size[:2] * rng.uniform(0.25, 0.75, 2)), rng.uniform(0.2, 1.0)])
    if len(room.solids) > 2:
        chosen = room.solids[int(rng.integers(2, len(room.solids)))]
        aim = chosen.centre + np.array([0, 0, rng.uniform(0.2, 0.8)])
    first = _sample_free_position(room, aim, 1.6, rng)
    second = _sample_free_position(room, first, 0.6, rng)
    aims = aim, aim + rng.normal(0, 0.25, 3)
    poses = [aim_camera(eye, aim, rng) for eye, aim in zip((first, second), aims, strict=True)]
    return poses[0], poses[1]


def _sample_free_position(
    room: Room, near: NDArray[np.floating], spread: float, rng: np.random.Generator
) -> Points:
    """Sample a free camera position at a distance of about `spread` from another position."""
    positions = near + spread * rng.normal(size=(256, 3)) * [1, 1, 0.4]
    positions[:, 2] = np.clip(positions[:, 2], 0.7, 1.9)
    positions = np.clip(positions, 0.2, room.size - 0.2)
    far = np.linalg.norm(positions - near, axis=1) > 0.4 * spread
    free = far & (room.distance(positions.astype(np.float32)) > _CLEARANCE)
    chosen: Points = positions[int(free.argmax())] if free.any() else room.size / 2 + 0.1
    return chosen


def aim_camera(eye: Points, aim: NDArray[np.floating], rng: np.random.Generator) -> Matrix:
    """Return the pose of a camera that looks at a point, with a small random roll."""
    forward = (aim - eye) / max(float(np.linalg.norm(aim - eye)), 1e-6)
    right = np.cross(forward, [0, 0, 1.0])
    size = float(np.linalg.norm(right))
    right = right / size if size > 1e-3 else np.array([1.0, 0, 0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, :3] @= Rotation.from_euler("z", rng.normal(0, 0.2)).as_matrix()
    pose[:3, 3] = eye
    return pose


def overlap(pair: ScanPair) -> float:
    """Return the share of the source's points that are within 5 cm of the target."""
    moved = transform_points(pair.motion, voxel_down(pair.source, _SHARED))
    if len(moved) == 0 or len(pair.target) == 0:
        return 0.0
    near = cKDTree(pair.target).query(moved, distance_upper_bound=_SHARED)[0]
    return float(np.isfinite(near).mean())


class PosedScans:
    """Pairs of posed frames of an RGB-D camera; the seed and the index determine an item.

    Args:
        folder: Folder with ``depth/*.png`` (16 bits, millimetres), ``poses.txt`` (a name and a
            row-major 4 x 4 camera-to-world matrix in each line) and ``intrinsics.txt``.
        baseline: Minimum and maximum distance of the two frames, in frames.
        seed: Random seed.
        length: Nominal number of items.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: There are fewer than two frames.
    """

    def __init__(
        self,
        folder: str | Path,
        baseline: tuple[int, int] = (1, 8),
        *,
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        self.folder, self.baseline = Path(folder), baseline
        self.seed, self.length = seed, length
        self.poses = read_poses(self.folder)
        self.intrinsics = read_intrinsics(self.folder / "intrinsics.txt")
        if len(self.poses) < 2:
            raise ValueError(f"{folder}: expected two frames with poses, got {len(self.poses)}")

    def __len__(self) -> int:
        """Return `length`."""
        return self.length

    def __getitem__(self, index: int) -> ScanPair:
        """Return pair `index`.

        Raises:
            IndexError: The index is not in 0 to `length` - 1.
        """
        if not 0 <= index < self.length:
            raise IndexError(f"index must be below {self.length}, got {index}")
        rng = np.random.default_rng([self.seed, index, 4])
        return _sample_overlapping(lambda: self._pair(rng))

    def _pair(self, rng: np.random.Generator) -> ScanPair:
        count = len(self.poses)
        first = int(rng.integers(count))
        offset = int(rng.integers(self.baseline[0], self.baseline[1] + 1)) * (
            1 if rng.random() < 0.5 else -1
        )
        second = first + offset if 0 <= first + offset < count else (first + 1) % count
        (a, pose_a), (b, pose_b) = self.poses[first], self.poses[second]
        source, target = (
            depth_to_points(read_depth(self.folder / "depth" / f"{name}.png"), self.intrinsics)
            for name in (a, b)
        )
        return ScanPair(source, target, invert_motion(pose_b) @ pose_a)
