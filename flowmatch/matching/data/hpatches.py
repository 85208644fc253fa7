"""HPatches' patches: the reader, and the lists of what its three tasks compare.

Reference:
    Balntas, Lenc, Vedaldi and Mikolajczyk, HPatches, CVPR 2017, sections 4 and 5.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch.io import read_image
from flowmatch.io._files import FilePath, existing_file, natural_order

SIDE = 65  # pixels of a patch
NOISES = {"e": "easy", "h": "hard", "t": "tough"}
VIEWS = ("ref", *(f"{noise}{k}" for noise in NOISES for k in range(1, 6)))
_FLAT = 10  # gray values; patches of retrieval deviate more from their mean
_LARGEST = 2**28  # bytes of a list of pairs; the published ones have 50 MB


class PatchSequence(NamedTuple):
    """The patches of one sequence, by view.

    Attributes:
        name: Of its folder; ``v_`` begins those with a new viewpoint, ``i_`` with a new light.
        files: The picture of each of `VIEWS`.
        length: Patches of each view.
    """

    name: str
    files: dict[str, Path]
    length: int

    def read(self, view: str) -> NDArray[np.uint8]:
        """Return the patches of a view, ``[N, 65, 65]``.

        Raises:
            ValueError: The picture is damaged, or has another number of patches than the first.
        """
        patches = _read_strip(self.files[view])
        if len(patches) != self.length:
            raise ValueError(
                f"{self.files[view]}: expected {self.length} patches as in ref.png, "
                f"got {len(patches)}"
            )
        return patches


def find_patch_sequences(folder: FilePath) -> list[PatchSequence]:
    """Find the sequences of patches below a folder: ``ref.png``, ``e1.png``, ... ``t5.png``.

    Args:
        folder: One sequence, or a folder of them, as ``hpatches-release`` is.

    Returns:
        Sequences, in the order of their names.

    Raises:
        FileNotFoundError: There is no such folder, or a view of a sequence is missing.
        ValueError: There is no sequence in it, or a first view is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    places = sorted({file.parent for file in folder.rglob("ref.png")}, key=natural_order)
    if not places:
        raise ValueError(
            f"{folder}: expected sequences of patches, ref.png, e1.png to t5.png; found none"
        )
    found = []
    for place in places:
        files = {view: place / f"{view}.png" for view in VIEWS}
        missing = [str(file) for file in files.values() if not file.is_file()]
        if missing:
            raise FileNotFoundError(f"{missing[0]} is missing")
        found.append(PatchSequence(place.name, files, len(_read_strip(files["ref"]))))
    return found


def _read_strip(path: Path) -> NDArray[np.uint8]:
    strip = read_image(path)[..., 0]
    height, width = strip.shape
    if width != SIDE or height % SIDE:
        raise ValueError(
            f"{path}: expected a column of patches of {SIDE} x {SIDE} pixels, "
            f"got {width} x {height}"
        )
    return strip.reshape(-1, SIDE, SIDE)


class Tasks(NamedTuple):
    """What is compared with what; numbers of sequences, of views (0 is ref, 1 to 5), of patches.

    Attributes:
        positive: ``[N, 6]``: sequence, view, patch twice, of one point: the pairs of verification.
        intra: ``[N, 6]``, of two points of one sequence.
        inter: ``[N, 6]``, of points of any two sequences.
        queries: ``[Q, 2]``: sequence and patch of the first views that retrieval looks for.
        distractors: ``[K, 2]``, what they are hidden among.
    """

    positive: NDArray[np.int64]
    intra: NDArray[np.int64]
    inter: NDArray[np.int64]
    queries: NDArray[np.int64]
    distractors: NDArray[np.int64]


_FILES = {
    "positive": "verif_pos", "intra": "verif_neg_intra", "inter": "verif_neg_inter",
    "queries": "retr_queries", "distractors": "retr_distractors",
}  # fmt: skip


