"""Headers and tables of numbers in text files: .xyz, .ply and .pcd."""

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from flowmatch.io._files import reason_of

_LINE_END = re.compile(rb"\r*\n|\r")
_LINE_FEED_FIRST = re.compile(rb"\n\r(?!\r*\n)")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A comma inside a number, or between two numbers without a space; one between two numbers with
# a space; and a space between numbers.
_TIGHT_COMMA = re.compile(r"[^\s,],[^\s,]")
_SPACED_COMMA = re.compile(r"[^\s,](?:,[^\S\n]+|[^\S\n]+,[^\S\n]*)[^\s,]")
_LONE_SPACE = re.compile(r"[^\s,][^\S\n]+[^\s,]")


def read_header(file: IO[bytes], last: bytes, longest: int) -> list[bytes] | None:
    r"""Read the header lines of a file, whatever its line ends: LF, CR LF, CR or LF CR.

    The first line's end is the end of all of them: a byte of data that happens to be a line feed
    or a carriage return is not taken for one.

    Args:
        file: The file, open at its start; afterwards at the byte after the header.
        last: First word of the header's last line, in capitals.
        longest: Maximum length of the header, bytes.

    Returns:
        The lines, without their ends; None if there is no line `last` within `longest` bytes.

    Example:
        >>> file = io.BytesIO(b"ply\rend_header\r\n\0")
        >>> read_header(file, b"END_HEADER", 99), file.read()
        ([b'ply', b'end_header'], b'\n\x00')
    """
    origin = file.tell()
    start = file.read(longest)
    first = _LINE_END.search(start)
    if first is None:
        return None
    end = b"\n" if first[0].endswith(b"\n") else b"\r"
    if first[0] == b"\n" and _LINE_FEED_FIRST.match(start, first.start()):
        end = b"\n\r"
    lines: list[bytes] = []
    position = 0
    while (stop := start.find(end, position)) >= 0:
        line = start[position:stop]
        position = stop + len(end)
        lines.append(line)
        words = line.split(None, 1)
        if words and words[0].upper() == last:
            file.seek(origin + position)
            return lines
    return None


def separate(path: Path, text: str, comments: Sequence[str] = ()) -> str:
    """Replace commas between numbers by spaces.

    Raises:
        ValueError: A line has commas without and spaces without a comma, as with decimal commas.

    Example:
        >>> separate(Path("a.xyz"), "1.5,2, 3")
        '1.5 2  3'
    """
    if "," not in text:
        return text
    for number, whole in enumerate(text.split("\n"), start=1):
        line = whole
        for mark in comments:
            line = line.partition(mark)[0]
        if "," not in line or not _TIGHT_COMMA.search(line):
            continue
        # 1,5 2,5 3,5 and 1,5, 2,5, 3,5 and 1,5 ,2,5 ,3,5
        spaced = _SPACED_COMMA.search(line) and "." not in line
        if spaced or _LONE_SPACE.search(line.strip()):
            raise ValueError(
                f"{path}: line {number} has both commas and spaces between digits: "
                f"{line.strip()[:60]!r}; write decimals with a point"
            )
    return text.replace(",", " ")


def number_columns(
    path: Path, file: IO[bytes], types: Sequence[str], *, skip: int, rows: int
) -> list[NDArray[Any]]:
    """Read a table from the next lines of a file, which have exactly one number for each column.

    Args:
        path: Name of the file, for error messages.
        file: The file, open at the first line.
        types: NumPy type of each column.
        skip: Number of lines to skip.
        rows: Number of lines to read.

    Returns:
        The columns, ``[rows]`` each.

    Raises:
        ValueError: The file has fewer lines, other text than numbers, or more or fewer of them.
    """
    dtype = np.dtype([(str(k), kind) for k, kind in enumerate(types)])
    _require_lines(path, file, skip + rows)
    if rows == 0:
        return [np.zeros(0, kind) for kind in types]
    table = _load(path, _open_text(path, file.read(), skip), dtype=dtype, max_rows=rows)
    if len(table) < rows:
        raise ValueError(f"{path}: expected {rows} lines of numbers, got {len(table)}")
    return [table[str(k)] for k in range(len(types))]


def text_rows(path: Path, file: IO[bytes], *, skip: int, rows: int) -> list[list[str]]:
    """Return the words of the next lines of a file; empty lines do not count.

    Raises:
        ValueError: The file has fewer lines.
    """
    _require_lines(path, file, skip + rows)
    lines = [words for line in _open_text(path, file.read(), skip) if (words := line.split())]
    if len(lines) < rows:
        raise ValueError(f"{path}: expected {rows} lines of numbers, got {len(lines)}")
    return lines[:rows]


def number_table(
    path: Path, file: IO[bytes], columns: tuple[int, ...] | None, *, comments: tuple[str, ...]
) -> NDArray[np.float64]:
    """Read columns of numbers from all lines of a file.

    Args:
        path: Name of the file, for error messages.
        file: The file, open at the first line.
        columns: Indices of the columns, further columns are ignored; None reads all.
        comments: Marks that start a comment.

    Returns:
        Numbers ``[N, columns]``.

    Raises:
        ValueError: The file has other text than numbers, or decimal commas.
    """
    content = file.read().removeprefix(_BYTE_ORDER_MARK)
    text = separate(path, _open_text(path, content, 0).read(), comments)
    table = _load(path, io.StringIO(text), usecols=columns, comments=comments, ndmin=2)
    return np.asarray(table.reshape(-1, len(columns) if columns else table.shape[1]), np.float64)


def _require_lines(path: Path, file: IO[bytes], lines: int) -> None:
    """Check a claimed number of lines before memory is allocated: a line has two bytes or more."""
    left = path.stat().st_size - file.tell()
    if lines > left:
        raise ValueError(f"{path}: claims {lines} lines, but {left} bytes are left")


def _open_text(path: Path, content: bytes, skip: int) -> io.StringIO:
    if b"\n\r" in content and b"\r\n" not in content:
        content = content.replace(b"\n\r", b"\n")
    text = io.StringIO(content.decode("latin1"), newline=None)
    for _ in range(skip):
        text.readline()
    return text


def _load(path: Path, text: io.StringIO, **options: Any) -> NDArray[Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty table is reported by the caller
            return np.atleast_1d(np.loadtxt(text, **{"comments": None, **options}))
    except (ValueError, IndexError, OverflowError) as error:
        reason = reason_of(error).partition("; use `usecols`")[0]  # advice to callers of NumPy
        reason = reason.replace("the dtype passed requires", "a line needs")
        raise ValueError(f"{path}: expected numbers: {reason}") from error
