"""Depth images with known poses, integrated into fragments of a surface."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from flowmatch.geometry import Matrix, invert_motion, transform_points
from flowmatch.io import read_depth, read_intrinsics, read_poses, write_cloud
from flowmatch.io._lock import only_writer
from flowmatch.progress import ProgressCallback
from flowmatch.registration.agreement import pair_information
from flowmatch.registration.data.datasets import LogEntry, write_log
from flowmatch.registration.keypoints import voxel_down
from flowmatch.registration.volume.appearance import colour_surface, share_seen_through
from flowmatch.registration.volume.mesh import Mesh, extract_mesh, part_sizes, select_vertices
from flowmatch.registration.volume.tsdf import Surface, TSDFVolume

_MIN_OVERLAP = 0.3  # share of points within 3 cm: pairs that the benchmark evaluates
_SHARED = 0.03
_CONNECTED = 2  # voxels: side of the cells in which points are connected


class Fragment(NamedTuple):
    """A fragment of a scene, integrated from consecutive frames.

    Attributes:
        surface: Surface in the frame of the first camera.
        pose: ``[4, 4]``, first camera to world.
        frames: Names of the frames.
        colours: RGB ``[N, 3]`` of the surface's points; None without pictures.
        faces: Triangles ``[F, 3]`` of the surface's points; None without a mesh.
        contradiction: Share of a frame's points that lie where the next frame saw free space, the
            median over frames: about 0 if poses and units are right.
    """

    surface: Surface
    pose: Matrix
    frames: list[str]
    colours: NDArray[np.uint8] | None = None
    faces: NDArray[np.int64] | None = None
    contradiction: float = 0.0


def integrate_depth(
    folder: str | Path,
    *,
    frames: int | None = 50,
    voxel: float = 0.01,
    truncation: float = 4.0,
    max_depth: float = 4.0,
    unit: float = 0.001,
    mesh: bool = False,
    min_points: int = 0,
    progress: ProgressCallback | None = None,
) -> list[Fragment]:
    """Integrate the depth images of an RGB-D camera into surface fragments.

    Args:
        folder: Folder with ``depth/*.png``, ``poses.txt`` (a name and a row-major 4 x 4
            camera-to-world matrix in each line) and ``intrinsics.txt``; and for colours pictures
            ``color/NAME.*`` of the same views, in any size.
        frames: Number of frames per fragment; None takes all. The last fragment takes the
            remaining frames if they are at least half as many.
        voxel: Side of the volume's voxels, metres.
        truncation: Truncation distance of the volume, in voxels; see `TSDFVolume`.
        max_depth: Depth beyond which measurements are ignored, metres.
        unit: Metres per unit of the depth images.
        mesh: Whether surfaces are triangle meshes, by marching cubes.
        min_points: Number of points that a connected part of a surface must have: smaller ones
            are specks, and left out.
        progress: Called with the stage ``"integrate"`` and the number of frames done.

    Returns:
        Fragments, each in the frame of its first camera.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: There are no frames or no surface, a file is damaged, or an argument is out of
            range.
        ImportError: `mesh`, and scikit-image is not installed.

    Reference:
        Zeng et al., 3DMatch, CVPR 2017, section 5.2: fragments of 50 frames.
    """
    root = Path(folder)
    poses, camera = read_poses(root), read_intrinsics(root / "intrinsics.txt")
    frames = len(poses) if frames is None else frames
    if not poses or frames < 1 or not max_depth > 0:
        raise ValueError(
            f"{folder}: frames with poses, a positive number of frames per fragment and a positive "
            f"max_depth are needed, got {len(poses)}, {frames} and {max_depth}"
        )
    starts = [k for k in range(0, len(poses), frames) if k == 0 or 2 * (len(poses) - k) >= frames]
    fragments, done = [], 0
    total = sum(len(poses[start : start + frames]) for start in starts)
    for start in starts:
        part = poses[start : start + frames]
        volume, origin = TSDFVolume(voxel, truncation), part[0][1]
        before: tuple[NDArray[np.float32], Matrix] | None = None
        free: list[float] = []
        for name, pose in part:
            depth = read_depth(root / "depth" / f"{name}.png", unit, max_depth)
            volume.add(depth, camera, invert_motion(origin) @ pose)
            if before is not None:
                motion = invert_motion(before[1]) @ pose
                free.append(
                    share_seen_through(depth, before[0], motion, camera, truncation * voxel)
                )
            before = depth, pose
            done += 1
            if progress is not None:
                progress("integrate", done, total)
        moved = [(name, invert_motion(origin) @ pose) for name, pose in part]
        shape = (
            extract_mesh(volume) if mesh else Mesh(*volume.surface(), np.zeros((0, 3), np.int64))
        )
        if min_points > 1:
            kept = part_sizes(shape.points, _CONNECTED * voxel) >= min_points
            shape = select_vertices(shape, kept)
        colours = colour_surface(
            root,
            moved,
            camera,
            shape.points,
            shape.normals,
            band=truncation * voxel / 2,
            unit=unit,
            max_depth=max_depth,
        )
        fragments.append(
            Fragment(
                Surface(shape.points, shape.normals),
                origin,
                [name for name, _ in part],
                colours,
                shape.faces if mesh else None,
                float(np.nanmedian(free)) if np.isfinite(free).any() else 0.0,
            )
        )
    if not any(len(fragment.surface.points) for fragment in fragments):
        raise ValueError(
            f"{folder}: its {done} frames show no surface within {max_depth:g} m, "
            f"where 1 in a depth image is {unit:g} m"
        )
    return fragments


def write_fragments(folder: str | Path, fragments: Sequence[Fragment]) -> None:
    """Write fragments and the motions between those that overlap by 30 % of either.

    Args:
        folder: Folder for ``cloud_bin_0.ply``, ..., ``gt.log`` and ``gt.info``, the layout of the
            3DMatch benchmark; it is created if missing. Fragments and motions of an earlier run
            are replaced.
        fragments: Fragments from `integrate_depth`.

    Raises:
        BlockingIOError: Another run is writing to the folder.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    with only_writer(root / "gt.log"):
        _write_scene(root, fragments)


def _write_scene(root: Path, fragments: Sequence[Fragment]) -> None:
    # An interrupted run leaves no gt.log, without which the folder is not read as a scene.
    for name in ("gt.log", "gt.info"):
        (root / name).unlink(missing_ok=True)
    for file in root.glob("cloud_bin_*.ply"):
        number = file.stem.removeprefix("cloud_bin_")
        if number.isdecimal() and int(number) >= len(fragments):
            file.unlink()
    for k, fragment in enumerate(fragments):
        points = fragment.surface.points.astype(np.float32)
        write_cloud(
            root / f"cloud_bin_{k}.ply",
            points,
            fragment.colours,
            normals=fragment.surface.normals,
        )
    coarse = [voxel_down(fragment.surface.points, 0.05) for fragment in fragments]
    trees = [cKDTree(fragment.surface.points) for fragment in fragments]
    motions, information = [], []
    for i in range(len(fragments)):
        for j in range(i + 1, len(fragments)):
            motion = invert_motion(fragments[i].pose) @ fragments[j].pose
            ends = (coarse[j], motion, trees[i]), (coarse[i], invert_motion(motion), trees[j])
            shared = [
                np.isfinite(
                    tree.query(transform_points(way, points), distance_upper_bound=_SHARED)[0]
                )
                for points, way, tree in ends
            ]
            if max((part.mean() for part in shared if len(part)), default=0.0) >= _MIN_OVERLAP:
                motions.append(LogEntry(i, j, len(fragments), motion))
                matrix = pair_information(coarse[j][shared[0]])
                information.append(LogEntry(i, j, len(fragments), matrix))
    write_log(root / "gt.info", information)
    write_log(root / "gt.log", motions)
