"""Protocol of Oxford and Paris: easy, hard and junk images, and mean average precision."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.io._files import FilePath, existing_file, reason_of
from flowmatch.metrics import average_precision

_MAX_BYTES = 2**26  # size of a ground truth file; the largest published is below 1 MB

# Of (easy, hard, junk): which are positives, and which are ignored.
_SETTINGS = {
    "easy": ((0,), (1, 2)),
    "medium": ((0, 1), (2,)),
    "hard": ((1,), (0, 2)),
}


class Truth(NamedTuple):
    """Correct results of one query, as indices into the names of all images.

    Attributes:
        easy: Images that show the object clearly; "good" and "ok" in the first Oxford and Paris.
        hard: Images that show a part of it, or an oblique view; empty in the first Oxford and
            Paris.
        junk: Images that count neither as correct nor as wrong.
        box: Left, top, right, bottom of the object in the query, pixels; None is the whole image.
    """

    easy: tuple[int, ...]
    hard: tuple[int, ...]
    junk: tuple[int, ...]
    box: tuple[float, ...] | None = None


class Protocol(NamedTuple):
    """Queries, images to search, and the correct results.

    Attributes:
        names: Names of the images that are searched.
        queries: Names of the queries.
        truths: Correct results of each query.
    """

    names: list[str]
    queries: list[str]
    truths: list[Truth]


def _mark(
    ranking: NDArray[np.int64], positives: Sequence[int], junk: Sequence[int]
) -> NDArray[np.bool_]:
    """Return which results of a ranking are positives, after removing junk."""
    skipped = np.isin(ranking, np.asarray(junk, np.int64))
    return np.isin(ranking[~skipped], np.asarray(positives, np.int64))


def mean_average_precision(
    rankings: Sequence[ArrayLike], truths: Sequence[Truth]
) -> dict[str, float]:
    """Evaluate rankings by the revisited protocol.

    Args:
        rankings: Indices of images for each query, the best first, each at most once.
        truths: Correct results of each query.

    Returns:
        ``"mAP/easy"``, ``"mAP/medium"``, ``"mAP/hard"``, and ``"mP@1/..."``, ``"mP@5/..."``,
        ``"mP@10/..."`` for each of these settings, 0 to 1. Queries without correct results are left
        out; NaN if no query is left. The first Oxford and Paris have one setting, ``"easy"``.

    Raises:
        ValueError: The numbers of rankings and truths differ, or an image is twice in a ranking.

    Example:
        >>> truth = Truth(easy=(3,), hard=(), junk=(0,))
        >>> mean_average_precision([[0, 3, 1, 2]], [truth])["mAP/easy"]
        1.0

    Reference:
        Radenovic et al., Revisiting Oxford and Paris: Large-Scale Image Retrieval Benchmarking,
        CVPR 2018, section 3.
    """
    if len(rankings) != len(truths):
        raise ValueError(
            f"expected one ranking per query, got {len(rankings)} for {len(truths)} queries"
        )
    orders = [np.asarray(ranking, np.int64).reshape(-1) for ranking in rankings]
    for k, order in enumerate(orders):
        if len(np.unique(order)) != len(order):
            raise ValueError(f"ranking {k} contains an image twice")
    result: dict[str, float] = {}
    for setting, (relevant, ignored) in _SETTINGS.items():
        precision: list[float] = []
        at: dict[int, list[float]] = {1: [], 5: [], 10: []}
        for order, truth in zip(orders, truths, strict=True):
            positives = [index for part in relevant for index in truth[:3][part]]
            junk = [index for part in ignored for index in truth[:3][part]]
            if not positives:
                continue
            marks = _mark(order, positives, junk)
            precision.append(average_precision(marks, len(positives), trapezoids=True))
            places = np.flatnonzero(marks)
            for k, values in at.items():
                # The rank of the last correct result, if all of them rank before k.
                last = min(k, int(places[-1]) + 1) if len(places) else k
                values.append(float((places < last).sum() / last))
        result[f"mAP/{setting}"] = _mean(precision)
        result |= {f"mP@{k}/{setting}": _mean(values) for k, values in at.items()}
    return result


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


# ---- Files -------------------------------------------------------------------------------------


def read_protocol(path: FilePath, names: Sequence[str] | None = None) -> Protocol:
    """Read the ground truth of Oxford or Paris.

    Args:
        path: Folder of the first Oxford or Paris (``*_query.txt`` with ``_good``, ``_ok``,
            ``_junk``), or a .json file with the lists ``imlist``, ``qimlist`` and ``gnd`` of the
            revisited ones. The latter are published as pickles, which run code when they are read
            and are therefore not supported; ``json.dump`` of the content of a trusted one makes
            the .json file.
        names: For a folder, the names of all images, without suffix; None takes those that the
            files mention.

    Returns:
        The protocol.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A file is damaged, or refers to a missing image.

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
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, expected at most {_MAX_BYTES}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {reason_of(error)}") from error
    try:
        names, queries = ([str(name) for name in content[key]] for key in ("imlist", "qimlist"))
        truths = [_truth(entry, len(names)) for entry in content["gnd"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: expected imlist, qimlist and gnd: {reason_of(error)}") from error
    if len(queries) != len(truths):
        raise ValueError(f"{path}: {len(queries)} queries and {len(truths)} entries of gnd")
    return Protocol(names, queries, truths)


def _truth(entry: Any, count: int) -> Truth:
    if "easy" in entry:
        parts = [entry["easy"], entry["hard"], entry["junk"]]
    else:  # the first protocols in the same format
        parts = [entry["ok"], [], entry["junk"]]
    easy, hard, junk = (tuple(int(index) for index in part) for part in parts)
    wrong = [index for index in easy + hard + junk if not 0 <= index < count]
    if wrong:
        raise ValueError(f"image {wrong[0]} of {count}")
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
            raise ValueError(f"{file}: {reason_of(error)}") from None
        queries.append(words[0].removeprefix("oxc1_"))
        stem = file.name.removesuffix("query.txt")
        lists.append(
            [_words(file.with_name(f"{stem}{kind}.txt")) for kind in ("good", "ok", "junk")]
        )
    if names is None:
        names = sorted({*queries, *(name for parts in lists for part in parts for name in part)})
    place = {name: k for k, name in enumerate(names)}
    unknown = [n for parts in lists for part in parts for n in part if n not in place]
    if unknown:
        raise ValueError(f"{folder} names missing images: {', '.join(unknown[:3])}")
    truths = [
        Truth(tuple(place[n] for n in good + ok), (), tuple(place[n] for n in junk), box)
        for (good, ok, junk), box in zip(lists, boxes, strict=True)
    ]
    return Protocol(list(names), queries, truths)


def _words(path: Path) -> list[str]:
    path = existing_file(path)
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, expected at most {_MAX_BYTES}")
    try:
        return path.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a UTF-8 text file: {reason_of(error)}") from error
