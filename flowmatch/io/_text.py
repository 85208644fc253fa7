"""Tables of numbers in text, as .xyz, ASCII .ply and .pcd hold them."""

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
    """Read columns of the lines that are left in a file, [N, columns].

    Args:
        path: Its name, for messages.
        file: Open, at the first line.
        columns: Which.
        skip: Lines to pass over.
        rows: How many lines there must be at least; None takes all.
        comments: What starts a comment.

    Raises:
        ValueError: There are fewer lines, or something else than numbers.
    """
    # Two bytes a line at least, so that a claim costs nothing before it is known to be one.
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
            warnings.simplefilter("ignore")  # "input contained no data" is said below
            table = np.loadtxt(text, usecols=columns, max_rows=rows, comments=comments, ndmin=2)
    except (ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"{path}: expected numbers: {error}") from error
    table = table.reshape(-1, len(columns))
    if len(table) < (rows or 0):
        raise ValueError(f"{path}: expected {rows} lines of numbers, got {len(table)}")
    return np.asarray(table, np.float64)
