"""Stanford PLY files: the vertices with their properties; text and both byte orders."""

import re
import struct
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch.io._cloud_table import NO_REST, CloudTable, Column, PlyRest, as_ply_columns
from flowmatch.io._files import reason_of, short_line, write_array
from flowmatch.io._text import number_columns, read_header, text_rows

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
_NAMES = {kind: name for name, kind in reversed(_TYPES.items())}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_LONGEST_HEADER = 2**16


class _Property(NamedTuple):
    name: str
    kind: str  # NumPy type
    length_kind: str  # NumPy type of the length of a list; "" for one number


class _Element(NamedTuple):
    name: str
    rows: int
    fields: list[_Property]
    lines: list[bytes]  # of the header


class _Header(NamedTuple):
    order: str
    elements: list[_Element]
    comments: list[bytes]


def read_ply(path: Path, *, keep_rest: bool = False) -> CloudTable:
    """Read the vertices of a PLY file.

    Args:
        path: The file.
        keep_rest: Whether to keep the elements beside the vertices, such as faces.

    Raises:
        ValueError: The file is damaged, or not a PLY file with x, y and z.
    """
    with path.open("rb") as file:
        header = _header(path, file)
        at = _vertex_index(path, header)
        read = _read_binary if header.order else _read_text
        columns, before, after = read(path, file, header, at, keep_rest)
    vertex = header.elements[at]
    rest = PlyRest(
        header.order,
        header.comments,
        [line for element in header.elements[:at] for line in element.lines],
        [line for element in header.elements[at + 1 :] for line in element.lines],
        before,
        after,
    )
    types = {field.name: np.dtype(field.kind) for field in vertex.fields if not field.length_kind}
    dropped = [field.name for field in vertex.fields if field.length_kind]
    return CloudTable(columns, types, (vertex.rows, 1), dropped, rest)


def _vertex_index(path: Path, header: _Header) -> int:
    """Return the index of the element that holds the points."""
    elements = [element.name for element in header.elements]
    if "vertex" not in elements:
        raise ValueError(f"{path}: expected an element vertex, got {elements}")
    at = elements.index("vertex")
    fields = header.elements[at].fields
    names = [field.name for field in fields]
    if not {"x", "y", "z"} <= {field.name for field in fields if not field.length_kind}:
        raise ValueError(f"{path}: expected vertices with x, y and z, got {names}")
    if len(names) != len(set(names)):
        raise ValueError(f"{path}: expected each property of a vertex once, got {names}")
    return at


_Contents = tuple[dict[str, Column], bytes, bytes]


def _read_text(path: Path, file: IO[bytes], header: _Header, at: int, keep: bool) -> _Contents:
    before, vertex = header.elements[:at], header.elements[at]
    start, skip = file.tell(), sum(element.rows for element in before)
    names = [field.name for field in vertex.fields if not field.length_kind]
    if len(names) < len(vertex.fields):
        rows = [
            _scalars(path, words, vertex)
            for words in text_rows(path, file, skip=skip, rows=vertex.rows)
        ]
        table = list(np.array(rows, np.float64).reshape(len(rows), len(names)).T)
    else:
        table = number_columns(path, file, ["f8"] * len(names), skip=skip, rows=vertex.rows)
    columns = dict(zip(names, table, strict=True))
    if not keep:
        return columns, b"", b""
    file.seek(start)
    lines = re.split(rb"\r\n|\n\r|\n|\r", file.read())
    filled = [k for k, line in enumerate(lines) if k >= skip and line.strip()][: vertex.rows]
    stop = filled[-1] + 1 if filled else skip
    parts = [b"".join(line + b"\n" for line in part) for part in (lines[:skip], lines[stop:])]
    return columns, parts[0], parts[1].strip(b"\n") + b"\n" if parts[1].strip() else b""


