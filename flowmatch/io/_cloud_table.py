"""All properties of the points of a cloud, in the order of the file."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Column = NDArray[Any]
_COLOURS = ("red", "green", "blue")
_NORMALS = {"nx": "normal_x", "ny": "normal_y", "nz": "normal_z"}  # in PLY files; in PCD files


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


class CloudTable(NamedTuple):
    """The points of a .ply or .pcd file with all their properties.

    Attributes:
        columns: Values of each property, ``[N]``, or ``[N, C]`` for several numbers each. Those of
            text files are float64.
        types: NumPy type of each property in the file.
        size: Width and height, ``N`` and 1 unless the points are the pixels of an image.
        dropped: Names of properties that are not in `columns`: lists.
        rest: What a PLY file holds besides; None for other files.
    """

    columns: dict[str, Column]
    types: dict[str, np.dtype[Any]]
    size: tuple[int, int]
    dropped: list[str]
    rest: PlyRest | None = None

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


def move_table(table: CloudTable, motion: ArrayLike) -> CloudTable:
    """Return a cloud with its points and normals moved, and all else as it is.

    Rows that are not finite keep their coordinates. Coordinates of float32 become float64 from a
    kilometre on, where float32 is coarser than a tenth of a millimetre; integers become floats.
    """
    matrix = np.asarray(motion, np.float64)
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
        normals = np.einsum("ij,nj->ni", matrix[:3, :3], normals)
        columns |= {name: normals[:, k] for k, name in enumerate(names)}
    return table._replace(columns=columns, types=types)


def as_ply_columns(table: CloudTable) -> dict[str, Column]:
    """Return columns for a PLY file: one number each, named as in PLY files."""
    names = {pcd: ply for ply, pcd in _NORMALS.items()}
    columns: dict[str, Column] = {}
    for name, column in _typed(table).items():
        if table.rest is None and name in ("rgb", "rgba"):
            packed = _packed_bits(column)
            if packed is not None:
                for shift, colour in zip((16, 8, 0), _COLOURS, strict=True):
                    columns[colour] = (packed >> shift & 255).astype(np.uint8)
                if name == "rgba":
                    columns["alpha"] = (packed >> 24).astype(np.uint8)
                continue
        name = names.get(name, name) if table.rest is None else name
        if column.dtype.kind in "iu" and column.dtype.itemsize == 8 or column.dtype == np.float16:
            column = column.astype(np.float64)
        if column.ndim == 1:
            columns[name] = column
        else:
            columns |= {f"{name}_{k}": column[:, k] for k in range(column.shape[1])}
    return columns


def as_pcd_columns(table: CloudTable) -> dict[str, Column]:
    """Return columns for a PCD file, named as in PCD files."""
    columns = _typed(table)
    if table.rest is None:
        return columns
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
