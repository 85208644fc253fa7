"""Stanford PLY files: x, y and z of the vertices; ASCII and both byte orders."""

from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch.io._text import number_table

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_LONGEST_HEADER = 2**16


class _Element(NamedTuple):
    name: str
    rows: int
    fields: list[tuple[str, str]]  # name and NumPy type; "" for a list


def read_ply(path: Path) -> NDArray[np.float64]:
    """Read the vertices of a PLY file.

    Returns:
        Points ``[N, 3]``.

    Raises:
        ValueError: The file is damaged, or not a PLY file with x, y and z.
    """
    with path.open("rb") as file:
        order, elements = _header(path, file)
        start = file.tell()
        stored = path.stat().st_size - start
        at = next((k for k, e in enumerate(elements) if e.name == "vertex"), None)
        if at is None:
            raise ValueError(
                f"{path}: expected an element vertex, got {[e.name for e in elements]}"
            )
        before, vertex = elements[:at], elements[at]
        names = [name for name, _ in vertex.fields]
        if not {"x", "y", "z"} <= set(names):
            raise ValueError(f"{path}: expected vertices with x, y and z, got {names}")
        if len(names) != len(set(names)):
            raise ValueError(f"{path}: expected each property of a vertex once, got {names}")
        if not order:
            columns = (names.index("x"), names.index("y"), names.index("z"))
            skip = sum(element.rows for element in before)
            return number_table(path, file, columns, skip=skip, rows=vertex.rows)
        sizes = [_row(path, order, element).itemsize * element.rows for element in before]
        row = _row(path, order, vertex)
        if sum(sizes) + row.itemsize * vertex.rows > stored:
            raise ValueError(
                f"{path}: expected {sum(sizes) + row.itemsize * vertex.rows} bytes for "
                f"{vertex.rows} vertices, got {stored}"
            )
        rows = np.fromfile(path, row, vertex.rows, offset=start + sum(sizes))
    return np.stack([rows[axis].astype(np.float64) for axis in "xyz"], axis=1)


def _row(path: Path, order: str, element: _Element) -> np.dtype[np.void]:
    if any(not kind for _, kind in element.fields):
        raise ValueError(f"{path}: lists ({element.name}) are not supported before the vertices")
    fields = [(f"{k}" if element.name != "vertex" else name, order + kind)
              for k, (name, kind) in enumerate(element.fields)]  # fmt: skip
    return np.dtype(fields)


def _header(path: Path, file: IO[bytes]) -> tuple[str, list[_Element]]:
    start = file.read(_LONGEST_HEADER)
    if not start.startswith((b"ply\n", b"ply\r")):
        raise ValueError(f"{path}: expected a PLY file starting with ply, got {start[:8]!r}")
    end = start.find(b"end_header")
    newline = start.find(b"\n", end)
    if end < 0 or newline < 0:
        raise ValueError(f"{path}: expected end_header within {_LONGEST_HEADER} bytes, found none")
    file.seek(newline + 1)
    order: str | None = None
    elements: list[_Element] = []
    for line in start[:end].decode("latin1").splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) == 3 and words[1] in _ORDERS:
            order = _ORDERS[words[1]]
        elif words[0] == "element" and len(words) == 3 and _is_count(words[2]):
            elements.append(_Element(words[1], int(words[2]), []))
        elif words[0] == "property" and elements and _property(words, elements[-1]):
            continue
        else:
            raise ValueError(f"{path}: invalid line in the header: {line[:80]!r}")
    if order is None:
        raise ValueError(f"{path}: the header names no format, expected one of {[*_ORDERS]}")
    return order, elements


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) <= 15


def _property(words: list[str], element: _Element) -> bool:
    """Append a property to its element.

    Returns:
        False if the line is not a property.
    """
    if len(words) == 5 and words[1] == "list" and words[2] in _TYPES and words[3] in _TYPES:
        element.fields.append((words[4], ""))
    elif len(words) == 3 and words[1] in _TYPES:
        element.fields.append((words[2], _TYPES[words[1]]))
    else:
        return False
    return True


def write_ply(
    temporary: Path, points: NDArray[np.floating], colours: NDArray[np.uint8] | None
) -> None:
    """Write vertices in little endian, float32 or float64 as given."""
    wide = points.dtype == np.float64
    kind = "f8" if wide else "f4"
    fields = [(axis, f"<{kind}") for axis in "xyz"]
    names = [f"property {'double' if wide else 'float'} {axis}" for axis in "xyz"]
    if colours is not None:
        fields += [(name, "u1") for name in ("red", "green", "blue")]
        names += [f"property uchar {name}" for name in ("red", "green", "blue")]
    rows = np.zeros(len(points), np.dtype(fields))
    for k, axis in enumerate("xyz"):
        rows[axis] = points[:, k]
    if colours is not None:
        for k, name in enumerate(("red", "green", "blue")):
            rows[name] = colours[:, k]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    with temporary.open("wb") as file:
        file.write("\n".join([*header, *names, "end_header", ""]).encode())
        rows.tofile(file)
