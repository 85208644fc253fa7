"""Copies of one picture in an index: encoded again, resized, cropped, turned."""

import csv
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import as_gray, resize_within
from flowmatch.io import replace_when_done
from flowmatch.io._files import FilePath, entry_for_suffix
from flowmatch.io.masked import read_masked
from flowmatch.matching.features import Features
from flowmatch.matching.pair_list import Pair, write_pairs
from flowmatch.progress import ProgressCallback
from flowmatch.retrieval.index import Index
from flowmatch.retrieval.pairs import similar_pairs
from flowmatch.retrieval.verify import MIN_INLIERS, local_features, match_local

_SIDE = 640  # pixels, of the reduced pictures
_SMALL = 160  # pixels, of the gray values that are compared: coding and resizing change details
_KEPT = 64  # pictures in memory
_NEIGHBOURS = 10  # pictures that each is compared with
_SIMILARITY = (
    0.15  # cosine of descriptors; a copy of half the size has about 0.3, others below 0.15
)


class Duplicate(NamedTuple):
    """Two pictures of an index of which one is a copy of the other, or of a part of it.

    Attributes:
        first: Name of one picture.
        second: Name of the other.
        overlap: Share of the smaller one's area that shows what is in the other, 0 to 1.
        correlation: Correlation of the gray values there, -1 to 1.
    """

    first: str
    second: str
    overlap: float
    correlation: float


class _Picture(NamedTuple):
    features: Features
    gray: NDArray[np.float32]  # small
    scale: float  # of the pixels of `gray` in those of the features


def find_duplicates(
    index: Index,
    *,
    overlap: float = 0.8,
    correlation: float = 0.95,
    progress: ProgressCallback | None = None,
) -> list[Duplicate]:
    """Find pictures of which one is a copy of the other, or of a part of it.

    Pictures with similar descriptors are matched; one is laid on the other by the homography that
    the matches agree on, and their gray values are compared. Another photo of the same place is no
    copy: what is nearer moves against what is farther. Pictures that can no longer be read are
    skipped.

    Args:
        index: The index; its folder holds the pictures.
        overlap: Smallest `Duplicate.overlap`.
        correlation: Smallest `Duplicate.correlation`.
        progress: Progress callback, called after each pair that is compared.

    Returns:
        The pairs, in the order of the index.

    Raises:
        ValueError: Fewer than two pictures of the index are described.

    Example:
        >>> import tempfile
        >>> from flowmatch.io import write_image
        >>> from flowmatch.retrieval import VladOptions, build_index
        >>> folder, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
        >>> for name in ("a", "b"):
        ...     picture = np.kron(rng.integers(0, 255, (24, 24)), np.ones((8, 8))).astype(np.uint8)
        ...     write_image(folder / f"{name}.png", picture)
        >>> write_image(folder / "part-of-b.png", np.ascontiguousarray(picture[:, 40:]))
        >>> index = build_index(folder, model="rootsift", options=VladOptions(words=4))
        >>> [(pair.first, pair.second) for pair in find_duplicates(index)]
        [('b.png', 'part-of-b.png')]
    """
    found = []
    pictures: OrderedDict[str, _Picture | None] = OrderedDict()
    pairs = similar_pairs(index, _NEIGHBOURS, similarity=_SIMILARITY)
    for done, pair in enumerate(pairs, start=1):
        first, second = (_read(index.root, name, pictures) for name in pair)
        if first is not None and second is not None:
            shared, equal = _compare(first, second)
            if shared >= overlap and equal >= correlation:
                found.append(Duplicate(*pair, shared, equal))
        if progress is not None:
            progress("compare", done, len(pairs))
    return found


def write_duplicates(path: FilePath, duplicates: Sequence[Duplicate]) -> None:
    """Write pairs of copies: ``.csv``, or ``.txt`` as a list of pairs for `read_pairs`.

    Args:
        path: File to write.
        duplicates: The pairs.

    Raises:
        ValueError: The suffix is another one.
        FileNotFoundError: The folder of the file does not exist.
    """
    path = Path(path)
    entry_for_suffix(path, _WRITERS, "list of duplicates")(path, duplicates)


def _write_csv(path: Path, duplicates: Sequence[Duplicate]) -> None:
    with (
        replace_when_done(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(Duplicate._fields)
        for first, second, overlap, correlation in duplicates:
            writer.writerow([first, second, f"{overlap:.4f}", f"{correlation:.4f}"])


def _write_txt(path: Path, duplicates: Sequence[Duplicate]) -> None:
    write_pairs(path, [Pair(pair.first, pair.second) for pair in duplicates])


_WRITERS: dict[str, Callable[[Path, Sequence[Duplicate]], None]] = {
    ".csv": _write_csv,
    ".txt": _write_txt,
}
DUPLICATE_SUFFIXES = tuple(_WRITERS)


def _read(root: Path, name: str, pictures: "OrderedDict[str, _Picture | None]") -> _Picture | None:
    """Return a reduced picture and its features; None if it cannot be read."""
    if name not in pictures:
        try:
            image = resize_within(read_masked(root / name).image, _SIDE)
        except (ValueError, OSError):
            pictures[name] = None
        else:
            small = as_gray(resize_within(image, _SMALL)).astype(np.float32)
            scale = max(image.shape) / max(small.shape)
            pictures[name] = _Picture(local_features(image, side=_SIDE), small, scale)
        if len(pictures) > _KEPT:
            pictures.popitem(last=False)
    pictures.move_to_end(name)
    return pictures[name]


def _compare(first: _Picture, second: _Picture) -> tuple[float, float]:
    """Return the shared part of the smaller picture and the correlation there; 0, 0 if unlike."""
    matches = match_local(first.features, second.features, 5.0)
    if matches.matrix is None or matches.inliers.sum() < MIN_INLIERS:
        return 0.0, 0.0
    matrix = _between_centres(second.scale, invert=True) @ matches.matrix
    matrix = matrix @ _between_centres(first.scale)
    sizes = first.gray.shape[1::-1], second.gray.shape[1::-1]
    backward = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpPerspective(second.gray, matrix, sizes[0], flags=backward)
    ones = [np.ones_like(picture.gray) for picture in (first, second)]
    inside = cv2.warpPerspective(ones[1], matrix, sizes[0], flags=backward) > 0.99
    back = cv2.warpPerspective(ones[0], matrix, sizes[1])
    overlap = max(float(inside.mean()), float((back > 0.5).mean()))
    a, b = first.gray[inside], moved[inside]
    if len(a) < 2 or min(a.std(), b.std()) < 1e-3:
        return 0.0, 0.0
    return overlap, float(np.corrcoef(a, b)[0, 1])


def _between_centres(scale: float, *, invert: bool = False) -> NDArray[np.float64]:
    """Return the transform from pixels of a reduced picture to those of the picture."""
    shift = (scale - 1) / 2  # the centre of pixel 0 is the middle of `scale` pixels
    matrix = np.array([[scale, 0, shift], [0, scale, shift], [0, 0, 1]])
    return np.linalg.inv(matrix) if invert else matrix