def read_tasks(folder: FilePath, split: str, sequences: Sequence[PatchSequence]) -> Tasks:
    """Read the lists of the official benchmark.

    Args:
        folder: With ``verif_pos_split-SPLIT.csv`` and the four like it: the ``tasks`` of
            ``hpatches-benchmark``, unpacked.
        split: ``"a"``, ``"b"``, ``"c"``, ``"full"``, ``"illum"`` or ``"view"``.
        sequences: Where the patches are; all that the lists name have to be there.

    Raises:
        FileNotFoundError: A list is missing.
        ValueError: A list is damaged, or names what is not there.
    """
    numbers = {sequence.name: k for k, sequence in enumerate(sequences)}
    counts = np.array([sequence.length for sequence in sequences])
    tables = {}
    for task, name in _FILES.items():
        path = existing_file(Path(folder) / f"{name}_split-{split}.csv")
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"{path}: expected a list of patches, got {path.stat().st_size} bytes")
        width = 2 if task in ("queries", "distractors") else 6
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            next(lines, None)  # names of columns
            rows = [_row(path, line, width, numbers) for line in lines if line]
        table = np.array(rows, np.int64).reshape(-1, width)
        for ends in np.split(table, width // 3 or 1, axis=1):
            views = ends[:, 1] if width == 6 else np.zeros(len(ends))
            beyond = (ends[:, -1] < 0) | (ends[:, -1] >= counts[ends[:, 0]])
            if (beyond | (views < 0) | (views > 5)).any():
                raise ValueError(f"{path}: names patches that are not there")
        tables[task] = table
    if len({len(tables[task]) for task in ("positive", "intra", "inter")}) != 1:
        raise ValueError(f"{folder}: expected as many pairs of each kind for verification")
    return Tasks(**tables)


def _row(path: Path, line: list[str], width: int, numbers: Mapping[str, int]) -> list[int]:
    if len(line) < width:
        raise ValueError(f"{path}: expected {width} columns, got {','.join(line)}")
    try:
        return [
            numbers[word] if k % 3 == 0 and (width == 6 or k == 0) else int(word)
            for k, word in enumerate(line[:width])
        ]
    except KeyError as error:
        raise ValueError(f"{path}: there are no patches of the sequence {error}") from None
    except ValueError:
        raise ValueError(f"{path}: expected names and numbers, got {','.join(line)}") from None


def draw_tasks(
    sequences: Sequence[PatchSequence],
    *,
    pairs: int = 200_000,
    queries: int = 5000,
    distractors: int = 20_000,
    seed: int = 0,
) -> Tasks:
    """Draw lists by the rules of the official benchmark, for who does not have its own.

    Args:
        sequences: At least one of two patches.
        pairs: Of each kind, for verification.
        queries: At most, of retrieval.
        distractors: At most.
        seed: Of the draw.

    Raises:
        ValueError: There are no pairs to draw, or `pairs` is not positive.
    """
    rng = np.random.default_rng(seed)
    counts = np.array([sequence.length for sequence in sequences])
    several = np.flatnonzero(counts > 1)
    if not len(several) or pairs < 1:
        raise ValueError(f"expected sequences of two patches or more, and pairs, got {pairs}")
    one = rng.choice(several, pairs)
    views = np.array([rng.permutation(6)[:2] for _ in range(pairs)])
    patch = rng.integers(counts[one])
    another = (patch + rng.integers(1, counts[one])) % counts[one]
    elsewhere = rng.integers(len(sequences), size=pairs)
    first = np.stack([one, views[:, 0], patch], axis=1)
    ends = {
        "positive": (one, patch),
        "intra": (one, another),
        "inter": (elsewhere, rng.integers(counts[elsewhere])),
    }
    drawn = {
        kind: np.column_stack([first, sequence, views[:, 1], index])
        for kind, (sequence, index) in ends.items()
    }
    told = []
    for k, sequence in enumerate(sequences):
        deviation = sequence.read("ref").std(axis=(1, 2))
        told += [(k, int(index)) for index in np.flatnonzero(deviation > _FLAT)]
    order = rng.permutation(np.array(told, np.int64).reshape(-1, 2))
    count = min(queries, len(order) // 2)
    return Tasks(**drawn, queries=order[:count], distractors=order[count : count + distractors])
