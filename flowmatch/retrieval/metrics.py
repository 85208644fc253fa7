"""The protocol of Oxford and Paris: easy, hard, junk, and mean average precision."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.io._files import FilePath, existing_file

_LARGEST = 2**26  # bytes of a file of truths; the largest published is below 1 MB

# What counts as found and what as not there, of (easy, hard, junk).
_SETTINGS = {
    "easy": ((0,), (1, 2)),
    "medium": ((0, 1), (2,)),
    "hard": ((1,), (0, 2)),
}


class Truth(NamedTuple):
    """What should be found for one query: indices into the names of all pictures.

    Attributes:
        easy: Seen clearly. The first Oxford and Paris call these good and ok.
        hard: Seen in part, or from aside; empty in the first Oxford and Paris.
        junk: Neither right nor wrong to find.
        box: Left, top, right, bottom of the query in its picture, pixels; None is all of it.
    """

    easy: tuple[int, ...]
    hard: tuple[int, ...]
    junk: tuple[int, ...]
    box: tuple[float, ...] | None = None


class Protocol(NamedTuple):
    """Queries, pictures to search, and what is to be found.

    Attributes:
        names: Of the pictures searched.
        queries: Names of the queries.
        truths: One a query.
    """

    names: list[str]
    queries: list[str]
    truths: list[Truth]


def average_precision(ranks: ArrayLike, positives: int) -> float:
    """Take the area under precision over recall, by trapezoids.

    Args:
        ranks: Places of what is right in the ranking, from 0, rising, junk being left out.
        positives: How many there are to be found.

    Returns:
        0 to 1.

    Raises:
        ValueError: There is nothing to be found.

    Example:
        >>> average_precision([0, 2], positives=2)
        0.7916666666666666

    Reference:
        Philbin et al., Object Retrieval with Large Vocabularies and Fast Spatial Matching, CVPR
        2007, whose program takes trapezoids.
    """
    if positives < 1:
        raise ValueError(f"positives must be positive, got {positives}")
    places = np.asarray(ranks, np.float64)
    before = np.arange(len(places))
    at_place = np.where(places == 0, 1.0, before / np.maximum(places, 1))
    return float(((at_place + (before + 1) / (places + 1)) / 2).sum() / positives)


def _places(
    ranking: NDArray[np.int64], positives: Sequence[int], junk: Sequence[int]
) -> NDArray[np.int64]:
    """Find the places of what is right, not counting junk."""
    skipped = np.isin(ranking, np.asarray(junk, np.int64))
    return np.flatnonzero(np.isin(ranking[~skipped], np.asarray(positives, np.int64)))


def mean_average_precision(
    rankings: Sequence[ArrayLike], truths: Sequence[Truth]
) -> dict[str, float]:
    """Evaluate rankings by the revisited protocol.

    Args:
        rankings: For each query indices of pictures, best first, each at most once.
        truths: For each query.

    Returns:
        ``"mAP/easy"``, ``"mAP/medium"``, ``"mAP/hard"`` and ``"mP@1/..."``, ``"mP@5/..."``,
        ``"mP@10/..."`` of each, 0 to 1; NaN where no query has anything to be found. Queries
        without are left out. The first Oxford and Paris have one setting, ``"easy"``.

    Raises:
        ValueError: There are not as many rankings as truths, or a ranking repeats itself.

    Example:
        >>> truth = Truth(easy=(3,), hard=(), junk=(0,))
        >>> mean_average_precision([[0, 3, 1, 2]], [truth])["mAP/easy"]
        1.0

    Reference:
        Radenovic et al., Revisiting Oxford and Paris: Large-Scale Image Retrieval Benchmarking,
        CVPR 2018, section 3.
    """
    if len(rankings) != len(truths):
        raise ValueError(f"expected a ranking a query, got {len(rankings)} for {len(truths)}")
    orders = [np.asarray(ranking, np.int64).reshape(-1) for ranking in rankings]
    for k, order in enumerate(orders):
        if len(np.unique(order)) != len(order):
            raise ValueError(f"ranking {k} holds a picture twice")
    result: dict[str, float] = {}
    for setting, (right, ignored) in _SETTINGS.items():
        precision: list[float] = []
        at: dict[int, list[float]] = {1: [], 5: [], 10: []}
        for order, truth in zip(orders, truths, strict=True):
            positives = [index for part in right for index in truth[:3][part]]
            junk = [index for part in ignored for index in truth[:3][part]]
            if not positives:
                continue
            places = _places(order, positives, junk)
            precision.append(average_precision(places, len(positives)))
            for k, values in at.items():
                # Of fewer to be found than k, no more is asked for.
                last = min(k, int(places[-1]) + 1) if len(places) else k
                values.append(float((places < last).sum() / last))
        result[f"mAP/{setting}"] = _mean(precision)
        result |= {f"mP@{k}/{setting}": _mean(values) for k, values in at.items()}
    return result


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


# ---- Files -------------------------------------------------------------------------------------


def read_protocol(path: FilePath, names: Sequence[str] | None = None) -> Protocol:
    """Read what is to be found.

    Args:
        path: A folder of the first Oxford or Paris (``*_query.txt`` with ``_good``, ``_ok``,
            ``_junk``), or a .json with the lists ``imlist``, ``qimlist`` and ``gnd`` of the
            revisited ones. Those are published as pickles, which run code when they are read and
            so are not read here; ``json.dump`` of what a trusted one holds makes the .json.
        names: Of the pictures, for a folder, without suffix; None takes those the files name.

    Returns:
        The protocol.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or names what there is not.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "gnd.json"
        >>> gnd = [{"easy": [1], "hard": [], "junk": [0], "bbx": [0, 0, 9, 9]}]
        >>> _ = path.write_text(json.dumps({"imlist": ["a", "b"], "qimlist": ["q"], "gnd": gnd}))
        >>> read_protocol(path).truths[0].easy
        (1,)
    """
    path = Path(path)
    return _read_folder(path, names) if path.is_dir() else _read_json(existing_file(path))


def _read_json(path: Path) -> Protocol:
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, expected at most {_LARGEST}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    try:
        names, queries = ([str(name) for name in content[key]] for key in ("imlist", "qimlist"))
        truths = [_truth(entry, len(names)) for entry in content["gnd"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: expected imlist, qimlist and gnd: {error!r}") from error
    if len(queries) != len(truths):
        raise ValueError(f"{path}: {len(queries)} queries and {len(truths)} entries of gnd")
    return Protocol(names, queries, truths)


def _truth(entry: Any, count: int) -> Truth:
    if "easy" in entry:
        parts = [entry["easy"], entry["hard"], entry["junk"]]
    else:  # the first protocols in the same clothes
        parts = [entry["ok"], [], entry["junk"]]
    easy, hard, junk = (tuple(int(index) for index in part) for part in parts)
    wrong = [index for index in easy + hard + junk if not 0 <= index < count]
    if wrong:
        raise ValueError(f"picture {wrong[0]} of {count}")
    box = tuple(float(number) for number in entry["bbx"]) if entry.get("bbx") else None
    return Truth(easy, hard, junk, box)


def _read_folder(folder: Path, names: Sequence[str] | None) -> Protocol:
    files = sorted(folder.glob("*_query.txt"))
    if not files:
        raise ValueError(f"{folder}: expected files *_query.txt, got none")
    queries, boxes, lists = [], [], []
    for file in files:
        words = _words(file)
        if len(words) != 5:
            raise ValueError(f"{file}: expected a name and 4 numbers, got {len(words)} words")
        try:
            boxes.append(tuple(float(word) for word in words[1:]))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        queries.append(words[0].removeprefix("oxc1_"))
        stem = file.name.removesuffix("query.txt")
        lists.append(
            [_words(file.with_name(f"{stem}{kind}.txt")) for kind in ("good", "ok", "junk")]
        )
    if names is None:
        names = sorted({*queries, *(name for three in lists for part in three for name in part)})
    place = {name: k for k, name in enumerate(names)}
    unknown = [n for three in lists for part in three for n in part if n not in place]
    if unknown:
        raise ValueError(f"{folder} names pictures that are not there: {', '.join(unknown[:3])}")
    truths = [
        Truth(tuple(place[n] for n in good + ok), (), tuple(place[n] for n in junk), box)
        for (good, ok, junk), box in zip(lists, boxes, strict=True)
    ]
    return Protocol(list(names), queries, truths)


def _words(path: Path) -> list[str]:
    path = existing_file(path)
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, expected at most {_LARGEST}")
    try:
        return path.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}") from error
