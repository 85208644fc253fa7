"""Point clouds (.ply, .pcd, .npy, .npz, .xyz) and depth pictures.

Files may be hostile: what a header claims is compared with the size of the file before memory is
allocated.
"""

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.io._cloud_table import CloudTable, move_table
from flowmatch.io._files import (
    DAMAGED_ZIP,
    FilePath,
    ReportingFile,
    entry_for_suffix,
    existing_file,
    reason_of,
    replace_when_done,
)
from flowmatch.io._npy import read_npy_entry, read_npy_header
from flowmatch.io._pcd import read_pcd, write_pcd, write_pcd_table
from flowmatch.io._ply import read_ply, write_ply, write_ply_table
from flowmatch.io._png import read_png16
from flowmatch.io._text import number_table, separate

_SATURATED = 65535  # of a depth picture of 16 bits


def read_cloud(path: FilePath) -> NDArray[np.float64]:
    """Read the points of a cloud; the suffix determines the format.

    ``.ply`` and ``.pcd`` (text, binary, ``binary_compressed``; x, y, z of the vertices),
    ``.npy`` and ``.npz`` (``[N, 3]``; in an ``.npz`` the array ``points`` or the only array),
    ``.xyz`` (three numbers a line, further ones are ignored, ``#`` starts a comment).

    Args:
        path: The file.

    Returns:
        Points ``[N, 3]`` in the file's unit, metres throughout flowmatch. Points that are not
        finite, as depth cameras produce them, are dropped.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The suffix is unknown, or the file is damaged or not what its suffix says.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "scan.ply"
        >>> write_cloud(path, np.eye(3))
        >>> read_cloud(path)[1]
        array([0., 1., 0.])
    """
    path = existing_file(path)
    points = entry_for_suffix(path, _READERS, "cloud")(path)
    return points[np.isfinite(points).all(axis=1)]


def write_cloud(path: FilePath, points: ArrayLike, colours: ArrayLike | None = None) -> None:
    """Write a point cloud; the suffix determines the format, as in `read_cloud`.

    Args:
        path: File to write; its folder must exist. It gets its name only when complete.
        points: Points ``[N, 3]``, metres; float64 is kept, other types become float32.
        colours: Colours uint8 ``[N, 3]``, RGB. Only ``.ply`` keeps them.

    Raises:
        ValueError: Wrong shape, unknown suffix, or colours for a format that holds none.
        FileNotFoundError: The folder does not exist.

    Example:
        >>> import tempfile
        >>> write_cloud(Path(tempfile.mkdtemp()) / "scan.xyz", [[0, 0, 1.5]])
    """
    path = Path(path)
    write = entry_for_suffix(path, _WRITERS, "cloud")
    array = np.asarray(points)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: points must be [N, 3], got {array.dtype} {list(array.shape)}")
    array = array.astype(np.float64 if array.dtype == np.float64 else np.float32)
    rgb = None if colours is None else np.asarray(colours)
    if rgb is not None and (rgb.dtype != np.uint8 or rgb.shape != array.shape):
        raise ValueError(
            f"{path}: colours must be uint8 {list(array.shape)}, got {rgb.dtype} {list(rgb.shape)}"
        )
    if rgb is not None and path.suffix.lower() != ".ply":
        raise ValueError(f"{path}: only .ply keeps colours")
    with replace_when_done(path) as temporary:
        write(temporary, array, rgb)


def move_cloud_file(source: FilePath, target: FilePath, motion: ArrayLike) -> list[str]:
    """Write a moved copy of a .ply or .pcd file with all properties and rows, in their order.

    Colours, normals (turned), intensities and the like are kept, rows that are not finite too, and
    between PLY files also the other elements, such as faces.

    Args:
        source: The file to move.
        target: File to write, ``.ply`` or ``.pcd``.
        motion: ``[4, 4]``.

    Returns:
        Names of what is not kept: lists in the vertices; faces in a .pcd.

    Raises:
        FileNotFoundError: `source` or the folder of `target` does not exist.
        ValueError: A suffix is neither ``.ply`` nor ``.pcd``, or `source` is damaged.
    """
    source, target = existing_file(source), Path(target)
    table = entry_for_suffix(source, _TABLE_READERS, "cloud")(source)
    write = entry_for_suffix(target, _TABLE_WRITERS, "cloud")
    with replace_when_done(target) as temporary:
        write(temporary, move_table(table, motion))
    lost = list(table.dropped)
    if target.suffix.lower() == ".pcd" and table.rest is not None:
        lines = (*table.rest.before, *table.rest.after)
        lost += [line.split()[1].decode("latin1") for line in lines if line.startswith(b"element")]
    return lost


