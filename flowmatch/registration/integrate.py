"""Depth pictures with known poses, fused into fragments of a surface."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from flowmatch.io import read_depth, read_intrinsics, read_poses, write_cloud
from flowmatch.registration.data.datasets import Entry, write_log
from flowmatch.registration.evaluation.metrics import pair_information
from flowmatch.registration.icp import Matrix, inverse, move
from flowmatch.registration.keypoints import voxel_down
from flowmatch.registration.tsdf import Surface, Volume

_LEAST_OVERLAP = 0.3  # of the points, within 3 cm: pairs that the benchmark asks for
_SHARED = 0.03


class Fragment(NamedTuple):
    """A piece of a scene, fused from some frames."""

    surface: Surface
    """In the frame of its first camera."""
    pose: Matrix
    """``[4, 4]``, that camera to world."""
    frames: list[str]


def fuse(
    folder: str | Path,
    *,
    frames: int | None = 50,
    voxel: float = 0.01,
    truncation: float = 4.0,
    reach: float = 4.0,
    unit: float = 0.001,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Fragment]:
    """Fuse the frames of an RGB-D camera into fragments, some frames each.

    Args:
        folder: With ``depth/*.png``, ``poses.txt`` (a name and a row-major 4 x 4 camera-to-world
            matrix in each line) and ``intrinsics.txt``.
        frames: In a fragment, None for all; the last takes what is left, if that is half as many
            or more.
        voxel: Of the volume, metres.
        truncation: As in `Volume`.
        reach: Depth beyond which nothing is believed, metres.
        unit: Metres that 1 in a depth picture is.
        progress: Called with how many frames are done, and of how many.

    Returns:
        Fragments, each in the frame of its first camera.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: There are no frames, or no surface in them, a file is damaged, or an argument
            is out of range.

    Reference:
        Zeng et al., 3DMatch, CVPR 2017, section 5.2: fragments of 50 frames.
    """
    place = Path(folder)
    poses, camera = read_poses(place), read_intrinsics(place / "intrinsics.txt")
    frames = len(poses) if frames is None else frames
    if not poses or frames < 1 or not reach > 0:
        raise ValueError(
            f"{folder}: frames with poses, a positive number of them for a fragment and a positive "
            f"reach are needed, got {len(poses)}, {frames} and {reach}"
        )
    starts = [k for k in range(0, len(poses), frames) if k == 0 or 2 * (len(poses) - k) >= frames]
    fragments, done = [], 0
    total = sum(len(poses[start : start + frames]) for start in starts)
    for start in starts:
        part = poses[start : start + frames]
        volume, origin = Volume(voxel, truncation), part[0][1]
        for name, pose in part:
            depth = read_depth(place / "depth" / f"{name}.png", unit)
            depth[depth > reach] = np.nan
            volume.add(depth, camera, inverse(origin) @ pose)
            done += 1
            progress(done, total)
        fragments.append(Fragment(volume.surface(), origin, [name for name, _ in part]))
    if not any(len(fragment.surface.points) for fragment in fragments):
        raise ValueError(
            f"{folder}: its {done} frames show no surface within {reach:g} m, "
            f"where 1 in a depth picture is {unit:g} m"
        )
    return fragments


def write_fragments(folder: str | Path, fragments: Sequence[Fragment]) -> None:
    """Write fragments and the motions between those that overlap by 30 % of either.

    Args:
        folder: Gets ``cloud_bin_0.ply``, ..., ``gt.log`` and ``gt.info``, the layout of the
            3DMatch benchmark; it is made if it is not there. Fragments and motions that lie there
            from a run before are replaced, all of them.
        fragments: From `fuse`.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    # A run cut short leaves no gt.log, without which nothing reads the folder as a scene.
    for name in ("gt.log", "gt.info"):
        (place / name).unlink(missing_ok=True)
    for file in place.glob("cloud_bin_*.ply"):
        number = file.stem.removeprefix("cloud_bin_")
        if number.isdecimal() and int(number) >= len(fragments):
            file.unlink()
    for k, fragment in enumerate(fragments):
        write_cloud(place / f"cloud_bin_{k}.ply", fragment.surface.points.astype(np.float32))
    coarse = [voxel_down(fragment.surface.points, 0.05) for fragment in fragments]
    trees = [cKDTree(fragment.surface.points) for fragment in fragments]
    motions, information = [], []
    for i in range(len(fragments)):
        for j in range(i + 1, len(fragments)):
            motion = inverse(fragments[i].pose) @ fragments[j].pose
            ends = (coarse[j], motion, trees[i]), (coarse[i], inverse(motion), trees[j])
            near = [
                np.isfinite(tree.query(move(way, points), distance_upper_bound=_SHARED)[0])
                for points, way, tree in ends
            ]
            if max((part.mean() for part in near if len(part)), default=0.0) >= _LEAST_OVERLAP:
                motions.append(Entry(i, j, len(fragments), motion))
                shared = pair_information(coarse[j][near[0]])
                information.append(Entry(i, j, len(fragments), shared))
    write_log(place / "gt.info", information)
    write_log(place / "gt.log", motions)
