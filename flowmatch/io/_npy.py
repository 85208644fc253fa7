"""NumPy arrays in .npy and .npz files, checked before they are read: np.load allocates first."""

import io
import math
import warnings
import zipfile
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from flowmatch.io._files import reason_of, require_plausible

_LONGEST_HEADER = 2**14  # bytes; NumPy refuses more than 10,000


def read_npy_entry(
    path: Path, archive: zipfile.ZipFile, name: str, kind: str, expected: tuple[int | None, ...]
) -> NDArray[Any]:
    """Read one array of an .npz file after checking its header.

    Args:
        path: The .npz file.
        archive: The same file, open.
        name: Name of the array's entry, such as ``"flow.npy"``.
        kind: Expected kind of the type, as in NumPy: ``"f"`` or ``"b"``.
        expected: Expected shape; None for an axis of any size.

    Raises:
        ValueError: The file is damaged, or the array has another type or shape.
    """
    entry = archive.getinfo(name)
    require_plausible(path, entry.file_size, min(entry.compress_size, path.stat().st_size))
    with archive.open(entry) as file:
        shape, fortran, dtype, header = read_npy_header(path, file)
        fits = len(shape) == len(expected) and all(
            size > 0 and size == (side or size) for size, side in zip(shape, expected, strict=True)
        )
        if dtype.kind != kind or not fits:
            sides = ", ".join("any" if side is None else str(side) for side in expected)
            raise ValueError(
                f"{path}: {name} must be {'floats' if kind == 'f' else 'bool'} [{sides}], "
                f"got {dtype} {list(shape)}"
            )
        claimed = math.prod(shape) * dtype.itemsize
        if header + claimed != entry.file_size:
            raise ValueError(
                f"{path}: {name} claims {claimed} bytes, got {entry.file_size - header}"
            )
        content = file.read(claimed)
    if len(content) != claimed:
        raise ValueError(f"{path}: {name} ends after {len(content)} of {claimed} bytes")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def read_npy_header(
    path: Path, file: IO[bytes]
) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Read the header of an array at the beginning of a file.

    Returns:
        Shape, whether the order is Fortran's, type, and number of bytes before the data.

    Raises:
        ValueError: The header is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about headers of Python 2
            # NumPy allocates what a header claims to be long, up to 4 GB.
            start = io.BytesIO(file.read(_LONGEST_HEADER))
            version = np.lib.format.read_magic(start)
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(start)
            else:
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(start)
    except (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path}: damaged array header: {reason_of(error)}") from error
    file.seek(start.tell())
    return shape, fortran, dtype, start.tell()
