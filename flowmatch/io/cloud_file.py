"""Cloud files with all properties of their points: read, written, moved and merged."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.io._cloud_table import (
    CloudTable,
    LasRest,
    join_tables,
    move_table,
    other_elements,
    table_of,
)
from flowmatch.io._files import (
    FilePath,
    entry_for_suffix,
    existing_file,
    replace_when_done,
)
from flowmatch.io._las import read_las, require_laspy, write_las
from flowmatch.io._mesh_file import MESH_READERS, mesh_points, move_mesh
from flowmatch.io._pcd import read_pcd, write_pcd_table
from flowmatch.io._plain_cloud import read_npy, read_npz, read_xyz, write_npy, write_npz, write_xyz
from flowmatch.io._ply import read_ply, write_ply_table

_LAS = (".las", ".laz")
BARE_SUFFIXES = (".npy", ".xyz")


def read_points(path: Path) -> NDArray[np.float64]:
    """Read the points of all rows of a file, ``[N, 3]``: some may not be finite."""
    return entry_for_suffix(path, _READERS, "cloud")(path).points


def read_table(path: FilePath) -> CloudTable:
    """Read the points of a file with all their properties."""
    path = existing_file(path)
    return entry_for_suffix(path, _TABLE_READERS, "cloud")(path)


def write_table(path: FilePath, table: CloudTable, frame: LasRest | None = None) -> list[str]:
    """Write a cloud with all its properties.

    Args:
        path: File to write; its folder must exist. It gets its name only when complete.
        table: The cloud.
        frame: LAS file whose coordinate reference system a .las or .laz file gets.

    Returns:
        Names of what the format does not hold.
    """
    path = Path(path)
    write = entry_for_suffix(path, _TABLE_WRITERS, "cloud")
    suffix = path.suffix.lower()
    lost = list(table.dropped)
    if suffix in _LAS:
        require_laspy()
        table, invalid = _finite_rows(table)
        lost += invalid
    with replace_when_done(path) as temporary:
        if suffix in _LAS:
            write_las(temporary, table, frame)
        else:
            lost += write(temporary, table)
    if suffix != ".ply":
        lost += other_elements(table)
    return lost


def move_cloud_file(
    source: FilePath | ArrayLike,
    target: FilePath,
    motion: ArrayLike,
    *,
    frame: FilePath | None = None,
) -> list[str]:
    """Write a moved copy of a scan with all properties and rows, in their order.

    Colours, normals (turned), intensities and the like are kept, rows that are not finite too;
    between PLY files the other elements, such as faces; between LAS files the records, the scale
    and, where the coordinates allow it, the offset. Between mesh files of one kind only the
    coordinates and the normals change.

    Args:
        source: The file to move: a cloud, or a mesh (``.glb``, ``.obj``, ``.stl``); or points
            ``[N, 3]``.
        target: File to write: a cloud, or for a mesh also a mesh. A cloud of a mesh has points
            sampled from its triangles.
        motion: ``[4, 4]``; rigid, or with a scale.
        frame: File in whose frame the points are afterwards: if it is a ``.las`` or ``.laz`` file,
            such a target gets its coordinate reference system.

    Returns:
        Names of what is not kept.

    Raises:
        FileNotFoundError: `source` or the folder of `target` does not exist.
        ValueError: A suffix is unknown, or `source` is damaged.
        ImportError: laspy (.las, .laz) or trimesh (.glb, .obj, .stl) is not installed.
    """
    target = Path(target)
    if target.suffix.lower() in MESH_READERS:
        if not isinstance(source, str | os.PathLike):
            raise ValueError(f"{target}: points have no triangles")
        return move_mesh(existing_file(source), target, motion)
    return write_table(target, move_table(_any_table(source), motion), _las_frame(target, frame))


def merge_cloud_files(
    sources: Sequence[FilePath | ArrayLike],
    target: FilePath,
    motions: ArrayLike,
    *,
    colours: Sequence[tuple[int, int, int]] | None = None,
    frame: FilePath | None = None,
) -> list[str]:
    """Write several scans, moved into one frame, as one cloud with all their properties.

    The rows keep their order, scan after scan. Where a scan lacks a property of another it is NaN,
    or 0 for integers. The property ``scan`` is the number of the scan.

    Args:
        sources: Files as in `move_cloud_file`, or points ``[N, 3]``.
        target: Cloud to write.
        motions: ``[S, 4, 4]``, each scan to the common frame.
        colours: Colour of each scan, for those without colours of their own.
        frame: See `move_cloud_file`.

    Returns:
        Names of what is not kept.

    Raises:
        FileNotFoundError: A source or the folder of `target` does not exist.
        ValueError: A suffix is unknown, or a source is damaged.
    """
    tables = [
        move_table(_any_table(source), motion)
        for source, motion in zip(sources, np.asarray(motions), strict=True)
    ]
    path = Path(target)
    is_bare = path.suffix.lower() in BARE_SUFFIXES
    table = join_tables(tables, None if is_bare else colours)
    if is_bare:
        del table.columns["scan"]
    return write_table(path, table, _las_frame(path, frame))


def _any_table(source: FilePath | ArrayLike) -> CloudTable:
    return read_table(source) if isinstance(source, str | os.PathLike) else _bare_table(source)


def _bare_table(points: ArrayLike) -> CloudTable:
    """Return a table of points alone, of which a moved copy is float32 within a kilometre."""
    array = np.asarray(points, np.float64)
    table = table_of({axis: array[:, k] for k, axis in enumerate("xyz")})
    return table._replace(types=dict.fromkeys("xyz", np.dtype(np.float32)))


def _las_frame(target: Path, frame: FilePath | None) -> LasRest | None:
    if frame is None or not {target.suffix.lower(), Path(frame).suffix.lower()} <= {*_LAS}:
        return None
    rest = read_las(Path(frame)).rest
    return rest if isinstance(rest, LasRest) else None


def _finite_rows(table: CloudTable) -> tuple[CloudTable, list[str]]:
    """Return a table without the rows that integers cannot hold, and a phrase for their number."""
    finite = np.isfinite(table.points).all(axis=1)
    if finite.all():
        return table, []
    columns = {name: column[finite] for name, column in table.columns.items()}
    table = table._replace(columns=columns, size=(int(finite.sum()), 1))
    return table, [f"{int((~finite).sum())} rows without coordinates"]


def _read_mesh(path: Path) -> CloudTable:
    return _bare_table(mesh_points(path))


def _write_ply(temporary: Path, table: CloudTable) -> list[str]:
    write_ply_table(temporary, table)
    return []


def _write_pcd(temporary: Path, table: CloudTable) -> list[str]:
    write_pcd_table(temporary, table)
    return []


def _write_las(temporary: Path, table: CloudTable) -> list[str]:
    write_las(temporary, table)
    return []


# To add a format: write its reader and writer, add a line to each table, and golden bytes to the
# tests.
_TABLE_WRITERS: dict[str, Callable[[Path, CloudTable], list[str]]] = {
    ".ply": _write_ply,
    ".pcd": _write_pcd,
    ".npy": write_npy,
    ".npz": write_npz,
    ".xyz": write_xyz,
    ".las": _write_las,
    ".laz": _write_las,
}
CLOUD_SUFFIXES = tuple(_TABLE_WRITERS)
_MESHES = dict.fromkeys(MESH_READERS, _read_mesh)
_TABLE_READERS: dict[str, Callable[[Path], CloudTable]] = {
    ".ply": lambda path: read_ply(path, keep_rest=True),
    ".pcd": read_pcd,
    ".npy": read_npy,
    ".npz": read_npz,
    ".xyz": read_xyz,
    ".las": read_las,
    ".laz": read_las,
    **_MESHES,
}
_READERS: dict[str, Callable[[Path], CloudTable]] = {
    **_TABLE_READERS,
    ".ply": read_ply,
    ".npz": lambda path: read_npz(path, points_only=True),
    ".xyz": lambda path: read_xyz(path, points_only=True),
}
SCAN_SUFFIXES = tuple(_READERS)
