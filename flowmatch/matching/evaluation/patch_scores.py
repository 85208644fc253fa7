"""The three tasks of HPatches for patches: verification, matching and retrieval.

Reference:
    Balntas, Lenc, Vedaldi and Mikolajczyk, HPatches, CVPR 2017, section 5; details as in the
    authors' Python benchmark, which gives higher numbers for retrieval than their MATLAB code.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmatch.matching.data.hpatches import NOISES, VIEWS, PatchSequence, Tasks
from flowmatch.metrics import area_under_roc, average_precision
from flowmatch.ops import nearest
from flowmatch.progress import ProgressCallback

# Sizes of the pools of retrieval: five matches of the query, and distractors.
POOLS = (100, 500, 1000, 5000, 10_000, 15_000, 20_000)
_NO_DISTRACTORS = np.zeros(5, np.int64)
_IMBALANCE = 0.2  # positives per negative, in the average precision of verification
_CHUNK = 2**16  # pairs whose distances are computed together


class PatchScores(NamedTuple):
    """Scores of a descriptor in [0, 1], by noise: easy, hard, tough.

    Attributes:
        verification: Average precision of pairs with five negatives per positive; mean over
            negatives within sequences and between them.
        balanced: Area under the receiver operating characteristic, with as many negatives as
            positives.
        matching: Average precision of nearest neighbours; mean over sequences.
        retrieval: Average precision of the five matches of each query among distractors; mean over
            queries and numbers of distractors.
    """

    verification: dict[str, float]
    balanced: dict[str, float]
    matching: dict[str, float]
    retrieval: dict[str, float]

    def means(self) -> dict[str, float]:
        """Return the mean of each task over the noises, as papers report it."""
        return {task: float(np.mean([*by.values()])) for task, by in self._asdict().items()}


Describe = Callable[[NDArray[np.uint8]], Tensor]


def evaluate_patches(
    sequences: Sequence[PatchSequence],
    tasks: Tasks,
    describe: Describe,
    *,
    progress: ProgressCallback | None = None,
) -> PatchScores:
    """Evaluate a descriptor on the three tasks.

    Args:
        sequences: Sequences of `find_patch_sequences`.
        tasks: Lists of `read_tasks` or `sample_tasks`.
        describe: Function from patches ``[N, 65, 65]`` uint8 to descriptors ``[N, D]``, see
            `describe_patches`.
        progress: Progress callback, called after each described sequence.

    Raises:
        ValueError: An image is damaged.
    """
    parts: dict[str, list[NDArray[np.float32]]] = {view: [] for view in VIEWS}
    for done, sequence in enumerate(sequences, start=1):
        for view in VIEWS:
            parts[view].append(_floats(describe(sequence.read(view))))
        if progress is not None:
            progress("sequences", done, len(sequences))
    described = {view: np.concatenate(arrays) for view, arrays in parts.items()}
    counts = np.array([sequence.length for sequence in sequences])
    starts = np.cumsum(counts) - counts
    verified = {noise: _verification(described, starts, tasks, noise) for noise in NOISES}
    return PatchScores(
        {NOISES[noise]: verified[noise][0] for noise in NOISES},
        {NOISES[noise]: verified[noise][1] for noise in NOISES},
        {name: _matching(described, sequences, starts, noise) for noise, name in NOISES.items()},
        _retrieval(described, starts, tasks),
    )


def _floats(descriptors: Tensor) -> NDArray[np.float32]:
    array = descriptors.cpu().numpy()
    # On unpacked bits, l2 gives the same ranking as hamming.
    return np.asarray(
        np.unpackbits(array, axis=1) if array.dtype == np.uint8 else array, np.float32
    )


def _verification(
    described: Mapping[str, NDArray[np.float32]],
    starts: NDArray[np.int64],
    tasks: Tasks,
    noise: str,
) -> tuple[float, float]:
    """Return the average precision, and the area under the ROC curve."""
    positive, *negatives = (
        _distances(described, starts, table, noise)
        for table in (tasks.positive, tasks.intra, tasks.inter)
    )
    areas = []
    for negative in negatives:
        subset = positive[: int(_IMBALANCE * len(positive))]
        # At equal distances, the negatives come first.
        marks = [
            np.repeat([False, True], [len(negative), len(part)])[
                np.argsort(np.concatenate([negative, part]), kind="stable")
            ]
            for part in (subset, positive)
        ]
        areas.append((average_precision(marks[0], trapezoids=True), area_under_roc(marks[1])))
    precision, roc = np.mean(areas, axis=0).tolist()
    return precision, roc


def _distances(
    described: Mapping[str, NDArray[np.float32]],
    starts: NDArray[np.int64],
    table: NDArray[np.int64],
    noise: str,
) -> NDArray[np.float32]:
    result = np.empty(len(table), np.float32)
    for start in range(0, len(table), _CHUNK):
        rows = table[start : start + _CHUNK]
        ends = [_look_up(described, starts, rows[:, k : k + 3], noise) for k in (0, 3)]
        result[start : start + _CHUNK] = np.linalg.norm(ends[0] - ends[1], axis=1)
    return result


def _look_up(
    described: Mapping[str, NDArray[np.float32]],
    starts: NDArray[np.int64],
    index: NDArray[np.int64],
    noise: str,
) -> NDArray[np.float32]:
    rows = starts[index[:, 0]] + index[:, 2]
    result = np.empty((len(index), described["ref"].shape[1]), np.float32)
    for number in range(6):
        mask = index[:, 1] == number
        result[mask] = described[f"{noise}{number}" if number else "ref"][rows[mask]]
    return result


def _matching(
    described: Mapping[str, NDArray[np.float32]],
    sequences: Sequence[PatchSequence],
    starts: NDArray[np.int64],
    noise: str,
) -> float:
    """Return the mean over sequences; viewpoint and illumination have the same weight."""
    groups: dict[str, list[float]] = {}
    for sequence, start in zip(sequences, starts, strict=True):
        rows = slice(start, start + sequence.length)
        first = torch.from_numpy(described["ref"][rows])
        areas = []
        for k in range(1, 6):
            neighbours = nearest(first, torch.from_numpy(described[f"{noise}{k}"][rows]), 1)
            correct = neighbours.index[:, 0].numpy() == np.arange(sequence.length)
            order = np.argsort(neighbours.distance[:, 0].numpy(), kind="stable")
            areas.append(average_precision(correct[order], sequence.length, trapezoids=True))
        kind = sequence.name[:2] if sequence.name[:2] in ("v_", "i_") else ""
        groups.setdefault(kind, []).append(float(np.mean(areas)))
    return float(np.mean([np.mean(areas) for areas in groups.values()]))


def _retrieval(
    described: Mapping[str, NDArray[np.float32]], starts: NDArray[np.int64], tasks: Tasks
) -> dict[str, float]:
    rows = starts[tasks.queries[:, 0]] + tasks.queries[:, 1]
    distractors = torch.from_numpy(
        described["ref"][starts[tasks.distractors[:, 0]] + tasks.distractors[:, 1]]
    )
    areas: dict[str, list[float]] = {name: [] for name in NOISES.values()}
    for (sequence, _), row in zip(tasks.queries.tolist(), rows, strict=True):
        query = described["ref"][row]
        distance = torch.linalg.vector_norm(distractors - torch.from_numpy(query), dim=1).numpy()
        distance = distance[tasks.distractors[:, 0] != sequence]
        for noise, name in NOISES.items():
            own = np.stack([described[f"{noise}{k}"][row] for k in range(1, 6)])
            matches = np.sort(np.linalg.norm(own - query, axis=1))
            closer = np.cumsum(distance[None] < matches[:, None], axis=1)
            for pool in POOLS:
                last = min(pool - 5, closer.shape[1]) - 1
                areas[name].append(
                    _precision_of_five(closer[:, last] if last >= 0 else _NO_DISTRACTORS)
                )
    return {name: float(np.mean(values)) if values else math.nan for name, values in areas.items()}


def _precision_of_five(closer: NDArray[np.int64]) -> float:
    """Return the average precision of five matches, given the distractors closer than each."""
    rank = np.arange(1, 6)
    before = np.where(rank - 1 + closer > 0, (rank - 1) / np.maximum(rank - 1 + closer, 1), 1.0)
    return float(((before + rank / (rank + closer)) / 2).mean())
