"""Reader of the patches of HPatches and of the lists of its three tasks.

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
from flowmatch.io._files import FilePath, existing_file, natural_order, reason_of

SIDE = 65  # pixels of a patch
NOISES = {"e": "easy", "h": "hard", "t": "tough"}
VIEWS = ("ref", *(f"{noise}{k}" for noise in NOISES for k in range(1, 6)))
_MIN_DEVIATION = 10  # standard deviation of the gray values of patches for retrieval
_MAX_BYTES = 2**28  # of a list of pairs; the published ones have 50 MB


class PatchSequence(NamedTuple):
    """Patches of one sequence, by view.

    Attributes:
        name: Name of the folder; ``v_`` marks a change of viewpoint, ``i_`` of illumination.
        files: Image file of each of `VIEWS`.
        length: Number of patches in each view.
    """

    name: str
    files: dict[str, Path]
    length: int

    def read(self, view: str) -> NDArray[np.uint8]:
        """Return the patches of a view, ``[N, 65, 65]``.

        Raises:
            ValueError: The image is damaged, or its number of patches differs from that of ref.
        """
        patches = _read_strip(self.files[view])
        if len(patches) != self.length:
            raise ValueError(
                f"{self.files[view]}: expected {self.length} patches as in ref.png, "
                f"got {len(patches)}"
            )
        return patches


def find_patch_sequences(folder: FilePath) -> list[PatchSequence]:
    """Find sequences of patches in a folder: ``ref.png``, ``e1.png``, ... ``t5.png``.

    Args:
        folder: One sequence, or a folder of sequences, such as ``hpatches-release``.

    Returns:
        Sequences, sorted by name.

    Raises:
        FileNotFoundError: The folder does not exist, or a view of a sequence is missing.
        ValueError: The folder holds no sequence, or a first view is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist")
    parents = sorted({file.parent for file in folder.rglob("ref.png")}, key=natural_order)
    if not parents:
        raise ValueError(
            f"{folder}: expected sequences of patches, ref.png, e1.png to t5.png, got none"
        )
    sequences = []
    for parent in parents:
        files = {view: parent / f"{view}.png" for view in VIEWS}
        missing = [str(file) for file in files.values() if not file.is_file()]
        if missing:
            raise FileNotFoundError(f"{missing[0]} is missing")
        sequences.append(PatchSequence(parent.name, files, len(_read_strip(files["ref"]))))
    return sequences


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
    """Lists of the three tasks: indices of sequences, of views (0 is ref, then 1 to 5), of patches.

    Attributes:
        positive: Positive pairs of verification, ``[N, 6]``: sequence, view, patch, twice.
        intra: Negative pairs within a sequence, ``[N, 6]``.
        inter: Negative pairs between any two sequences, ``[N, 6]``.
        queries: Queries of retrieval, ``[Q, 2]``: sequence and patch of the first view.
        distractors: Distractors of retrieval, ``[K, 2]``.
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
        folder: Folder with ``verif_pos_split-SPLIT.csv`` and four others: the ``tasks`` of
            ``hpatches-benchmark``, unpacked.
        split: ``"a"``, ``"b"``, ``"c"``, ``"full"``, ``"illum"`` or ``"view"``.
        sequences: Sequences of patches, all that the lists refer to.

    Raises:
        FileNotFoundError: A list is missing.
        ValueError: A list is damaged, or refers to missing patches.
    """
    numbers = {sequence.name: k for k, sequence in enumerate(sequences)}
    counts = np.array([sequence.length for sequence in sequences])
    tables = {}
    for task, name in _FILES.items():
        path = existing_file(Path(folder) / f"{name}_split-{split}.csv")
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{path}: expected a list of patches, got {path.stat().st_size} bytes")
        width = 2 if task in ("queries", "distractors") else 6
        try:
            with path.open(newline="", encoding="utf-8") as file:
                lines = csv.reader(file)
                next(lines, None)  # header
                rows = [_row(path, line, width, numbers) for line in lines if line]
            table = np.array(rows, np.int64).reshape(-1, width)
        except (csv.Error, UnicodeDecodeError, OverflowError) as error:
            raise ValueError(f"{path}: expected a list of patches: {reason_of(error)}") from error
        for ends in np.split(table, width // 3 or 1, axis=1):
            views = ends[:, 1] if width == 6 else np.zeros(len(ends))
            invalid = (ends[:, -1] < 0) | (ends[:, -1] >= counts[ends[:, 0]])
            if (invalid | (views < 0) | (views > 5)).any():
                raise ValueError(f"{path}: refers to patches that do not exist")
        tables[task] = table
    if len({len(tables[task]) for task in ("positive", "intra", "inter")}) != 1:
        raise ValueError(f"{folder}: expected equal numbers of pairs of each kind for verification")
    return Tasks(**tables)


def _row(path: Path, line: list[str], width: int, numbers: Mapping[str, int]) -> list[int]:
    if len(line) < width:
        raise ValueError(f"{path}: expected {width} columns, got {line!r:.200}")
    try:
        return [
            numbers[word] if k % 3 == 0 and (width == 6 or k == 0) else int(word)
            for k, word in enumerate(line[:width])
        ]
    except KeyError as error:
        raise ValueError(f"{path}: the sequence {str(error):.80} has no patches") from None
    except ValueError:
        raise ValueError(f"{path}: expected names and numbers, got {line!r:.200}") from None


def sample_tasks(
    sequences: Sequence[PatchSequence],
    *,
    pairs: int = 200_000,
    queries: int = 5000,
    distractors: int = 20_000,
    seed: int = 0,
) -> Tasks:
    """Sample lists by the rules of the official benchmark, for use without the official lists.

    Args:
        sequences: Sequences, at least one of them with two patches.
        pairs: Number of pairs of each kind, for verification.
        queries: Maximum number of queries of retrieval.
        distractors: Maximum number of distractors.
        seed: Random seed.

    Raises:
        ValueError: No sequence has two patches, or `pairs` is not positive.
    """
    rng = np.random.default_rng(seed)
    counts = np.array([sequence.length for sequence in sequences])
    usable = np.flatnonzero(counts > 1)
    if not len(usable) or pairs < 1:
        raise ValueError(f"expected sequences of two patches or more, and pairs, got {pairs}")
    chosen = rng.choice(usable, pairs)
    views = np.array([rng.permutation(6)[:2] for _ in range(pairs)])
    patch = rng.integers(counts[chosen])
    other_patch = (patch + rng.integers(1, counts[chosen])) % counts[chosen]
    other = rng.integers(len(sequences), size=pairs)
    first = np.stack([chosen, views[:, 0], patch], axis=1)
    ends = {
        "positive": (chosen, patch),
        "intra": (chosen, other_patch),
        "inter": (other, rng.integers(counts[other])),
    }
    tables = {
        kind: np.column_stack([first, sequence, views[:, 1], index])
        for kind, (sequence, index) in ends.items()
    }
    textured = []
    for k, sequence in enumerate(sequences):
        deviation = sequence.read("ref").std(axis=(1, 2))
        textured += [(k, int(index)) for index in np.flatnonzero(deviation > _MIN_DEVIATION)]
    order = rng.permutation(np.array(textured, np.int64).reshape(-1, 2))
    count = min(queries, len(order) // 2)
    return Tasks(**tables, queries=order[:count], distractors=order[count : count + distractors])