def _scalars(path: Path, words: list[str], element: _Element) -> list[float]:
    """Return the numbers of a line that are not in lists."""
    numbers: list[float] = []
    at = 0
    try:
        for _, _, count in element.fields:
            if count:
                length = int(words[at])
                if not 0 <= length < len(words):
                    raise ValueError(f"a list of {words[at]} numbers")
                at += 1 + length
            else:
                numbers.append(float(words[at]))
                at += 1
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: expected numbers: {reason_of(error)}") from error
    if at != len(words):
        raise ValueError(f"{path}: expected {at} numbers in a line, got {len(words)}")
    return numbers


def _read_binary(path: Path, file: IO[bytes], header: _Header, at: int, keep: bool) -> _Contents:
    content = file.read()
    start = 0
    for element in header.elements[:at]:
        start = _read_rows(path, content, start, element, header.order, read=False)[1]
    columns, end = _read_rows(path, content, start, header.elements[at], header.order, read=True)
    return columns, content[:start] if keep else b"", content[end:] if keep else b""


def _read_rows(
    path: Path, content: bytes, start: int, element: _Element, order: str, *, read: bool
) -> tuple[dict[str, Column], int]:
    """Read the numbers of an element's rows that are not in lists; also return where it ends."""
    noun = "vertices" if element.name == "vertex" else f"rows of {short_line(element.name)}"
    least = element.rows * sum(np.dtype(f.length_kind or f.kind).itemsize for f in element.fields)
    if least > len(content) - start:
        raise ValueError(
            f"{path}: expected {least} bytes for {element.rows} {noun}, got {len(content) - start}"
        )
    if least == 0:
        numbers = [field for field in element.fields if not field.length_kind]
        return {field.name: np.zeros(0, field.kind) for field in numbers}, start
    rows = _equal_rows(path, content, start, element, order)
    if rows is not None:
        names = [
            (str(k), field.name) for k, field in enumerate(element.fields) if not field.length_kind
        ]
        return {name: rows[key] for key, name in names} if read else {}, start + rows.nbytes
    places, end = _walk(path, content, start, element, order, read)
    data = np.frombuffer(content, np.uint8)
    columns = {}
    for field, place in places.items():
        kind = np.dtype(order + field.kind)
        columns[field.name] = data[place[:, None] + np.arange(kind.itemsize)].view(kind)[:, 0]
    return columns, end


def _equal_rows(
    path: Path, content: bytes, start: int, element: _Element, order: str
) -> NDArray[np.void] | None:
    """Return the rows as an array if all have lists of the same lengths as the first, or none."""
    fields: list[Any] = []
    lengths: dict[str, int] = {}
    position = start
    for k, (_, kind, count) in enumerate(element.fields):
        if count:
            length = _list_length(path, content, position, order, count)
            position += np.dtype(count).itemsize
            lengths[f"length {k}"] = length
            fields += [(f"length {k}", order + count), (str(k), order + kind, (length,))]
            position += length * np.dtype(kind).itemsize
        else:
            fields.append((str(k), order + kind))
            position += np.dtype(kind).itemsize
    if element.rows * (position - start) > len(content) - start or position - start > 2**30:
        return None
    rows = np.frombuffer(content, np.dtype(fields), element.rows, start)
    return rows if all((rows[name] == length).all() for name, length in lengths.items()) else None


def _walk(
    path: Path, content: bytes, start: int, element: _Element, order: str, read: bool
) -> tuple[dict[_Property, NDArray[np.int64]], int]:
    """Find the numbers of rows with lists of different lengths."""
    places = {
        f: np.zeros(element.rows, np.int64) for f in element.fields if read and not f.length_kind
    }
    sizes = [np.dtype(field.kind).itemsize for field in element.fields]
    position = start
    for row in range(element.rows):
        for field, size in zip(element.fields, sizes, strict=True):
            if field.length_kind:
                length = _list_length(path, content, position, order, field.length_kind)
                position += np.dtype(field.length_kind).itemsize + length * size
                continue
            if read:
                places[field][row] = position
            position += size
        if position > len(content):
            name = short_line(element.name)
            raise ValueError(f"{path}: the file ends in row {row} of {name}")
    return places, position


