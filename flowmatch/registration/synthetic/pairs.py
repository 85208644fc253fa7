"""Pairs of scans with known motions: rooms under a virtual depth camera, posed RGB-D frames."""

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

_OVERLAP = 0.3  # share of the first scan that the second shows too
_SHARED = 0.05  # metres within which it does
_TRIES = 20
_CLEAR = 0.35  # metres that a camera keeps from everything


class ScanPair(NamedTuple):
    """Two scans of one place, each in its camera's frame: x right, y down, z ahead."""

    source: Points
    """``[N, 3]``, metres."""
    target: Points
    motion: Matrix
    """``[4, 4]``, takes the source's points to the target."""


class Scans(Protocol):
    """An indexed collection of pairs of scans."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ScanPair: ...


@dataclass(frozen=True)
class Sensor:
    """A depth camera.

    Attributes:
        size: Height and width, pixels.
        focal: Focal length over the width.
        max_depth: Farthest it sees, metres.
        noise: Standard deviation of the depth at 0 m, metres, and its growth per square metre.
        step: Between depths it tells apart, as a share of the depth's square, per metre.
        grazing: Surfaces whose normal is this cosine or less from the ray give nothing.
        holes: Share of the picture without depth, in blobs.

    Reference:
        Nguyen, Izadi and Lovell, Modeling Kinect Sensor Noise, 3DIMPVT 2012: noise of
        1.2 mm + 1.9 mm (z - 0.4 m)^2.
    """

    size: tuple[int, int] = (120, 160)
    focal: float = 0.9
    max_depth: float = 4.0
    noise: tuple[float, float] = (0.001, 0.0015)
    step: float = 0.0015
    grazing: float = 0.12
    holes: float = 0.05

    @property
    def intrinsics(self) -> Matrix:
        """Its matrix ``[3, 3]``, pixels."""
        height, width = self.size
        f = self.focal * width
        return np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1.0]])


def scan(
    room: Room,
    pose: ArrayLike,
    sensor: Sensor | None = None,
    rng: np.random.Generator | None = None,
) -> Float:
    """Look into a room with a depth camera.

    Args:
        room: What there is.
        pose: ``[4, 4]``, camera to room; the camera looks along its z, its y points down.
        sensor: The camera.
        rng: Of noise and holes; None is a camera without noise, steps and holes.

    Returns:
        Depth along the optical axis ``[H, W]``, metres, float32; NaN where there is none.

    Example:
        >>> room = make_room(np.random.default_rng(0))
        >>> pose = np.eye(4)
        >>> pose[:3, 3] = room.size / 2
        >>> scan(room, pose, Sensor(size=(3, 4))).shape
        (3, 4)
    """
    sensor = sensor or Sensor()
    at = np.asarray(pose, np.float32)
    height, width = sensor.size
    rays = depth_to_points(np.ones((height, width)), sensor.intrinsics).astype(np.float32)
    lengths = np.linalg.norm(rays, axis=1)
    found, cosine = room.trace(at[:3, 3], (rays / lengths[:, None]) @ at[:3, :3].T)
    depth = (found / lengths).reshape(height, width).astype(np.float32)
    cosine = cosine.reshape(height, width)
    depth[~np.isfinite(depth) | (depth > sensor.max_depth)] = np.nan
    return depth if rng is None else _measured(depth, cosine, sensor, rng)


def _measured(depth: Float, cosine: Float, sensor: Sensor, rng: np.random.Generator) -> Float:
    """Make true depth what a sensor tells."""
    deviation = sensor.noise[0] + sensor.noise[1] * depth**2
    # Neighbouring pixels err alike: they come from one matching window.
    grain = gaussian_filter(rng.standard_normal(depth.shape), 0.6)
    told = depth + deviation * grain / grain.std()
    if sensor.step > 0:  # even steps of the disparity
        told = 1 / (np.round(1 / np.maximum(told, 0.1) / sensor.step) * sensor.step)
    blobs = gaussian_filter(rng.standard_normal(depth.shape), 4.0)
    told[blobs < np.quantile(blobs, sensor.holes)] = np.nan
    told[cosine <= sensor.grazing] = np.nan
    # At a step in depth the camera sees one side with one eye.
    for axis in (0, 1):
        jump = np.abs(np.diff(depth, axis=axis)) > 0.05 * np.delete(depth, 0, axis)
        edge = np.zeros_like(depth, bool)
        np.moveaxis(edge, axis, 0)[1:] = np.moveaxis(jump, axis, 0)
        told[edge & (rng.random(depth.shape) < 0.7)] = np.nan
    return np.asarray(told, np.float32)


@dataclass(frozen=True)
class SyntheticScans:
    """Endless pairs of scans of furnished rooms; item `i` is the same every time.

    Attributes:
        seed: Another seed, other rooms.
        sensor: The camera; its noise and holes vary about what is given.
        length: How many there are said to be.

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
        """Make pair `index`.

        Raises:
            IndexError: It is not from 0 to `length` - 1.
        """
        if not 0 <= index < self.length:
            raise IndexError(f"index must be below {self.length}, got {index}")
        rng = np.random.default_rng([self.seed, index, 3])
        return _overlapping(lambda: self._pair(rng))

    def _pair(self, rng: np.random.Generator) -> ScanPair:
        room = make_room(rng)
        poses = _two_poses(room, rng)
        clouds = []
        for pose in poses:
            strength = rng.uniform(0.2, 1.2)
            sensor = Sensor(
                self.sensor.size,
                self.sensor.focal,
                self.sensor.max_depth,
                (self.sensor.noise[0] * strength, self.sensor.noise[1] * strength),
                self.sensor.step * float(rng.uniform(0, 1)),
                self.sensor.grazing,
                self.sensor.holes * float(rng.uniform(0, 2)),
            )
            depth = scan(room, pose, sensor, rng)
            clouds.append(depth_to_points(depth, sensor.intrinsics))
        return ScanPair(clouds[0], clouds[1], invert_motion(poses[1]) @ poses[0])


