"""All properties of the points of a cloud, in the order of the file."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Column = NDArray[Any]
_COLOURS = ("red", "green", "blue")
_NORMALS = {"nx": "normal_x", "ny": "normal_y", "nz": "normal_z"}  # in PLY files; in PCD files
# Arrays [N, 3] of .npz files.
_TRIPLES = {"normals": tuple(_NORMALS), "colours": _COLOURS, "colors": _COLOURS}


class PlyRest(NamedTuple):
    """Parts of a PLY file other than its vertices.

    Attributes:
        order: ``"<"``, ``">"`` or, for text, ``""``.
        comments: Lines of the header that are comments.
        before: Lines of the header of the elements before the vertices.
        after: Lines of the header of the elements after the vertices.
        content_before: Bytes of the elements before the vertices.
        content_after: Bytes of the elements after the vertices.
    """

    order: str
    comments: list[bytes]
    before: list[bytes]
    after: list[bytes]
    content_before: bytes
    content_after: bytes


class LasRest(NamedTuple):
    """Parts of a LAS file beside the values of the dimensions.

    Attributes:
        header: Header of laspy, with the records of variable length.
        points: Point records of laspy, packed as in the file.
    """

    header: Any
    points: Any


NO_REST = PlyRest("<", [], [], [], b"", b"")


class CloudTable(NamedTuple):
    """The points of a file with all their properties.

    Attributes:
        columns: Values of each property, ``[N]``, or ``[N, C]`` for several numbers each. Those of
            text files are float64.
        types: NumPy type of each property in the file.
        size: Width and height, ``N`` and 1 unless the points are the pixels of an image.
        dropped: Names of properties that are not in `columns`: lists.
        rest: What a PLY or LAS file holds besides; None for PCD files.
    """

    columns: dict[str, Column]
    types: dict[str, np.dtype[Any]]
    size: tuple[int, int]
    dropped: list[str]
    rest: PlyRest | LasRest | None = None

    @property
    def points(self) -> NDArray[np.float64]:
        """Points ``[N, 3]``, in all rows of the file: some may not be finite."""
        with np.errstate(invalid="ignore"):  # signalling NaNs
            return np.stack([self.columns[axis].astype(np.float64) for axis in "xyz"], axis=1)

    @property
    def normal_names(self) -> tuple[str, ...]:
        """Names of the properties of the normals; empty without normals."""
        for names in (tuple(_NORMALS), tuple(_NORMALS.values())):
            if all(name in self.columns and self.types[name].kind == "f" for name in names):
                return names
        return ()


def table_of(columns: dict[str, Column], dropped: Sequence[str] = ()) -> CloudTable:
    """Return a table of columns that are named as in PLY files."""
    types = {name: column.dtype for name, column in columns.items()}
    count = len(columns["x"])
    return CloudTable(columns, types, (count, 1), list(dropped), NO_REST)


def move_table(table: CloudTable, motion: ArrayLike) -> CloudTable:
    """Return a cloud with its points and normals moved, and all else as it is.

    Rows that are not finite keep their coordinates. Coordinates of float32 become float64 from a
    kilometre on, where float32 is coarser than a tenth of a millimetre; integers become floats.
    """
    matrix = np.asarray(motion, np.float64)
    rotation = matrix[:3, :3] / np.cbrt(np.linalg.det(matrix[:3, :3]))  # it may have a scale
    columns, types = dict(table.columns), dict(table.types)
    points = table.points
    finite = np.isfinite(points).all(axis=1)
    points[finite] = points[finite] @ matrix[:3, :3].T + matrix[:3, 3]
    is_near = not finite.any() or float(np.abs(points[finite]).max()) < 1000
    for k, axis in enumerate("xyz"):
        columns[axis] = points[:, k]
        if types[axis].str[1:] != "f8":
            types[axis] = np.dtype("f4" if is_near else "f8")
    if names := table.normal_names:
        normals = np.stack([columns[name].astype(np.float64) for name in names], axis=1)
        normals = np.einsum("ij,nj->ni", rotation, normals)
        columns |= {name: normals[:, k] for k, name in enumerate(names)}
    if "normals" in columns and columns["normals"].shape[1:] == (3,):
        columns["normals"] = columns["normals"].astype(np.float64) @ rotation.T
    return table._replace(columns=columns, types=types)


def join_tables(
    tables: Sequence[CloudTable], colours: Sequence[tuple[int, int, int]] | None = None
) -> CloudTable:
    """Return the rows of several clouds as one, with all their properties, named as in PLY files.

    Where a cloud lacks a property the value is NaN, or 0 for integers. The last column, ``scan``,
    is the number of the cloud.

    Args:
        tables: The clouds.
        colours: Colour of each cloud without colours of its own.
    """
    parts = [flat_columns(table) for table in tables]
    counts = [table.size[0] * table.size[1] for table in tables]
    for part, count, colour in zip(parts, counts, colours or (), strict=False):
        if not {*_COLOURS} <= part.keys():
            part |= {
                name: np.full(count, value, np.uint8)
                for name, value in zip(_COLOURS, colour, strict=True)
            }
    names = list(dict.fromkeys(name for part in parts for name in part if name != "scan"))
    columns: dict[str, Column] = {}
    for name in names:
        kinds = [part[name].dtype for part in parts if name in part]
        kind = np.result_type(*kinds)
        missing: Any = np.nan if kind.kind == "f" else 0
        columns[name] = np.concatenate(
            [
                part[name].astype(kind) if name in part else np.full(count, missing, kind)
                for part, count in zip(parts, counts, strict=True)
            ]
        )
    scan = np.uint8 if len(tables) <= 256 else np.uint16
    columns["scan"] = np.repeat(np.arange(len(tables), dtype=scan), counts)
    dropped = [name for table in tables for name in [*table.dropped, *other_elements(table)]]
    return table_of(columns, list(dict.fromkeys(dropped)))


def other_elements(table: CloudTable) -> list[str]:
    """Return the names of the elements of a PLY file besides its vertices."""
    if not isinstance(table.rest, PlyRest):
        return []
    lines = (*table.rest.before, *table.rest.after)
    return [line.split()[1].decode("latin1") for line in lines if line.startswith(b"element")]


def as_ply_columns(table: CloudTable) -> dict[str, Column]:
    """Return columns for a PLY file, which has no integers of 64 bits."""
    columns = flat_columns(table)
    for name, column in columns.items():
        if (column.dtype.kind in "iu" and column.dtype.itemsize == 8) or column.dtype == np.float16:
            columns[name] = column.astype(np.float64)
        elif column.dtype == np.bool_:
            columns[name] = column.astype(np.uint8)
    return columns


def flat_columns(table: CloudTable) -> dict[str, Column]:
    """Return columns of one number each, named as in PLY files."""
    names = {pcd: ply for ply, pcd in _NORMALS.items()}
    columns: dict[str, Column] = {}
    for name, column in _with_bytes_of_colours(table).items():
        if table.rest is None and name in ("rgb", "rgba"):
            packed = _packed_bits(column)
            if packed is not None:
                for shift, colour in zip((16, 8, 0), _COLOURS, strict=True):
                    columns[colour] = (packed >> shift & 255).astype(np.uint8)
                if name == "rgba":
                    columns["alpha"] = (packed >> 24).astype(np.uint8)
                continue
        name = names.get(name, name) if table.rest is None else name
        if column.ndim == 1:
            columns[name] = column
        elif name in _TRIPLES and column.shape[1] == 3:
            columns |= {part: column[:, k] for k, part in enumerate(_TRIPLES[name])}
        else:
            columns |= {f"{name}_{k}": column[:, k] for k in range(column.shape[1])}
    return columns


def as_pcd_columns(table: CloudTable) -> dict[str, Column]:
    """Return columns for a PCD file, named as in PCD files."""
    if table.rest is None:
        return _typed(table)
    columns = as_ply_columns(table)
    result: dict[str, Column] = {}
    is_colour = all(name in columns and columns[name].dtype == np.uint8 for name in _COLOURS)
    for name, column in columns.items():
        if is_colour and name in _COLOURS[1:]:
            continue
        if is_colour and name == "red":
            red, green, blue = (columns[colour].astype(np.uint32) for colour in _COLOURS)
            result["rgb"] = (red << 16 | green << 8 | blue).view(np.float32)
        else:
            result[_NORMALS.get(name, name)] = column
    return result


def _with_bytes_of_colours(table: CloudTable) -> dict[str, Column]:
    """Return the columns in the types of the file, but colours of 16 bits in LAS files as bytes."""
    columns = _typed(table)
    if isinstance(table.rest, LasRest) and all(name in columns for name in _COLOURS):
        colours = np.stack([columns[name] for name in _COLOURS])
        if colours.size and colours.max() > 255:  # some writers put bytes in
            colours = colours >> 8
        columns |= dict(zip(_COLOURS, colours.astype(np.uint8), strict=True))
    return columns


def _typed(table: CloudTable) -> dict[str, Column]:
    """Return the columns in the types of the file."""
    with np.errstate(invalid="ignore", over="ignore"):
        return {
            name: column.astype(table.types[name].newbyteorder("="))
            for name, column in table.columns.items()
        }


def _packed_bits(column: Column) -> NDArray[np.uint32] | None:
    """Return packed colours of a PCD file as integers; None for other numbers."""
    if column.ndim != 1 or column.dtype.itemsize != 4:
        return None
    return np.ascontiguousarray(column).view(np.uint32)
