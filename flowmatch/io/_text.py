"""Tables of numbers in text files: .xyz, ASCII .ply and .pcd."""

import io
import warnings
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray


def number_table(
    path: Path,
    file: IO[bytes],
    columns: tuple[int, ...],
    *,
    skip: int = 0,
    rows: int | None = None,
    comments: tuple[str, ...] | None = None,
) -> NDArray[np.float64]:
    """Read columns of numbers from the remaining lines of a file.

    Args:
        path: Name of the file, for error messages.
        file: The file, open at the first line.
        columns: Indices of the columns.
        skip: Number of lines to skip.
        rows: Number of lines to read; None reads all.
        comments: Marks that start a comment.

    Returns:
        Numbers ``[N, columns]``.

    Raises:
        ValueError: The file has fewer lines, or other text than numbers.
    """
    # A line has two bytes at least: a false number of lines is refused before memory is allocated.
    left = path.stat().st_size - file.tell()
    if (rows or 0) + skip > left:
        raise ValueError(f"{path}: claims {(rows or 0) + skip} lines, but {left} bytes are left")
    if rows == 0:
        return np.zeros((0, len(columns)))
    text = io.StringIO(file.read().decode("latin1").replace(",", " "), newline=None)
    for _ in range(skip):
        text.readline()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "input contained no data" is reported below
            table = np.loadtxt(text, usecols=columns, max_rows=rows, comments=comments, ndmin=2)
    except (ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"{path}: expected numbers: {error}") from error
    table = table.reshape(-1, len(columns))
    if len(table) < (rows or 0):
        raise ValueError(f"{path}: expected {rows} lines of numbers, got {len(table)}")
    return np.asarray(table, np.float64)