_CODES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I"}  # of `struct`


def _list_length(path: Path, content: bytes, position: int, order: str, kind: str) -> int:
    try:
        (length,) = struct.unpack_from(order + _CODES[kind], content, position)
    except (struct.error, KeyError):
        raise ValueError(f"{path}: expected the length of a list at byte {position}") from None
    if not 0 <= length <= len(content):
        raise ValueError(f"{path}: a list claims {length} numbers")
    return int(length)


def _header(path: Path, file: IO[bytes]) -> _Header:
    start = file.read(8)
    if not start.startswith((b"ply\n", b"ply\r", b"ply ", b"ply\t")):
        raise ValueError(f"{path}: expected a PLY file starting with ply, got {start!r}")
    file.seek(0)
    lines = read_header(file, b"END_HEADER", _LONGEST_HEADER)
    if lines is None:
        raise ValueError(f"{path}: expected end_header within {_LONGEST_HEADER} bytes, found none")
    if lines[0].split() != [b"ply"]:
        raise ValueError(f"{path}: expected a PLY file starting with ply, got {start!r}")
    order: str | None = None
    elements: list[_Element] = []
    comments = []
    for line in lines[1:-1]:
        words = [word.decode("latin1") for word in line.split()]
        if not words:
            continue
        if words[0] in ("comment", "obj_info"):
            comments.append(line.strip())
        elif words[0] == "format" and len(words) == 3 and words[1] in _ORDERS:
            order = _ORDERS[words[1]]
        elif words[0] == "element" and len(words) == 3 and _is_count(words[2]):
            elements.append(_Element(words[1], int(words[2]), [], [line.strip()]))
        elif words[0] == "property" and elements and _property(words, elements[-1]):
            elements[-1].lines.append(line.strip())
        else:
            text = line.decode("latin1").strip()
            raise ValueError(f"{path}: invalid line in the header: {text[:80]!r}")
    if order is None:
        raise ValueError(f"{path}: the header names no format, expected one of {[*_ORDERS]}")
    return _Header(order, elements, comments)


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) <= 15


def _property(words: list[str], element: _Element) -> bool:
    """Append a property to its element.

    Returns:
        False if the line is not a property.
    """
    if len(words) == 5 and words[1] == "list" and words[2] in _TYPES and words[3] in _TYPES:
        element.fields.append(_Property(words[4], _TYPES[words[3]], _TYPES[words[2]]))
    elif len(words) == 3 and words[1] in _TYPES:
        element.fields.append(_Property(words[2], _TYPES[words[1]], ""))
    else:
        return False
    return True


def write_ply_table(temporary: Path, table: CloudTable) -> None:
    """Write all properties of the points, and the other elements of a PLY file."""
    columns = as_ply_columns(table)
    count = table.size[0] * table.size[1]
    rest = table.rest if isinstance(table.rest, PlyRest) else NO_REST
    order, comments, before, after, content_before, content_after = rest
    form = next(name for name, value in _ORDERS.items() if value == order)
    types = {name: column.dtype.newbyteorder("=").str[1:] for name, column in columns.items()}
    header = [b"ply", f"format {form} 1.0".encode(), *comments, *before]
    header += [f"element vertex {count}".encode()]
    header += [f"property {_NAMES[kind]} {name}".encode("latin1") for name, kind in types.items()]
    with temporary.open("wb") as file:
        file.write(b"\n".join([*header, *after, b"end_header", b""]))
        file.write(content_before)
        if order:
            layout = [(str(k), order + kind) for k, kind in enumerate(types.values())]
            rows = np.zeros(count, layout)
            for k, column in enumerate(columns.values()):
                rows[str(k)] = column
            write_array(file, rows)
        else:
            # NumPy's scalars print as the shortest text that gives the same number of their type.
            lines = zip(*(map(str, column) for column in columns.values()), strict=True)
            file.writelines(" ".join(line).encode() + b"\n" for line in lines)
        file.write(content_after)
