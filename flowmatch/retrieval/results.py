"""Results of a search: a contact sheet and files."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from flowmatch.draw import contact_sheet
from flowmatch.imaging import Image
from flowmatch.io import read_image, replace_when_done
from flowmatch.io._files import FilePath, entry_for_suffix
from flowmatch.matching.pair_list import Pair, write_pairs
from flowmatch.retrieval.verify import MIN_INLIERS


class Result(NamedTuple):
    """One result of a search.

    Attributes:
        name: Name of the image in its index.
        score: Cosine similarity of its descriptor and the query's.
        inliers: Number of matched points that agree on a homography; None if it was not verified.
    """

    name: str
    score: float
    inliers: int | None = None


def results_sheet(query: ArrayLike, results: Sequence[Result], root: Path) -> Image:
    """Draw the query and the results with their scores; verified results get a green frame.

    Args:
        query: uint8 image.
        results: Results, the best first.
        root: Folder of the results.

    Returns:
        Picture ``[H, W, 3]``.
    """
    images, captions, framed = [np.asarray(query)], ["query"], [False]
    for name, score, inliers in results:
        verified = inliers is not None and inliers >= MIN_INLIERS
        points = "" if inliers is None else f" {inliers} points"
        caption = f"{score:.2f}{points} {Path(name).name}"
        try:
            image = read_image(root / name)
        except (ValueError, OSError):
            image, caption = np.full((180, 240, 3), 220, np.uint8), f"missing: {name}"
        images.append(image)
        captions.append(caption)
        framed.append(verified)
    return contact_sheet(images, captions, framed=framed)


def write_results(path: FilePath, query: str, results: Sequence[Result]) -> None:
    """Write results, in the format of the suffix: ``.json``, ``.csv``, or ``.txt``.

    A ``.txt`` file is a list of pairs of the query and each result, as `read_pairs` takes it.

    Args:
        path: File to write.
        query: Name of the query, which a JSON file and a list of pairs record.
        results: Results, the best first.

    Raises:
        ValueError: The suffix is another one.
        FileNotFoundError: The folder of the file does not exist.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "found.csv"
        >>> write_results(path, "q.png", [Result("a.png", 0.5, 20)])
        >>> path.read_text().splitlines()
        ['rank,name,score,inliers', '1,a.png,0.5,20']
    """
    path = Path(path)
    write = entry_for_suffix(path, _WRITERS, "file of results")
    with replace_when_done(path) as temporary:
        write(temporary, query, results)


def _rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    return [
        {"rank": k, "name": name, "score": float(f"{score:.6g}"), "inliers": inliers}
        for k, (name, score, inliers) in enumerate(results, start=1)
    ]


def _write_csv(path: Path, query: str, results: Sequence[Result]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["rank", "name", "score", "inliers"])
        writer.writeheader()
        writer.writerows(_rows(results))


def _write_json(path: Path, query: str, results: Sequence[Result]) -> None:
    content = {"query": query, "results": _rows(results)}
    path.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")


def _write_pairs(path: Path, query: str, results: Sequence[Result]) -> None:
    write_pairs(path, [Pair(query, result.name) for result in results if result.name != query])


_WRITERS: dict[str, Callable[[Path, str, Sequence[Result]], None]] = {
    ".json": _write_json,
    ".csv": _write_csv,
    ".txt": _write_pairs,
}
RESULT_SUFFIXES = tuple(_WRITERS)
