"""Patch pairs from the frames of an RGB-D camera: depth and poses give the correspondences."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch.geometry import depths_agree, unproject
from flowmatch.imaging import Image, as_gray
from flowmatch.io import read_depth, read_image, read_intrinsics, read_poses
from flowmatch.io.image import READ_SUFFIXES
from flowmatch.matching.keypoints import Keypoints, detect_keypoints
from flowmatch.matching.synthetic.pool import MIN_POINTS, PatchPool, Views, shared_points
from flowmatch.matching.synthetic.views import apply_camera_noise, transform_keypoints

# Largest distance of the cameras of a pair in metres, and cosine of the largest rotation.
_MAX_TRANSLATION, _MIN_COSINE = 0.8, np.cos(np.deg2rad(40))
_ATTEMPTS = 24
_STEP = 4  # pixels to each side over which a surface must be flat
_MAX_BEND = 0.02  # largest deviation from flat, as a share of the depth
_MIN_STRETCH = 0.15  # smallest singular value of the Jacobian; below, the surface is seen edge-on


class Frame(NamedTuple):
    """Frame of an RGB-D camera.

    Attributes:
        gray: Gray image ``[H, W]``.
        depth: Depth ``[H, W]``, metres along the optical axis; NaN where it is unknown.
        pose: Camera-to-world transform ``[4, 4]``, metres.
    """

    gray: Image
    depth: NDArray[np.float32]
    pose: NDArray[np.float64]


@dataclass(frozen=True)
class PosedPatches(PatchPool):
    """Patch pairs from frames of an RGB-D camera that show the same points.

    Attributes:
        folder: Folder with ``color/NAME.jpg`` (or another image format), ``depth/NAME.png`` (16
            bits, millimetres, registered to the colour), ``poses.txt`` and ``intrinsics.txt``.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: There are fewer than two frames, or a file is damaged.
    """

    folder: Path
    _poses: list[tuple[str, NDArray[np.float64]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the poses, and check that there are at least two frames."""
        super().__post_init__()
        poses = read_poses(self.folder)
        if len(poses) < 2:
            raise ValueError(f"{self.folder}: expected frames with poses, got {len(poses)}")
        object.__setattr__(self, "_poses", poses)

    def views(self, number: int) -> Views:
        """Read pair of frames `number`, always the same; it is not cached.

        Raises:
            ValueError: No two frames have points in common, or a file is damaged.
        """
        camera = read_intrinsics(self.folder / "intrinsics.txt")
        poses = np.stack([pose for _, pose in self._poses])
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([self.seed, 3, number, attempt])
            index = int(rng.integers(len(poses)))
            near = _near_cameras(poses, index)
            if len(near):
                other = int(rng.choice(near))
                first, second = (self._frame(*self._poses[k]) for k in (index, other))
                views = _views(rng, first, second, camera)
                if len(views.location) >= MIN_POINTS:
                    return views
        raise ValueError(
            f"{self.folder}: expected frames with overlapping views: {_ATTEMPTS} random pairs had "
            f"fewer than {MIN_POINTS} keypoints in common"
        )

    def _frame(self, name: str, pose: NDArray[np.float64]) -> Frame:
        files = [self.folder / "color" / f"{name}{suffix}" for suffix in READ_SUFFIXES]
        path = next((file for file in files if file.is_file()), files[0])
        gray = as_gray(read_image(path))
        depth = read_depth(self.folder / "depth" / f"{name}.png")
        if gray.shape != depth.shape:
            raise ValueError(
                f"{path}: expected an image of the size of its depth, {depth.shape}, "
                f"got {gray.shape}"
            )
        return Frame(gray, depth, pose)


def _near_cameras(poses: NDArray[np.float64], index: int) -> NDArray[np.int64]:
    """Return the other cameras with about the same position and viewing direction."""
    distance = np.linalg.norm(poses[:, :3, 3] - poses[index, :3, 3], axis=1)
    cosine = poses[:, :3, 2] @ poses[index, :3, 2]
    near = (distance <= _MAX_TRANSLATION) & (cosine >= _MIN_COSINE)
    near[index] = False
    return np.flatnonzero(near)


