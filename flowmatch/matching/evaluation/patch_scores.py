"""HPatches' three tasks for patches: verification, matching and retrieval.

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

# Of retrieval: the queries' five matches and as many others as make these.
POOLS = (100, 500, 1000, 5000, 10_000, 15_000, 20_000)
_NONE = np.zeros(5, np.int64)
_IMBALANCE = 0.2  # positives for each negative, in the precision of verification
_AT_ONCE = 2**16  # pairs whose distances are computed together


class PatchScores(NamedTuple):
    """What a descriptor scores; shares in [0, 1], by noise: easy, hard, tough.

    Attributes:
        verification: Area under precision and recall of five times as many pairs of two points as
            of one, the mean of those within sequences and between them.
        balanced: Area under the receiver operating characteristic, as many of both kinds.
        matching: Area under precision and recall of nearest neighbours, the mean over sequences.
        retrieval: The same of each query's five patches among others, the mean over queries and
            numbers of others.
    """

    verification: dict[str, float]
    balanced: dict[str, float]
    matching: dict[str, float]
    retrieval: dict[str, float]

    def means(self) -> dict[str, float]:
        """Return the mean of each task over the noises, which is what papers report."""
        return {task: float(np.mean([*by.values()])) for task, by in self._asdict().items()}


Describe = Callable[[NDArray[np.uint8]], Tensor]


def evaluate_patches(
    sequences: Sequence[PatchSequence],
    tasks: Tasks,
    describe: Describe,
    *,
    report: Callable[[int, str], None] | None = None,
) -> PatchScores:
    """Measure a descriptor on the three tasks.

    Args:
        sequences: Those of `find_patch_sequences`.
        tasks: Those of `read_tasks` or `draw_tasks`.
        describe: Patches ``[N, 65, 65]`` uint8 to descriptors ``[N, D]``, see `describe_patches`.
        report: Called after each sequence that was described, with their number and its name.

    Raises:
        ValueError: A picture is damaged.
    """
    parts: dict[str, list[NDArray[np.float32]]] = {view: [] for view in VIEWS}
    for done, sequence in enumerate(sequences, start=1):
        for view in VIEWS:
            parts[view].append(_floats(describe(sequence.read(view))))
        if report is not None:
            report(done, sequence.name)
    described = {view: np.concatenate(some) for view, some in parts.items()}
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
    # Of bits, l2 ranks as hamming does.
    return np.asarray(
        np.unpackbits(array, axis=1) if array.dtype == np.uint8 else array, np.float32
    )


def _verification(
    described: Mapping[str, NDArray[np.float32]],
    starts: NDArray[np.int64],
    tasks: Tasks,
    noise: str,
) -> tuple[float, float]:
    """Return the area under precision and recall, and under the characteristic."""
    positive, *negatives = (
        _distances(described, starts, table, noise)
        for table in (tasks.positive, tasks.intra, tasks.inter)
    )
    areas = []
    for negative in negatives:
        few = positive[: int(_IMBALANCE * len(positive))]
        # Of equal distances, the negatives come first.
        marks = [
            np.repeat([False, True], [len(negative), len(some)])[
                np.argsort(np.concatenate([negative, some]), kind="stable")
            ]
            for some in (few, positive)
        ]
        areas.append((average_precision(marks[0], trapezoids=True), area_under_roc(marks[1])))
    precision, characteristic = np.mean(areas, axis=0).tolist()
    return precision, characteristic


def _distances(
    described: Mapping[str, NDArray[np.float32]],
    starts: NDArray[np.int64],
    table: NDArray[np.int64],
    noise: str,
) -> NDArray[np.float32]:
    result = np.empty(len(table), np.float32)
    for start in range(0, len(table), _AT_ONCE):
        rows = table[start : start + _AT_ONCE]
        ends = [_look_up(described, starts, rows[:, k : k + 3], noise) for k in (0, 3)]
        result[start : start + _AT_ONCE] = np.linalg.norm(ends[0] - ends[1], axis=1)
    return result


def _look_up(
    described: Mapping[str, NDArray[np.float32]],
    starts: NDArray[np.int64],
    where: NDArray[np.int64],
    noise: str,
) -> NDArray[np.float32]:
    rows = starts[where[:, 0]] + where[:, 2]
    result = np.empty((len(where), described["ref"].shape[1]), np.float32)
    for number in range(6):
        here = where[:, 1] == number
        result[here] = described[f"{noise}{number}" if number else "ref"][rows[here]]
    return result


def _matching(
    described: Mapping[str, NDArray[np.float32]],
    sequences: Sequence[PatchSequence],
    starts: NDArray[np.int64],
    noise: str,
) -> float:
    """Return the mean over sequences, viewpoint and illumination weighing the same."""
    groups: dict[str, list[float]] = {}
    for sequence, start in zip(sequences, starts, strict=True):
        rows = slice(start, start + sequence.length)
        first = torch.from_numpy(described["ref"][rows])
        areas = []
        for k in range(1, 6):
            found = nearest(first, torch.from_numpy(described[f"{noise}{k}"][rows]), 1)
            right = found.index[:, 0].numpy() == np.arange(sequence.length)
            order = np.argsort(found.distance[:, 0].numpy(), kind="stable")
            areas.append(average_precision(right[order], sequence.length, trapezoids=True))
        kind = sequence.name[:2] if sequence.name[:2] in ("v_", "i_") else ""
        groups.setdefault(kind, []).append(float(np.mean(areas)))
    return float(np.mean([np.mean(areas) for areas in groups.values()]))


def _retrieval(
    described: Mapping[str, NDArray[np.float32]], starts: NDArray[np.int64], tasks: Tasks
) -> dict[str, float]:
    rows = starts[tasks.queries[:, 0]] + tasks.queries[:, 1]
    others = torch.from_numpy(
        described["ref"][starts[tasks.distractors[:, 0]] + tasks.distractors[:, 1]]
    )
    areas: dict[str, list[float]] = {name: [] for name in NOISES.values()}
    for (sequence, _), row in zip(tasks.queries.tolist(), rows, strict=True):
        query = described["ref"][row]
        far = torch.linalg.vector_norm(others - torch.from_numpy(query), dim=1).numpy()
        far = far[tasks.distractors[:, 0] != sequence]
        for noise, name in NOISES.items():
            own = np.stack([described[f"{noise}{k}"][row] for k in range(1, 6)])
            near = np.sort(np.linalg.norm(own - query, axis=1))
            closer = np.cumsum(far[None] < near[:, None], axis=1)
            for pool in POOLS:
                last = min(pool - 5, closer.shape[1]) - 1
                areas[name].append(_area_of_five(closer[:, last] if last >= 0 else _NONE))
    return {name: float(np.mean(some)) if some else math.nan for name, some in areas.items()}


def _area_of_five(ahead: NDArray[np.int64]) -> float:
    """Return the area under precision and recall, given how many others precede each of five."""
    found = np.arange(1, 6)
    before = np.where(found - 1 + ahead > 0, (found - 1) / np.maximum(found - 1 + ahead, 1), 1.0)
    return float(((before + found / (found + ahead)) / 2).mean())
