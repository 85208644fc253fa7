"""Fragment pairs with known motions: the 3DMatch benchmark, posed depth frames, single pairs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch.geometry import invert_motion
from flowmatch.io import (
    CLOUD_SUFFIXES,
    depth_to_points,
    read_cloud,
    read_depth,
    read_intrinsics,
    read_poses,
    replace_when_done,
)
from flowmatch.io._files import reason_of
from flowmatch.io._npy import read_npy_header

Points = NDArray[np.float64]
_MAX_BYTES = 2**26


class FragmentPair(NamedTuple):
    """Two fragments and the motion between them.

    Attributes:
        name: Name of the pair.
        scene: Name of the scene.
        source: Function that reads the source ``[N, 3]``, metres.
        target: Function that reads the target.
        truth: True motion ``[4, 4]``, source to target; None for fragments without overlap.
        information: Information matrix ``[6, 6]`` of ``gt.info``; None if it must be computed from
            the overlap.
        listed: Whether only overlapping pairs have a true motion, as in the benchmark.
        neighbours: Whether the fragments are consecutive; the benchmark's registration recall
            excludes these.
        viewpoints: Whether each fragment's sensor was at its origin.
    """

    name: str
    scene: str
    source: Callable[[], Points]
    target: Callable[[], Points]
    truth: NDArray[np.float64] | None
    information: NDArray[np.float64] | None
    listed: bool
    neighbours: bool
    viewpoints: bool


class PosedScan(NamedTuple):
    """A scan and its pose.

    Attributes:
        scene: Name of the scene.
        name: Name of the scan in the scene.
        read: Function that reads the points ``[N, 3]``, metres.
        pose: ``[4, 4]``, scan to scene.
    """

    scene: str
    name: str
    read: Callable[[], Points]
    pose: NDArray[np.float64]


class LogEntry(NamedTuple):
    """An entry of a ``.log`` or ``.info`` file.

    Attributes:
        first: Number of the first fragment.
        second: Number of the second fragment.
        total: Number of fragments in the scene.
        matrix: In ``gt.log`` the motion from the second to the first fragment, ``[4, 4]``; in
            ``gt.info`` the information matrix, ``[6, 6]``.
    """

    first: int
    second: int
    total: int
    matrix: NDArray[np.float64]


def read_log(path: str | Path, size: int = 4) -> list[LogEntry]:
    """Read ``gt.log``, or ``gt.info`` with `size` 6: blocks of three numbers and a matrix.

    Args:
        path: The file.
        size: Rows and columns of each matrix.

    Returns:
        Entries in the order of the file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file has another format.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "gt.log"
        >>> text = "0 2 60" + chr(10) + chr(10).join(["1 0 0 0", "0 1 0 0", "0 0 1 0", "0 0 0 1"])
        >>> _ = path.write_text(text)
        >>> read_log(path)[0].second
        2

    Reference:
        The trajectory format of Choi, Zhou and Koltun, also used by 3DMatch.
    """
    path = Path(path)
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path}: expected at most {_MAX_BYTES} bytes, got {path.stat().st_size}")
    try:
        numbers = np.array(path.read_text("latin1").split(), np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: expected numbers: {reason_of(error)}") from error
    step = 3 + size * size
    if len(numbers) % step or not np.isfinite(numbers).all():
        raise ValueError(
            f"{path}: expected three numbers and a {size} x {size} matrix for each pair, "
            f"got {len(numbers)} numbers"
        )
    rows = numbers.reshape(-1, step)
    if (rows[:, :3] < 0).any() or (rows[:, :3] % 1 != 0).any():
        raise ValueError(
            f"{path}: expected two fragments and their total number before each matrix"
        )
    return [
        LogEntry(int(r[0]), int(r[1]), int(r[2]), r[3:].reshape(size, size).copy()) for r in rows
    ]


def write_log(path: str | Path, entries: Sequence[LogEntry]) -> None:
    """Write ``gt.log`` or ``gt.info`` in the format of `read_log`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "gt.log"
        >>> write_log(path, [LogEntry(0, 2, 60, np.eye(4))])
        >>> read_log(path)[0].total
        60
    """
    lines = []
    for first, second, total, matrix in entries:
        lines.append(f"{first}\t{second}\t{total}")
        lines += ["\t".join(f"{value:.10g}" for value in row) for row in matrix.tolist()]
    with replace_when_done(Path(path)) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines))


def find_fragments(folder: str | Path, *, max_depth: float | None = None) -> list[FragmentPair]:
    """Find pairs of fragments with known motions.

    Three layouts are supported: scenes of the 3DMatch benchmark (``cloud_bin_0.ply``, ... with
    ``gt.log`` and optionally ``gt.info`` in the same folder, or in one with the same name and
    ``-evaluation``); depth frames (``depth/*.png``, ``poses.txt``, ``intrinsics.txt``); or
    ``src.*``, ``ref.*``, ``gt.npy``.

    Args:
        folder: Folder with one of these layouts, or with subfolders that have one.
        max_depth: Depth of frames beyond which measurements are ignored, metres; None keeps all.

    Returns:
        Pairs, scene by scene.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The folder has none of these layouts, a file is damaged, or `max_depth` is not
            positive.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    if max_depth is not None and not max_depth > 0:
        raise ValueError(f"max_depth must be a positive number of metres, got {max_depth}")
    pairs: list[FragmentPair] = []
    for scene in [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]:
        pairs += _find_in_scene(scene, max_depth)
    if not pairs:
        raise ValueError(
            f"{folder}: expected 3DMatch scenes (cloud_bin_*.ply and gt.log), depth frames "
            "(depth/, poses.txt, intrinsics.txt) or src.*, ref.* and gt.npy; found none"
        )
    return pairs


def _find_in_scene(folder: Path, max_depth: float | None) -> list[FragmentPair]:
    evaluation = folder.with_name(f"{folder.name}-evaluation")
    for logs in (folder, evaluation):
        if (logs / "gt.log").is_file() and (folder / "cloud_bin_0.ply").is_file():
            return _benchmark(folder, logs)
    if (folder / "poses.txt").is_file() and (folder / "intrinsics.txt").is_file():
        return _frames(folder, max_depth)
    ends = [
        next((path for s in CLOUD_SUFFIXES if (path := folder / f"{n}{s}").is_file()), None)
        for n in ("src", "ref")
    ]
    if (folder / "gt.npy").is_file() and ends[0] and ends[1]:
        truth = _read_motion(folder / "gt.npy")
        source, target = _reader(ends[0]), _reader(ends[1])
        return [
            FragmentPair(folder.name, folder.name, source, target, truth, None, True, False, False)
        ]
    return []


def _read_motion(path: Path) -> NDArray[Any]:
    with path.open("rb") as file:
        shape, _, dtype, header = read_npy_header(path, file)
    expected = header + 16 * dtype.itemsize
    if shape == (4, 4) and dtype.kind in "fiu" and path.stat().st_size == expected:
        motion = np.asarray(np.load(path, allow_pickle=False))
        if np.isfinite(motion).all():
            return motion
    raise ValueError(
        f"{path}: expected finite numbers [4, 4], got {dtype} {list(shape)} "
        f"in {path.stat().st_size} bytes"
    )


def _reader(path: Path) -> Callable[[], Points]:
    return lambda: read_cloud(path)


def _benchmark(folder: Path, logs: Path) -> list[FragmentPair]:
    information = {}
    if (logs / "gt.info").is_file():
        information = {(e.first, e.second): e.matrix for e in read_log(logs / "gt.info", 6)}
    entries = read_log(logs / "gt.log")
    count = max((entry.total for entry in entries), default=0)
    clouds = sum(1 for _ in folder.glob("cloud_bin_*.ply"))
    if count > clouds:
        raise ValueError(f"{logs / 'gt.log'} is for {count} fragments, {folder} contains {clouds}")
    truths = {(entry.first, entry.second): entry.matrix for entry in entries}
    pairs = []
    for i in range(count):
        for j in range(i + 1, count):
            pairs.append(
                FragmentPair(
                    f"{i} {j}",
                    folder.name,
                    _reader(folder / f"cloud_bin_{j}.ply"),
                    _reader(folder / f"cloud_bin_{i}.ply"),
                    truths.get((i, j)),
                    information.get((i, j)),
                    True,
                    j == i + 1,
                    False,
                )
            )
    return pairs


_BASELINE = 2  # in frames
_MAX_PAIRS = 60


def _frame_reader(folder: Path, max_depth: float | None) -> Callable[[str], Callable[[], Points]]:
    camera = read_intrinsics(folder / "intrinsics.txt")

    def reader(name: str) -> Callable[[], Points]:
        path = folder / "depth" / f"{name}.png"
        return lambda: depth_to_points(read_depth(path, max_depth=max_depth), camera)

    return reader


def _frames(folder: Path, max_depth: float | None) -> list[FragmentPair]:
    poses, reader = read_poses(folder), _frame_reader(folder, max_depth)
    pairs = []
    for (a, pose_a), (b, pose_b) in zip(poses, poses[_BASELINE:], strict=False):
        truth = invert_motion(pose_b) @ pose_a
        pairs.append(
            FragmentPair(
                f"{a} {b}", folder.name, reader(a), reader(b), truth, None, False, False, True
            )
        )
    return pairs[:: max(1, -(-len(pairs) // _MAX_PAIRS))]


def find_posed_scans(folder: str | Path, *, max_depth: float | None = None) -> list[PosedScan]:
    """Find scans with poses: depth frames, or ``src.*``, ``ref.*`` and ``gt.npy``.

    Args:
        folder: Folder with one of these layouts, or with subfolders that have one.
        max_depth: Depth of frames beyond which measurements are ignored, metres; None keeps all.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The folder has none of these layouts, or a file is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    scans: list[PosedScan] = []
    for scene in [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]:
        if (scene / "poses.txt").is_file() and (scene / "intrinsics.txt").is_file():
            read = _frame_reader(scene, max_depth)
            poses = read_poses(scene)
            scans += [PosedScan(scene.name, name, read(name), pose) for name, pose in poses]
        else:
            for pair in _find_in_scene(scene, max_depth):
                if pair.truth is not None and (scene / "gt.npy").is_file():
                    scans.append(PosedScan(pair.scene, "src", pair.source, pair.truth))
                    scans.append(PosedScan(pair.scene, "ref", pair.target, np.eye(4)))
    if not scans:
        raise ValueError(
            f"{folder}: expected depth frames (depth/, poses.txt, intrinsics.txt) or src.*, ref.* "
            "and gt.npy; found none"
        )
    return scans
