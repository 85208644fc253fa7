"""Statistics of each pair of a clip, as CSV beside the flows, or as Parquet with the flows."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmatch.io import replace_when_done
from flowmatch.io.flow import read_flow

CSV, PARQUET = "pairs.csv", "flows.parquet"
COLUMNS = (
    "pair", "width", "height", "known", "mean_u", "mean_v", "mean_magnitude", "median_magnitude",
    "max_magnitude",
)  # fmt: skip
"""Number of the pair; size of the flow; share of known pixels; and over these, the mean flow and
the mean, median and maximum of its length, in pixels (NaN if none is known)."""
_ROWS = 16  # of one group of a Parquet file: bounds the memory


def pair_statistics(pair: int, flow: NDArray[np.float32]) -> dict[str, Any]:
    """Return a row of the table.

    Args:
        pair: Number of the pair.
        flow: Flow ``[H, W, 2]`` in pixels; unknown flow is NaN.

    Example:
        >>> row = pair_statistics(7, np.full((2, 3, 2), (3, 4), np.float32))
        >>> row["pair"], row["width"], row["mean_u"], row["mean_magnitude"]
        (7, 3, 3.0, 5.0)
    """
    known = flow[np.isfinite(flow).all(axis=2)].astype(np.float64)
    length = np.hypot(known[:, 0], known[:, 1]) if len(known) else np.array([np.nan])
    u, v = known.mean(axis=0) if len(known) else (np.nan, np.nan)
    height, width = flow.shape[:2]
    numbers = (
        len(known) / (height * width), u, v, length.mean(), np.median(length), length.max(),
    )  # fmt: skip
    return dict(zip(COLUMNS, (pair, width, height, *map(float, numbers)), strict=True))


def write_csv(path: Path, flows: Sequence[tuple[int, Path]]) -> None:
    """Write the statistics of flows.

    Args:
        path: File to write.
        flows: Number and file of each flow.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for pair, file in flows:
        row = pair_statistics(pair, read_flow(file))
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    with replace_when_done(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def pairs_of_csv(path: Path) -> list[int]:
    """Return the numbers of the pairs of a table.

    Raises:
        ValueError: The file is no such table.
        OSError: It cannot be read.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if next(rows, None) != list(COLUMNS):
            raise ValueError(f"{path} is no table of pairs")
        return [int(row[0]) for row in rows if row]


def write_parquet(path: Path, clip: str, files: Sequence[tuple[int, dict[str, Path]]]) -> None:
    """Write statistics and files of flows as one Parquet file.

    Args:
        path: File to write.
        clip: Name of the clip, for the first column.
        files: For each pair its number, and its files by column; ``"flow"`` is the flow.

    Raises:
        ImportError: pyarrow is not installed.
    """
    arrow, parquet = import_parquet()
    kinds = [arrow.int64()] * 3 + [arrow.float64()] * (len(COLUMNS) - 3)
    names = list(files[0][1]) if files else ["flow"]
    schema = arrow.schema(
        [("clip", arrow.string()), *zip(COLUMNS, kinds, strict=True)]
        + [(name, arrow.binary()) for name in names]
    )
    with (
        replace_when_done(path) as temporary,
        # Flows are compressed already, or do not shrink much.
        parquet.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for rows in _groups(clip, files):
            writer.write_table(arrow.Table.from_pylist(rows, schema))


def _groups(
    clip: str, files: Sequence[tuple[int, dict[str, Path]]]
) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(files), _ROWS):
        yield [
            {"clip": clip}
            | pair_statistics(pair, read_flow(paths["flow"]))
            | {name: path.read_bytes() for name, path in paths.items()}
            for pair, paths in files[start : start + _ROWS]
        ]


def import_parquet() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            f"Parquet files need pyarrow: pip install 'flowmatch[ray]' ({error})"
        ) from error
    return pyarrow, pyarrow.parquet
