"""PCD files of the Point Cloud Library, version 0.7: ascii, binary, binary_compressed."""

import math
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch.io._cloud_table import CloudTable, as_pcd_columns
from flowmatch.io._files import write_array
from flowmatch.io._text import number_columns, read_header

_LONGEST_HEADER = 2**14
_TYPES = {f"{kind}{size}" for kind in "IU" for size in (1, 2, 4, 8)} | {"F4", "F8", "F2"}
# LZF expands 3 bytes to at most 264.
_LZF_LIMIT = 88
_LARGEST_POINT = 2**30  # bytes


class _Header(NamedTuple):
    fields: list[str]
    types: list[str]  # in NumPy's notation
    counts: list[int]
    size: tuple[int, int]  # width and height
    points: int
    data: str


def read_pcd(path: Path) -> CloudTable:
    """Read the points of a PCD file with all their properties.

    Raises:
        ValueError: The file is damaged, or not a PCD file.
    """
    with path.open("rb") as file:
        header = _header(path, file)
        parts = _read_text(path, file, header) if header.data == "ascii" else None
        if parts is None:
            parts = _read_binary(path, file, header)
    columns, types = {}, {}
    for name, kind, count, part in zip(
        header.fields, header.types, header.counts, parts, strict=True
    ):
        if name != "_" and name not in columns:  # _ is padding
            columns[name] = part[:, 0] if count == 1 else part
            types[name] = np.dtype(kind)
    width, height = header.size
    size = header.size if width * height == header.points else (header.points, 1)
    return CloudTable(columns, types, size, [])


def _read_text(path: Path, file: IO[bytes], header: _Header) -> list[NDArray[Any]]:
    """Read one array ``[points, count]`` for each field."""
    if header.points == 0:
        return [np.zeros((0, count)) for count in header.counts]
    left = path.stat().st_size - file.tell()
    if 2 * header.points * sum(header.counts) > left + 1:  # a digit and a space for each number
        raise ValueError(
            f"{path}: claims {header.points} lines of {sum(header.counts)} numbers, "
            f"but {left} bytes are left"
        )
    kinds = []
    for kind, count in zip(header.types, header.counts, strict=True):
        # float64 holds all numbers but the integers of 64 bits.
        kinds += [kind if kind in ("<i8", "<u8") else "f8"] * count
    numbers = number_columns(path, file, kinds, skip=0, rows=header.points)
    starts = np.cumsum([0, *header.counts]).tolist()
    return [
        np.stack(numbers[start : start + count], axis=1) if count else np.zeros((header.points, 0))
        for start, count in zip(starts, header.counts, strict=False)
    ]


def _read_binary(path: Path, file: IO[bytes], header: _Header) -> list[NDArray[Any]]:
    """Read one array ``[points, count]`` for each field."""
    stored = path.stat().st_size - file.tell()
    fields: list[Any] = [
        (str(k), kind, (count,))
        for k, (kind, count) in enumerate(zip(header.types, header.counts, strict=True))
    ]
    sizes = [np.dtype(kind).itemsize * count for _, kind, (count,) in fields]
    claimed = sum(sizes) * header.points
    if header.data == "binary_compressed":
        content = _decompress(path, file, stored, claimed)
    elif claimed > stored:
        raise ValueError(
            f"{path}: expected {claimed} bytes for {header.points} points, got {stored}"
        )
    else:
        content = file.read(claimed)
    if claimed == 0 or sum(sizes) > _LARGEST_POINT:
        if claimed:
            raise ValueError(f"{path}: a point claims {sum(sizes)} bytes")
        return [np.zeros((header.points, count), kind) for _, kind, (count,) in fields]
    if header.data == "binary":  # stored point by point; binary_compressed stores field by field
        rows = np.frombuffer(content, np.dtype(fields), header.points)
        return [rows[name] for name, _, _ in fields]
    starts = np.cumsum([0, *sizes]).tolist()
    return [
        np.frombuffer(content[start * header.points : stop * header.points], kind).reshape(
            header.points, count
        )
        for start, stop, (_, kind, (count,)) in zip(starts, starts[1:], fields, strict=False)
    ]


