"""LAS and LAZ files by laspy, with all dimensions, coordinate scales and records."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmatch.io._cloud_table import CloudTable, Column, LasRest, as_ply_columns
from flowmatch.io._files import optional_module, reason_of

_CHUNK = 2**20  # points
_COLOURS = ("red", "green", "blue")
_SCALE = 0.0001  # of new files, in the unit of the coordinates
_LARGEST = 2**31 - 1  # of a stored coordinate
_LONGEST_NAME = 32  # bytes of the name of a further dimension
_CRS_USER = "LASF_Projection"


def require_laspy() -> Any:
    """Return laspy, or raise an ImportError that names the extra."""
    return optional_module("laspy", "a .las or .laz file", "scans")


def read_las(path: Path) -> CloudTable:
    """Read the points of a LAS or LAZ file with all their dimensions.

    Raises:
        ValueError: The file is damaged, or not a LAS file.
        ImportError: laspy is not installed.
    """
    laspy = require_laspy()
    try:
        with laspy.open(path) as reader:
            header = reader.header
            # Piece by piece: the header may claim more points than there are.
            parts = [chunk.array for chunk in reader.chunk_iterator(_CHUNK)]
            header.evlrs = reader.evlrs
        count = sum(map(len, parts))
        if count != header.point_count:
            raise ValueError(f"expected {header.point_count} points, got {count}")
        records = np.concatenate(parts) if parts else np.zeros(0, header.point_format.dtype())
        points = laspy.ScaleAwarePointRecord(
            records, header.point_format, scales=header.scales, offsets=header.offsets
        )
        columns = {axis: np.asarray(points[axis], np.float64) for axis in "xyz"}
        names = [name for name in header.point_format.dimension_names if name not in set("XYZ")]
        columns |= {name: np.asarray(points[name]) for name in names}
    except MemoryError:
        raise
    except Exception as error:  # laspy and lazrs raise errors of many kinds for damaged files
        raise ValueError(f"{path}: expected a LAS file: {reason_of(error)}") from error
    types = {name: column.dtype for name, column in columns.items()}
    return CloudTable(columns, types, (count, 1), [], LasRest(header, points))


def write_las(temporary: Path, table: CloudTable, frame: LasRest | None = None) -> None:
    """Write all dimensions of points.

    The records and the scale of a LAS file are kept, and its offset if the coordinates still fit
    into 32 bits; other clouds get steps of a tenth of a millimetre.

    Args:
        temporary: File to write.
        table: The points; rows that are not finite must have been dropped.
        frame: LAS file whose coordinate reference system the points are in; None keeps that of
            `table`.
    """
    laspy = require_laspy()
    rest = table.rest
    if isinstance(rest, LasRest):
        header, records = copy.deepcopy(rest.header), rest.points.array.copy()
        points = laspy.ScaleAwarePointRecord(
            records, header.point_format, scales=header.scales, offsets=header.offsets
        )
        for name in table.normal_names:
            points[name] = table.columns[name]
    else:
        header, points = _new_records(laspy, table)
    xyz = table.points
    if frame is not None:
        _take_reference_system(header, frame.header)
    header.offsets, header.scales = _layout(xyz, header.offsets, header.scales)
    for k, axis in enumerate("XYZ"):
        points[axis] = np.round((xyz[:, k] - header.offsets[k]) / header.scales[k])
    points.scales, points.offsets = header.scales, header.offsets
    laspy.LasData(header, points).write(str(temporary))


def _layout(
    xyz: NDArray[np.float64], offsets: NDArray[np.float64], scales: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return offsets and scales with which coordinates fit into 32 bits, as given if possible."""
    offsets, scales = offsets.copy(), scales.copy()
    if len(xyz) == 0:
        return offsets, scales
    low, high = xyz.min(0), xyz.max(0)
    far = np.maximum(np.abs(low - offsets), np.abs(high - offsets)) > _LARGEST * scales
    offsets[far] = np.round((low + high) / 2)[far]
    while (too_wide := (high - low) / 2 + 1 > _LARGEST * scales).any():
        scales[too_wide] *= 10
    return offsets, scales


def _new_records(laspy: Any, table: CloudTable) -> tuple[Any, Any]:
    """Return a header and point records for the columns of another format."""
    columns = as_ply_columns(table)
    for name in "xyz":
        del columns[name]
    is_coloured = all(name in columns and columns[name].dtype.kind == "u" for name in _COLOURS)
    header = laspy.LasHeader(point_format=7 if is_coloured else 6, version="1.4")
    header.scales, header.offsets = np.full(3, _SCALE), np.zeros(3)
    if is_coloured and all(columns[name].dtype == np.uint8 for name in _COLOURS):
        columns |= {name: columns[name].astype(np.uint16) * 257 for name in _COLOURS}
    own = {name: column for name, column in columns.items() if _fits(header, name, column)}
    further = {_further_name(header, name): columns[name] for name in columns if name not in own}
    header.add_extra_dims(
        [laspy.ExtraBytesParams(name, column.dtype) for name, column in further.items()]
    )
    count = table.size[0] * table.size[1]
    points = laspy.ScaleAwarePointRecord.zeros(count, header=header)
    for name, column in (own | further).items():
        points[name] = column
    return header, points


def _fits(header: Any, name: str, column: Column) -> bool:
    """Return whether a dimension of the point format holds all values of a column."""
    if name not in set(header.point_format.dimension_names) - set("XYZ"):
        return False
    dimension = header.point_format.dimension_by_name(name)
    if dimension.kind.name == "FloatingPoint":
        return True
    with np.errstate(invalid="ignore"):
        is_whole = column.dtype.kind in "iu" or bool((np.floor(column) == column).all())
    inside = not len(column) or (column.min() >= dimension.min and column.max() <= dimension.max)
    return is_whole and bool(inside)


def _further_name(header: Any, name: str) -> str:
    """Return a name for a further dimension that is not taken."""
    if name in header.point_format.dimension_names:
        name += "_value"
    if len(name.encode()) > _LONGEST_NAME:
        raise ValueError(f"names in LAS files have {_LONGEST_NAME} bytes at most, got {name!r}")
    return name


def _take_reference_system(header: Any, other: Any) -> None:
    """Replace the records of the coordinate reference system by those of another header."""
    lists = [(header.vlrs, other.vlrs), (header.evlrs, other.evlrs)]
    if not any(record.user_id == _CRS_USER for _, records in lists for record in records or ()):
        return
    for own, theirs in lists:
        if own is not None:
            own[:] = [record for record in own if record.user_id != _CRS_USER]
            own.extend(copy.deepcopy([r for r in theirs or () if r.user_id == _CRS_USER]))
    header.global_encoding.wkt = other.global_encoding.wkt