def _views(
    rng: np.random.Generator, first: Frame, second: Frame, camera: NDArray[np.float64]
) -> Views:
    images = apply_camera_noise(rng, first.gray), apply_camera_noise(rng, second.gray)
    detected = [detect_keypoints(image, keypoints=1000) for image in images]
    expected, visible = reproject(detected[0], first, second, camera)
    chosen, others = shared_points(rng, expected, detected[1], visible)
    keypoints = detected[0].select(chosen)
    z = _depth_at(first.depth, keypoints.xy)
    world = unproject(keypoints.xy, z, camera) @ first.pose[:3, :3].T + first.pose[:3, 3]
    size = keypoints.scale * z / camera[0, 0]
    location = np.column_stack([np.zeros(len(z)), 100 * world, 100 * size]).astype(np.float32)
    return Views(images, (keypoints, others), location)


def reproject(
    keypoints: Keypoints, first: Frame, second: Frame, camera: NDArray[np.float64]
) -> tuple[Keypoints, NDArray[np.bool_]]:
    """Reproject keypoints of one frame to another.

    The surface around a keypoint must be flat over 4 pixels to each side: keypoints whose depth is
    unknown or bends by more than 2 percent are marked invalid.

    Args:
        keypoints: N keypoints of the first frame.
        first: First frame.
        second: Second frame.
        camera: Intrinsics ``[3, 3]`` of both frames.

    Returns:
        Keypoints of the second frame, and ``[N]`` bool, which of them are valid: the second frame
        shows the same surface there.
    """
    motion = np.linalg.inv(second.pose) @ first.pose
    right, down = np.array([_STEP, 0], np.float32), np.array([0, _STEP], np.float32)
    stencil = [keypoints.xy + step for step in (0 * right, right, -right, down, -down)]
    depths = np.stack([_depth_at(first.depth, xy) for xy in stencil])
    projected = [
        _project(unproject(xy, z, camera), motion, camera)
        for xy, z in zip(stencil, depths, strict=True)
    ]
    bend = np.abs(depths[[1, 3]] + depths[[2, 4]] - 2 * depths[0]).max(axis=0)
    columns = [(projected[k][0] - projected[k + 1][0]) / (2 * _STEP) for k in (1, 3)]
    jacobian = np.stack(columns, axis=2)
    points, z = projected[0]
    measured = _depth_at(second.depth, points)
    with np.errstate(invalid="ignore"):  # comparisons with unknown depths, NaN, are false
        valid = (bend < _MAX_BEND * depths[0]) & (z > 0)
        valid &= depths_agree(measured, z)
        valid &= np.linalg.svd(np.nan_to_num(jacobian), compute_uv=False)[:, 1] > _MIN_STRETCH
    jacobian[~valid], points[~valid] = np.eye(2), 0
    return transform_keypoints(keypoints, points, jacobian), valid


def _depth_at(depth: NDArray[np.float32], xy: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the depth at the nearest pixels, ``[N]``; NaN where it is unknown and outside."""
    H, W = depth.shape
    x, y = np.rint(np.nan_to_num(xy, nan=-1, posinf=-1, neginf=-1).clip(-1, max(H, W)).T).astype(
        int
    )
    inside = (x >= 0) & (x < W) & (y >= 0) & (y < H)
    return np.where(inside, depth[y.clip(0, H - 1), x.clip(0, W - 1)], np.nan).astype(np.float64)


def _project(
    points: NDArray[np.float64], motion: NDArray[np.float64], camera: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the pixels ``[N, 2]`` and depths ``[N]`` of points after a rigid motion."""
    moved = (points @ motion[:3, :3].T + motion[:3, 3]) @ camera.T
    z = moved[:, 2]
    with np.errstate(invalid="ignore"):
        front = np.where(z > 1e-6, z, np.nan)
    return moved[:, :2] / front[:, None], z