def _header(path: Path, file: IO[bytes]) -> _Header:
    lines = read_header(file, b"DATA", _LONGEST_HEADER)
    if lines is None:
        raise ValueError(f"{path}: expected a PCD header that ends with DATA")
    entries: dict[str, list[str]] = {}
    for line in lines:
        words = [word.decode("latin1") for word in line.split()]
        if words and not words[0].startswith("#"):
            entries[words[0].upper()] = words[1:]
    fields, sizes, kinds = (entries.get(name, []) for name in ("FIELDS", "SIZE", "TYPE"))
    counts = entries.get("COUNT", ["1"] * len(fields))
    width, height = entries.get("WIDTH", []), entries.get("HEIGHT", ["1"])
    points = entries.get("POINTS", [])
    data = entries["DATA"][0].lower() if entries["DATA"] else ""
    types = [kind.upper() + size for kind, size in zip(kinds, sizes, strict=False)]
    if (
        not len(fields) == len(sizes) == len(kinds) == len(counts)
        or not (len(points) == 1 if "POINTS" in entries else len(width) == len(height) == 1)
        or not all(_is_count(n) for n in (*sizes, *counts, *(points or (*width, *height))))
        or not set(types) <= _TYPES
        or data not in ("ascii", "binary", "binary_compressed")
    ):
        raise ValueError(f"{path}: invalid PCD header {str(entries)[:300]}")
    widths = [int(count) for count in counts]
    for axis in "xyz":
        if fields.count(axis) != 1 or widths[fields.index(axis)] != 1:
            raise ValueError(f"{path}: expected one number each of x, y and z, got {fields}")
    is_image = len(width) == len(height) == 1 and _is_count(width[0]) and _is_count(height[0])
    size = (int(width[0]), int(height[0])) if is_image else (0, 0)
    count = int(points[0]) if points else size[0] * size[1]
    return _Header(fields, ["<" + t.lower() for t in types], widths, size, count, data)


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) < 16


def _decompress(path: Path, file: IO[bytes], stored: int, claimed: int) -> bytes:
    """Decompress LZF (Lehmann's liblzf): runs of literals, and references to earlier output."""
    sizes = np.frombuffer(file.read(8), "<u4").tolist() if stored >= 8 else [0, 0]
    if sizes[0] > stored - 8 or sizes[1] != claimed or claimed > _LZF_LIMIT * sizes[0]:
        raise ValueError(
            f"{path}: {sizes[0]} compressed bytes for {sizes[1]}, "
            f"expected {stored - 8} at most for {claimed}"
        )
    packed = file.read(sizes[0])
    out = bytearray()
    at = 0
    try:
        while at < len(packed) and len(out) <= claimed:
            control = packed[at]
            at += 1
            if control < 32:
                out += packed[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += packed[at]
                at += 1
            back = ((control & 31) << 8) + packed[at] + 1
            at += 1
            start = len(out) - back
            if start < 0:
                raise IndexError(back)
            while length + 2 > 0:  # a reference may overlap its own output
                part = out[start : start + length + 2]
                out += part
                start += len(part)
                length -= len(part)
    except IndexError as error:
        raise ValueError(f"{path}: the compressed points are damaged") from error
    if len(out) != claimed:
        raise ValueError(f"{path}: expected {claimed} bytes of points, got {len(out)}")
    return bytes(out)


def write_pcd_table(temporary: Path, table: CloudTable) -> None:
    """Write all properties of the points, in binary."""
    width, height = table.size
    columns = {
        name: column.reshape(width * height, math.prod(column.shape[1:]))
        for name, column in as_pcd_columns(table).items()
    }
    types = [column.dtype.newbyteorder("<") for column in columns.values()]
    kinds = " ".join(kind.kind.upper() for kind in types)
    counts = [column.shape[1] for column in columns.values()]
    header = [
        "# .PCD v0.7 - Point Cloud Data file format", "VERSION 0.7", f"FIELDS {' '.join(columns)}",
        f"SIZE {' '.join(str(kind.itemsize) for kind in types)}", f"TYPE {kinds}",
        f"COUNT {' '.join(map(str, counts))}", f"WIDTH {width}", f"HEIGHT {height}",
        "VIEWPOINT 0 0 0 1 0 0 0", f"POINTS {width * height}", "DATA binary", "",
    ]  # fmt: skip
    layout: list[Any] = [
        (str(k), kind, (count,)) for k, (kind, count) in enumerate(zip(types, counts, strict=True))
    ]
    rows = np.zeros(width * height, layout)
    for k, column in enumerate(columns.values()):
        rows[str(k)] = column
    with temporary.open("wb") as file:
        file.write("\n".join(header).encode("latin1"))
        write_array(file, rows)
