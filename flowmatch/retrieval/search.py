"""Searching an index: nearest descriptors, expansion, verification, and what to write about it."""

import csv
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flowmatch.draw import Picture, contact_sheet
from flowmatch.io import read_image, replace_when_done
from flowmatch.io._files import FilePath, entry_for_suffix
from flowmatch.ops import nearest
from flowmatch.retrieval.expansion import augment_database, expand_queries
from flowmatch.retrieval.index import Index
from flowmatch.retrieval.verify import ENOUGH, Verifier, rerank

_LARGE = 500_000  # descriptors from which on faiss is asked, if it is there


class Result(NamedTuple):
    """A picture that was found.

    Attributes:
        name: In its index.
        score: Cosine of its descriptor and the query's.
        inliers: Points that agree on a homography; None where it was not verified.
    """

    name: str
    score: float
    inliers: int | None = None


class Searcher:
    """The descriptors of an index, ready to be searched again and again.

    Entries that are 0, in which nothing could be described, are never found.

    Args:
        index: What to search.
        augment: Neighbours that each descriptor is averaged with, see `augment_database`.
        alpha: As there, and for expansion.
        approximate: Search by faiss, which looks into the nearest of many cells only; None does
            where faiss is installed and there are more than 500,000 pictures.

    Raises:
        ValueError: The index is empty.
        ImportError: `approximate` is asked for without faiss.
    """

    def __init__(
        self,
        index: Index,
        *,
        augment: int = 0,
        alpha: float = 3.0,
        approximate: bool | None = None,
    ) -> None:
        described = index.descriptors.any(1)  # a score of 0 is better than that of many a match
        if not described.all():
            entries = [entry for entry, kept in zip(index.entries, described, strict=True) if kept]
            index = replace(index, entries=entries, descriptors=index.descriptors[described])
        if not index.entries:
            raise ValueError("the index is empty")
        self.index, self.alpha = index, alpha
        self.reference = F.normalize(index.descriptors.float(), dim=1)
        if augment:
            self.reference = augment_database(self.reference, augment, alpha=alpha)
        if approximate is None:
            approximate = (
                len(index.entries) > _LARGE and importlib.util.find_spec("faiss") is not None
            )
        self._cells = _faiss_cells(self.reference) if approximate else None

    def search(self, query: Tensor, k: int = 12, *, expand: int = 0) -> list[Result]:
        """Find the `k` most similar pictures, best first.

        Args:
            query: ``[D]``.
            k: How many.
            expand: How many of the first to add to the query, to search again.

        Raises:
            ValueError: The query has another size, is empty, or `k` is not positive.
        """
        if query.shape != self.reference.shape[1:]:
            came = f"{list(query.shape)}, expected {list(self.reference.shape[1:])}"
            raise ValueError(f"the query is described by {came}")
        if not query.any():
            raise ValueError("nothing in the query can be described")
        if k < 1 or expand < 0:
            raise ValueError(f"k must be positive and expand not negative, got {k} and {expand}")
        queries = F.normalize(query.float()[None], dim=1)
        if expand:
            queries = expand_queries(queries, self.reference, expand, alpha=self.alpha)
        k = min(k, len(self.reference))
        if self._cells is not None:
            score, place = self._cells(queries.numpy(), k)
        else:
            found = nearest(queries, self.reference, k, "dot")
            score, place = found.distance.numpy(), found.index.numpy()
        pairs = zip(place[0].tolist(), score[0].tolist(), strict=True)
        return [Result(self.index.entries[p].name, s) for p, s in pairs if p >= 0]


def _faiss_cells(reference: Tensor) -> Callable[[NDArray[np.float32], int], Any]:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("approximate search needs faiss: pip install faiss-cpu") from error
    vectors = reference.numpy()
    cells = max(1, int(4 * len(vectors) ** 0.5) if len(vectors) > 10_000 else len(vectors) // 39)
    coarse = faiss.IndexFlatIP(vectors.shape[1])
    index = faiss.IndexIVFFlat(coarse, vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    index.nprobe = max(8, cells // 16)
    return lambda queries, k: index.search(queries, k)


def verify_results(
    results: Sequence[Result], query: ArrayLike, root: Path, *, most: int = 50, enough: int = ENOUGH
) -> list[Result]:
    """Match the query with the first results, and put first what agrees.

    Args:
        results: Best first.
        query: uint8 picture.
        root: Folder of the results.
        most: How many to look at.
        enough: Points that have to agree.

    Returns:
        The results with their inliers; pictures that cannot be read any more have none.
    """
    verifier = Verifier(query)

    def inliers(place: int) -> int:
        try:
            return verifier.inliers(read_image(root / results[place].name))
        except (ValueError, OSError):
            return 0

    order = rerank(len(results), inliers, most=most, enough=enough)
    return [results[k]._replace(inliers=count if count >= 0 else None) for k, count in order]


# ---- What to write -----------------------------------------------------------------------------


def results_sheet(query: ArrayLike, results: Sequence[Result], root: Path) -> Picture:
    """Draw the query and what was found, with scores; what is verified gets a green frame.

    Args:
        query: uint8 picture.
        results: Best first.
        root: Their folder.

    Returns:
        Picture ``[H, W, 3]``.
    """
    pictures, captions, framed = [np.asarray(query)], ["query"], [False]
    for name, score, inliers in results:
        verified = inliers is not None and inliers >= ENOUGH
        points = "" if inliers is None else f" {inliers} points"
        caption = f"{score:.2f}{points} {Path(name).name}"
        try:
            picture = read_image(root / name)
        except (ValueError, OSError):
            picture, caption = np.full((180, 240, 3), 220, np.uint8), f"gone: {name}"
        pictures.append(picture)
        captions.append(caption)
        framed.append(verified)
    return contact_sheet(pictures, captions, framed=framed)


def write_results(path: FilePath, query: str, results: Sequence[Result]) -> None:
    """Write what was found, by suffix: ``.json`` or ``.csv``.

    Args:
        path: The file.
        query: Its name, for the record.
        results: Best first.

    Raises:
        ValueError: Another suffix.
        FileNotFoundError: There is no such folder.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "found.csv"
        >>> write_results(path, "q.png", [Result("a.png", 0.5, 20)])
        >>> path.read_text().splitlines()
        ['rank,name,score,inliers', '1,a.png,0.5,20']
    """
    path = Path(path)
    write = entry_for_suffix(path, _WRITERS, "file of results")
    with replace_when_done(path) as beside:
        write(beside, query, results)


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


_WRITERS: dict[str, Callable[[Path, str, Sequence[Result]], None]] = {
    ".json": _write_json,
    ".csv": _write_csv,
}
RESULT_SUFFIXES = tuple(_WRITERS)
