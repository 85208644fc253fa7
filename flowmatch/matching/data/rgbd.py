"""Pairs of patches from an RGB-D camera: depth and poses say which point is which in two frames."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch.geometry import depths_agree, unproject
from flowmatch.imaging import as_gray
from flowmatch.io import IMAGE_SUFFIXES, read_depth, read_image, read_intrinsics, read_poses
from flowmatch.matching.keypoints import Keypoints, detect_keypoints
from flowmatch.matching.synthetic.pool import FEWEST, PatchPool, Views, shared_points
from flowmatch.matching.synthetic.views import Gray, apply_camera_noise, carry_keypoints

# Cameras of a pair: at most so far apart, at most so far turned (the cosine of 40 degrees).
_MOVED, _TURNED = 0.8, np.cos(np.deg2rad(40))
_ATTEMPTS = 24
_STEP = 4  # pixels to each side, over which a surface is taken for flat
_BEND = 0.02  # of the depth, by how much it may not be
_STEEPEST = 0.15  # smallest stretch of a surface seen from the side; less is a line


class Frame(NamedTuple):
    """What an RGB-D camera saw from where.

    Attributes:
        gray: ``[H, W]``.
        depth: ``[H, W]``, metres along the optical axis, NaN where it is unknown.
        pose: ``[4, 4]``, camera to world, metres.
    """

    gray: Gray
    depth: NDArray[np.float32]
    pose: NDArray[np.float64]


@dataclass(frozen=True)
class PosedPatches(PatchPool):
    """Pairs of frames of an RGB-D camera that show the same points from two sides.

    Attributes:
        folder: With ``color/NAME.jpg`` (or another picture), ``depth/NAME.png`` (16 bits,
            millimetres, registered to the colour), ``poses.txt`` and ``intrinsics.txt``.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: There are fewer than two frames, or a file is damaged.
    """

    folder: Path
    _poses: list[tuple[str, NDArray[np.float64]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a folder without frames, before anything is computed."""
        super().__post_init__()
        poses = read_poses(self.folder)
        if len(poses) < 2:
            raise ValueError(f"{self.folder}: expected frames with poses, got {len(poses)}")
        object.__setattr__(self, "_poses", poses)

    def views(self, number: int) -> Views:
        """Read pair of frames `number`; repeatable, and not kept.

        Raises:
            ValueError: No two frames have points in common, or a file is damaged.
        """
        camera = read_intrinsics(self.folder / "intrinsics.txt")
        poses = np.stack([pose for _, pose in self._poses])
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([self.seed, 3, number, attempt])
            one = int(rng.integers(len(poses)))
            near = _near(poses, one)
            if len(near):
                other = int(rng.choice(near))
                first, second = (self._frame(*self._poses[k]) for k in (one, other))
                views = _views(rng, first, second, camera)
                if len(views.place) >= FEWEST:
                    return views
        raise ValueError(
            f"{self.folder}: expected frames that show the same, from cameras that are close: "
            f"{_ATTEMPTS} random ones had fewer than {FEWEST} keypoints in common with another"
        )

    def _frame(self, name: str, pose: NDArray[np.float64]) -> Frame:
        files = [self.folder / "color" / f"{name}{suffix}" for suffix in IMAGE_SUFFIXES]
        picture = next((file for file in files if file.is_file()), files[0])
        gray = as_gray(read_image(picture))
        depth = read_depth(self.folder / "depth" / f"{name}.png")
        if gray.shape != depth.shape:
            raise ValueError(
                f"{picture}: expected a picture as large as its depth, {depth.shape}, "
                f"got {gray.shape}"
            )
        return Frame(gray, depth, pose)


def _near(poses: NDArray[np.float64], one: int) -> NDArray[np.int64]:
    """Return which other cameras stand and look as one does."""
    apart = np.linalg.norm(poses[:, :3, 3] - poses[one, :3, 3], axis=1)
    near = (apart <= _MOVED) & (poses[:, :3, 2] @ poses[one, :3, 2] >= _TURNED)
    near[one] = False
    return np.flatnonzero(near)


