"""Points in NumPy's files and in text, with what stands beside them: .npy, .npz, .xyz."""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmatch.io._cloud_table import CloudTable, Column, table_of
from flowmatch.io._files import DAMAGED_ZIP, ReportingFile, reason_of
from flowmatch.io._npy import read_npy_entry, read_npy_header
from flowmatch.io._text import number_table

_COMMENTS = ("#", "//")
_TEXT_COLUMN = "column_{}"  # of a .xyz file, from 4 on


def read_npy(path: Path) -> CloudTable:
    """Read the points of a .npy file, floats ``[N, 3]``.

    Raises:
        ValueError: The file holds anything else.
    """
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
    return _table(points.reshape(shape, order="F" if fortran else "C"))


def read_npz(path: Path, *, points_only: bool = False) -> CloudTable:
    """Read the array ``points``, or the only one, and all arrays with a row for each point.

    Raises:
        ValueError: The file is damaged, or has no such array.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            name = "points.npy" if "points.npy" in names or len(names) != 1 else names[0]
            if name not in names:
                raise ValueError(f"{path}: expected an array 'points', got {names}")
            points = read_npy_entry(path, archive, name, "f", (None, 3))
            others = {} if points_only else _entries(path, archive, {*names} - {name})
    except DAMAGED_ZIP as error:
        raise ValueError(f"{path}: expected an .npz file: {reason_of(error)}") from error
    kept = {
        key: array
        for key, array in others.items()
        if array is not None and array.shape[:1] == points.shape[:1] and array.ndim <= 2
    }
    return _table(points, kept, [key for key in others if key not in kept])


def _entries(
    path: Path, archive: zipfile.ZipFile, names: set[str]
) -> dict[str, NDArray[Any] | None]:
    """Read the arrays of numbers of an archive by name; None for others."""
    arrays: dict[str, NDArray[Any] | None] = {}
    for name in sorted(names):
        key = name.removesuffix(".npy")
        with archive.open(name) as file:
            shape, _, dtype, _ = read_npy_header(path, file)
        arrays[key] = None
        if dtype.kind in "fiub" and 0 < len(shape) <= 2 and 0 not in shape:
            arrays[key] = read_npy_entry(path, archive, name, dtype.kind, shape)
    return arrays


def read_xyz(path: Path, *, points_only: bool = False) -> CloudTable:
    """Read lines of three numbers or more.

    Raises:
        ValueError: The file has other text than numbers.
    """
    with path.open("rb") as file:
        points = number_table(path, file, (0, 1, 2), comments=_COMMENTS)
    if points_only:
        return _table(points)
    try:
        with path.open("rb") as file:
            rows = number_table(path, file, None, comments=_COMMENTS)
    except ValueError:  # lines of different lengths
        return _table(points, dropped=["further columns"])
    further = {_TEXT_COLUMN.format(k + 1): rows[:, k] for k in range(3, rows.shape[1])}
    return _table(points, further if len(points) else {})


def _table(
    points: NDArray[Any], further: dict[str, Any] | None = None, dropped: list[str] | None = None
) -> CloudTable:
    with np.errstate(over="ignore", invalid="ignore"):  # long doubles, signalling NaNs
        if points.dtype.itemsize != 4:
            points = points.astype(np.float64)
    points = points.astype(points.dtype.newbyteorder("="))
    columns: dict[str, Column] = {axis: points[:, k] for k, axis in enumerate("xyz")}
    return table_of(columns | (further or {}), dropped or [])


def _points(table: CloudTable) -> NDArray[Any]:
    kind = np.result_type(*(table.types[axis] for axis in "xyz"))
    return table.points.astype(kind if kind.kind == "f" else np.float64)


def write_npy(temporary: Path, table: CloudTable) -> list[str]:
    """Write the points; return the names of what is not written."""
    with temporary.open("wb") as file:  # NumPy adds .npy to names that end in .NPY
        np.save(ReportingFile(file), _points(table))
    return [name for name in table.columns if name not in "xyz"]


def write_npz(temporary: Path, table: CloudTable) -> list[str]:
    """Write the points and an array for each other property."""
    arrays = {
        name: column.astype(table.types[name].newbyteorder("="))
        for name, column in table.columns.items()
        if name not in "xyz"
    }
    with temporary.open("wb") as file:  # NumPy adds .npz to names that end in .NPZ
        np.savez_compressed(file, points=_points(table), **arrays)  # type: ignore[arg-type]
    return []


def write_xyz(temporary: Path, table: CloudTable) -> list[str]:
    """Write the points, and the further columns of a .xyz file."""
    points = _points(table)
    further = [name for name in table.columns if name.startswith(_TEXT_COLUMN.format(""))]
    if not further:
        np.savetxt(temporary, points, fmt="%.9g" if points.dtype == np.float32 else "%.17g")
    else:
        rows = np.column_stack([points, *(table.columns[name] for name in further)]).tolist()
        with temporary.open("w", encoding="ascii") as file:
            for row in rows:
                file.write(" ".join(repr(x).removesuffix(".0") for x in row) + "\n")
    return [name for name in table.columns if name not in (*"xyz", *further)]