def read_depth(
    path: FilePath, unit: float = 0.001, max_depth: float | None = None
) -> NDArray[np.float32]:
    """Read a depth picture of 16 bits, as RGB-D cameras produce it.

    Args:
        path: A PNG of one channel, 16 bits.
        unit: Metres per unit of the picture: 0.001 for millimetres, 1/5000 in TUM's data.
        max_depth: Depth beyond which measurements are ignored, metres; None keeps all.

    Returns:
        Depth ``[H, W]`` along the optical axis, metres; NaN where it is unknown: 0 in the file, or
        65535, which marks unknown depth (7-Scenes) or depth beyond what 16 bits hold.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged or another kind of picture, or `unit` or `max_depth` is not
            positive.

    Example:
        >>> import tempfile
        >>> import cv2
        >>> path = str(Path(tempfile.mkdtemp()) / "depth.png")
        >>> _ = cv2.imwrite(path, np.array([[1500, 0, 65535]], np.uint16))
        >>> read_depth(path).tolist()
        [[1.5, nan, nan]]
    """
    path = existing_file(path)
    if not (math.isfinite(unit) and unit > 0):
        raise ValueError(f"unit must be a positive number of metres, got {unit}")
    if max_depth is not None and not max_depth > 0:
        raise ValueError(f"max_depth must be a positive number of metres, got {max_depth}")
    raw = read_png16(path, 1, "depth of 16 bits, gray")
    depth = np.asarray(raw * unit, np.float32)
    depth[(raw == 0) | (raw == _SATURATED)] = np.nan
    if max_depth is not None:
        depth[depth > max_depth] = np.nan
    return depth


def read_intrinsics(path: FilePath) -> NDArray[np.float64]:
    """Read a camera matrix ``[3, 3]``, or ``fx fy cx cy``, from a text file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file holds anything else.
    """
    path = existing_file(path)
    if path.stat().st_size > 4096:
        raise ValueError(f"{path}: expected a text of 3 x 3 numbers, got {path.stat().st_size} B")
    try:
        numbers = np.array(separate(path, path.read_text("latin1")).split(), np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: expected 3 x 3 numbers: {reason_of(error)}") from error
    if numbers.size == 4:
        fx, fy, cx, cy = numbers.tolist()
        numbers = np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1])
    camera = numbers.size == 9 and np.isfinite(numbers).all() and 0 not in (numbers[0], numbers[4])
    # The last row also reveals a matrix that was written column by column.
    if not camera or numbers[6:].tolist() != [0, 0, 1]:
        raise ValueError(
            f"{path}: expected a camera matrix, 3 x 3 with 0 0 1 below, or fx fy cx cy"
        )
    return numbers.reshape(3, 3)


def depth_to_points(depth: ArrayLike, intrinsics: ArrayLike) -> NDArray[np.float64]:
    """Return the 3-D points of a depth picture, in the camera's frame.

    Args:
        depth: ``[H, W]`` along the optical axis, metres; values that are not positive are unknown.
        intrinsics: Camera matrix ``[3, 3]``, pixels; pixel centres have integer coordinates.

    Returns:
        Points ``[N, 3]``: x right, y down, z forward.

    Raises:
        ValueError: Wrong shapes.

    Example:
        >>> depth_to_points([[2.0, 0.0]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
        array([[0., 0., 2.]])
    """
    z, camera = np.asarray(depth, np.float64), np.asarray(intrinsics, np.float64)
    if z.ndim != 2 or camera.shape != (3, 3):
        raise ValueError(
            f"depth must be [H, W] and intrinsics [3, 3], got {list(z.shape)}, {list(camera.shape)}"
        )
    v, u = np.nonzero(z > 0)  # also false for NaN
    rays = np.stack([u, v, np.ones_like(u)], axis=1) @ np.linalg.inv(camera).T
    points: NDArray[np.float64] = rays * z[v, u, None]
    return points[np.isfinite(points).all(axis=1)]