def _overlapping(draw: Callable[[], ScanPair]) -> ScanPair:
    """Draw until a pair overlaps; return it, or of all the one that does most."""
    best: tuple[float, ScanPair] | None = None
    for _ in range(_TRIES):
        pair = draw()
        share = overlap(pair)
        if best is None or share > best[0]:
            best = share, pair
        if share >= _OVERLAP:
            break
    assert best is not None
    return best[1]


def _two_poses(room: Room, rng: np.random.Generator) -> tuple[Matrix, Matrix]:
    """Stand two cameras where nothing is, both looking at much the same."""
    aim = np.array([*(room.size[:2] * rng.uniform(0.25, 0.75, 2)), rng.uniform(0.2, 1.0)])
    if len(room.solids) > 2:
        chosen = room.solids[int(rng.integers(2, len(room.solids)))]
        aim = chosen.middle + np.array([0, 0, rng.uniform(0.2, 0.8)])
    first = _free_place(room, aim, 1.6, rng)
    second = _free_place(room, first, 0.6, rng)
    aims = aim, aim + rng.normal(0, 0.25, 3)
    poses = [_look(eye, at, rng) for eye, at in zip((first, second), aims, strict=True)]
    return poses[0], poses[1]


def _free_place(
    room: Room, near: NDArray[np.floating], spread: float, rng: np.random.Generator
) -> Points:
    """Find a place for a camera about `spread` from another place."""
    drawn = near + spread * rng.normal(size=(256, 3)) * [1, 1, 0.4]
    drawn[:, 2] = np.clip(drawn[:, 2], 0.7, 1.9)
    drawn = np.clip(drawn, 0.2, room.size - 0.2)
    far = np.linalg.norm(drawn - near, axis=1) > 0.4 * spread
    free = far & (room.distance(drawn.astype(np.float32)) > _CLEAR)
    chosen: Points = drawn[int(free.argmax())] if free.any() else room.size / 2 + 0.1
    return chosen


def _look(eye: Points, aim: NDArray[np.floating], rng: np.random.Generator) -> Matrix:
    ahead = (aim - eye) / max(float(np.linalg.norm(aim - eye)), 1e-6)
    right = np.cross(ahead, [0, 0, 1.0])
    size = float(np.linalg.norm(right))
    right = right / size if size > 1e-3 else np.array([1.0, 0, 0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(ahead, right), ahead], axis=1)
    pose[:3, :3] @= Rotation.from_euler("z", rng.normal(0, 0.2)).as_matrix()
    pose[:3, 3] = eye
    return pose


def overlap(pair: ScanPair) -> float:
    """Return the share of the source that the target shows too, within 5 cm."""
    moved = transform_points(pair.motion, voxel_down(pair.source, _SHARED))
    if len(moved) == 0 or len(pair.target) == 0:
        return 0.0
    near = cKDTree(pair.target).query(moved, distance_upper_bound=_SHARED)[0]
    return float(np.isfinite(near).mean())


class PosedScans:
    """Pairs of frames of an RGB-D camera whose poses are known; item `i` is always the same.

    Args:
        folder: With ``depth/*.png`` (16 bits, millimetres), ``poses.txt`` (a name and a row-major
            4 x 4 camera-to-world matrix in each line) and ``intrinsics.txt``.
        apart: Fewest and most frames between the two.
        seed: Of the choice.
        length: How many there are said to be.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: There are fewer than two frames.
    """

    def __init__(
        self,
        folder: str | Path,
        apart: tuple[int, int] = (1, 8),
        *,
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        self.folder, self.apart, self.seed, self.length = Path(folder), apart, seed, length
        self.poses = read_poses(self.folder)
        self.intrinsics = read_intrinsics(self.folder / "intrinsics.txt")
        if len(self.poses) < 2:
            raise ValueError(f"{folder}: expected two frames with poses, got {len(self.poses)}")

    def __len__(self) -> int:
        """Return how many there are said to be."""
        return self.length

    def __getitem__(self, index: int) -> ScanPair:
        """Read pair `index`: one that overlaps, or of 20 the one that does most."""
        if not 0 <= index < self.length:
            raise IndexError(f"index must be below {self.length}, got {index}")
        rng = np.random.default_rng([self.seed, index, 4])
        return _overlapping(lambda: self._pair(rng))

    def _pair(self, rng: np.random.Generator) -> ScanPair:
        count = len(self.poses)
        first = int(rng.integers(count))
        off = int(rng.integers(self.apart[0], self.apart[1] + 1)) * (
            1 if rng.random() < 0.5 else -1
        )
        second = first + off if 0 <= first + off < count else (first + 1) % count
        (a, pose_a), (b, pose_b) = self.poses[first], self.poses[second]
        source, target = (
            depth_to_points(read_depth(self.folder / "depth" / f"{name}.png"), self.intrinsics)
            for name in (a, b)
        )
        return ScanPair(source, target, invert_motion(pose_b) @ pose_a)