def _views(
    rng: np.random.Generator, first: Frame, second: Frame, camera: NDArray[np.float64]
) -> Views:
    images = apply_camera_noise(rng, first.gray), apply_camera_noise(rng, second.gray)
    found = [detect_keypoints(image, keypoints=1000) for image in images]
    there, inside = reproject(found[0], first, second, camera)
    which, others = shared_points(rng, there, found[1], inside)
    keypoints = found[0].select(which)
    z = _depth_at(first.depth, keypoints.xy)
    world = unproject(keypoints.xy, z, camera) @ first.pose[:3, :3].T + first.pose[:3, 3]
    size = keypoints.scale * z / camera[0, 0]
    place = np.column_stack([np.zeros(len(z)), 100 * world, 100 * size]).astype(np.float32)
    return Views(images, (keypoints, others), place)


def reproject(
    keypoints: Keypoints, first: Frame, second: Frame, camera: NDArray[np.float64]
) -> tuple[Keypoints, NDArray[np.bool_]]:
    """Find where a second frame shows keypoints of a first one, and whether it does.

    The surface around a keypoint is taken for flat, over 4 pixels to each side; where its depth
    bends more than 2 percent, or is not known, nothing is said.

    Args:
        keypoints: N of the first frame.
        first: Its picture, depth and pose.
        second: Those of the other.
        camera: Intrinsics ``[3, 3]`` of both.

    Returns:
        Keypoints of the second frame, and ``[N]`` bool: which of them mean anything, because it
        shows the same surface there.
    """
    motion = np.linalg.inv(second.pose) @ first.pose
    right, down = np.array([_STEP, 0], np.float32), np.array([0, _STEP], np.float32)
    spots = [keypoints.xy + off for off in (0 * right, right, -right, down, -down)]
    depths = np.stack([_depth_at(first.depth, xy) for xy in spots])
    seen = [
        _project(unproject(xy, z, camera), motion, camera)
        for xy, z in zip(spots, depths, strict=True)
    ]
    bend = np.abs(depths[[1, 3]] + depths[[2, 4]] - 2 * depths[0]).max(axis=0)
    columns = [(seen[k][0] - seen[k + 1][0]) / (2 * _STEP) for k in (1, 3)]
    jacobian = np.stack(columns, axis=2)
    points, z = seen[0]
    measured = _depth_at(second.depth, points)
    with np.errstate(invalid="ignore"):  # unknown depths are NaN, and no comparison holds
        inside = (bend < _BEND * depths[0]) & (z > 0)
        inside &= depths_agree(measured, z)
        inside &= np.linalg.svd(np.nan_to_num(jacobian), compute_uv=False)[:, 1] > _STEEPEST
    jacobian[~inside], points[~inside] = np.eye(2), 0
    return carry_keypoints(keypoints, points, jacobian), inside


def _depth_at(depth: NDArray[np.float32], xy: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the depth at the nearest pixels, ``[N]``; NaN where it is unknown, or outside."""
    H, W = depth.shape
    x, y = np.rint(np.nan_to_num(xy, nan=-1, posinf=-1, neginf=-1).clip(-1, max(H, W)).T).astype(
        int
    )
    inside = (x >= 0) & (x < W) & (y >= 0) & (y < H)
    return np.where(inside, depth[y.clip(0, H - 1), x.clip(0, W - 1)], np.nan).astype(np.float64)


def _project(
    points: NDArray[np.float64], motion: NDArray[np.float64], camera: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return pixels ``[N, 2]`` and depths ``[N]`` of points after a motion."""
    moved = (points @ motion[:3, :3].T + motion[:3, 3]) @ camera.T
    z = moved[:, 2]
    with np.errstate(invalid="ignore"):
        front = np.where(z > 1e-6, z, np.nan)
    return moved[:, :2] / front[:, None], z