# ---- NumPy's formats and plain text -------------------------------------------------------------


def _read_ply(path: Path) -> NDArray[np.float64]:
    return read_ply(path).points


def _read_pcd(path: Path) -> NDArray[np.float64]:
    return read_pcd(path).points


def _read_npy(path: Path) -> NDArray[np.float64]:
    with path.open("rb") as file:
        shape, fortran, dtype, header = read_npy_header(path, file)
    if len(shape) != 2 or shape[1] != 3 or dtype.kind != "f":
        raise ValueError(f"{path}: expected floats [N, 3], got {dtype} {list(shape)}")
    claimed = math.prod(shape) * dtype.itemsize
    if header + claimed != path.stat().st_size:
        raise ValueError(
            f"{path}: expected {header + claimed} bytes for {shape[0]} points, "
            f"got {path.stat().st_size}"
        )
    points = np.fromfile(path, dtype, math.prod(shape), offset=header)
    return _as_float64(points.reshape(shape, order="F" if fortran else "C"))


def _as_float64(points: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(over="ignore", invalid="ignore"):  # long doubles, signalling NaNs
        return points.astype(np.float64)


def _read_npz(path: Path) -> NDArray[np.float64]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            name = "points.npy" if "points.npy" in names or len(names) != 1 else names[0]
            if name not in names:
                raise ValueError(f"{path}: expected an array 'points', got {names}")
            points = read_npy_entry(path, archive, name, "f", (None, 3))
    except DAMAGED_ZIP as error:
        raise ValueError(f"{path}: expected an .npz file: {reason_of(error)}") from error
    return _as_float64(points)


def _read_xyz(path: Path) -> NDArray[np.float64]:
    with path.open("rb") as file:
        return number_table(path, file, (0, 1, 2), comments=("#", "//"))


_Points = NDArray[np.floating]
_Colours = NDArray[np.uint8] | None


def _write_npy(temporary: Path, points: _Points, _: _Colours) -> None:
    with temporary.open("wb") as file:  # NumPy adds .npy to names that end in .NPY
        np.save(ReportingFile(file), points)


def _write_npz(temporary: Path, points: _Points, _: _Colours) -> None:
    with temporary.open("wb") as file:  # NumPy adds .npz to names that end in .NPZ
        np.savez_compressed(file, points=points)


def _write_pcd(temporary: Path, points: _Points, _: _Colours) -> None:
    write_pcd(temporary, points)


def _write_xyz(temporary: Path, points: _Points, _: _Colours) -> None:
    np.savetxt(temporary, points, fmt="%.9g" if points.dtype == np.float32 else "%.17g")


# To add a format: write its reader and writer, add a line to each table, and golden bytes to the
# tests.
_READERS: dict[str, Callable[[Path], NDArray[np.float64]]] = {
    ".ply": _read_ply,
    ".pcd": _read_pcd,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".xyz": _read_xyz,
}
_WRITERS: dict[str, Callable[[Path, _Points, _Colours], None]] = {
    ".ply": write_ply,
    ".pcd": _write_pcd,
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".xyz": _write_xyz,
}
_TABLE_READERS: dict[str, Callable[[Path], CloudTable]] = {
    ".ply": lambda path: read_ply(path, keep_rest=True),
    ".pcd": read_pcd,
}
_TABLE_WRITERS: dict[str, Callable[[Path, CloudTable], None]] = {
    ".ply": write_ply_table,
    ".pcd": write_pcd_table,
}
CLOUD_SUFFIXES = tuple(_READERS)
