"""PCD files of the Point Cloud Library, version 0.7: ascii, binary, binary_compressed."""

from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch.io._text import number_table

_LONGEST_HEADER = 2**14
_TYPES = {f"{kind}{size}" for kind in "IU" for size in (1, 2, 4, 8)} | {"F4", "F8", "F2"}
# LZF expands 3 bytes to at most 264.
_LZF_LIMIT = 88


class _Header(NamedTuple):
    fields: list[str]
    types: list[str]  # in NumPy's notation
    counts: list[int]
    points: int
    data: str


def read_pcd(path: Path) -> NDArray[np.float64]:
    """Read the points of a PCD file.

    Returns:
        Points ``[N, 3]``.

    Raises:
        ValueError: The file is damaged, or not a PCD file.
    """
    with path.open("rb") as file:
        header = _header(path, file)
        stored = path.stat().st_size - file.tell()
        if header.data == "ascii":
            starts = np.cumsum([0, *header.counts]).tolist()
            x, y, z = (starts[header.fields.index(axis)] for axis in "xyz")
            return number_table(path, file, (x, y, z), rows=header.points)
        sizes = [
            np.dtype(kind).itemsize * count
            for kind, count in zip(header.types, header.counts, strict=True)
        ]
        claimed = sum(sizes) * header.points
        if header.data == "binary_compressed":
            content = _decompress(path, file, stored, claimed)
        elif claimed > stored:
            raise ValueError(
                f"{path}: expected {claimed} bytes for {header.points} points, got {stored}"
            )
        else:
            content = file.read(claimed)
    if header.data == "binary":  # stored point by point; binary_compressed stores field by field
        raw = np.frombuffer(content, np.uint8).reshape(header.points, sum(sizes))
    columns = []
    for axis in "xyz":
        k = header.fields.index(axis)
        if header.data == "binary":
            part = raw[:, sum(sizes[:k]) : sum(sizes[: k + 1])].tobytes()
        else:
            start = sum(sizes[:k]) * header.points
            part = content[start : start + sizes[k] * header.points]
        columns.append(np.frombuffer(part, header.types[k]).astype(np.float64))
    return np.stack(columns, axis=1)


def _header(path: Path, file: IO[bytes]) -> _Header:
    entries: dict[str, list[str]] = {}
    while "DATA" not in entries:
        line = file.readline(_LONGEST_HEADER)
        if not line.endswith(b"\n") or file.tell() > _LONGEST_HEADER:
            raise ValueError(f"{path}: expected a PCD header that ends with DATA")
        words = line.decode("latin1").split()
        if words and not words[0].startswith("#"):
            entries[words[0].upper()] = words[1:]
    fields, sizes, kinds = (entries.get(name, []) for name in ("FIELDS", "SIZE", "TYPE"))
    counts = entries.get("COUNT", ["1"] * len(fields))
    points = entries.get("POINTS", [])
    data = entries["DATA"][0].lower() if entries["DATA"] else ""
    numbers = [*sizes, *counts, *points]
    types = [kind.upper() + size for kind, size in zip(kinds, sizes, strict=False)]
    if (
        not len(fields) == len(sizes) == len(kinds) == len(counts)
        or len(points) != 1
        or not all(n.isascii() and n.isdecimal() and len(n) < 16 for n in numbers)
        or not set(types) <= _TYPES
        or data not in ("ascii", "binary", "binary_compressed")
    ):
        raise ValueError(f"{path}: invalid PCD header {str(entries)[:300]}")
    widths = [int(count) for count in counts]
    for axis in "xyz":
        if fields.count(axis) != 1 or widths[fields.index(axis)] != 1:
            raise ValueError(f"{path}: expected one number each of x, y and z, got {fields}")
    return _Header(fields, ["<" + t.lower() for t in types], widths, int(points[0]), data)


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


def write_pcd(temporary: Path, points: NDArray[np.floating]) -> None:
    """Write points in binary, float32 or float64 as given."""
    size = points.dtype.itemsize
    header = [
        "# .PCD v0.7 - Point Cloud Data file format", "VERSION 0.7", "FIELDS x y z",
        f"SIZE {size} {size} {size}", "TYPE F F F", "COUNT 1 1 1", f"WIDTH {len(points)}",
        "HEIGHT 1", "VIEWPOINT 0 0 0 1 0 0 0", f"POINTS {len(points)}", "DATA binary", "",
    ]  # fmt: skip
    with temporary.open("wb") as file:
        file.write("\n".join(header).encode())
        points.astype(f"<f{size}").tofile(file)
