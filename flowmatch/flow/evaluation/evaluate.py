"""Every method on every pair of a dataset, and the means of what they scored."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from flowmatch.devices import PeakMemory
from flowmatch.flow.data.datasets import LoadedPair, load_pair
from flowmatch.flow.data.layouts import FlowPair
from flowmatch.flow.evaluation.metrics import FlowScores, mean_scores, score

# uint8 RGB [H, W, 3] twice in, flow [H, W, 2] in pixels out
Method = Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float32]]


class Row(NamedTuple):
    """What one method scored on some pairs, each pair weighing the same (`mean_scores`)."""

    name: str  # of the sequence, or of the group of sequences, or "mean"
    method: str
    pairs: int
    scores: FlowScores
    milliseconds: float  # per pair, wall time of the call, the mean
    peak_mb: float  # memory beyond the frames, the most of any pair; NaN where nobody knows


class Skipped(NamedTuple):
    """A pair that could not be read."""

    name: str
    reason: str


class Evaluation(NamedTuple):
    """The tables of one evaluation; in each, the methods in the order they were given.

    Attributes:
        sequences: One row per sequence and method.
        groups: One row per group and method, the group being the folders that a sequence is in:
            "clean" for "clean/alley_1". Empty if there is only one.
        mean: One row per method, over all pairs.
        skipped: The pairs that no method was run on.
    """

    sequences: tuple[Row, ...]
    groups: tuple[Row, ...]
    mean: tuple[Row, ...]
    skipped: tuple[Skipped, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts and lists for `json.dumps`; what is not known (NaN) is None."""
        return {
            "sequences": [_plain(row) for row in self.sequences],
            "groups": [_plain(row) for row in self.groups],
            "mean": [_plain(row) for row in self.mean],
            "skipped": [skipped._asdict() for skipped in self.skipped],
        }


def evaluate(
    pairs: Sequence[FlowPair],
    methods: Mapping[str, Method],
    report: Callable[[int, str], None] | None = None,
    *,
    see: Callable[[FlowPair, LoadedPair, dict[str, Any]], None] | None = None,
    device: str | torch.device = "cpu",
) -> Evaluation:
    """Run methods on pairs with a known flow, and score them.

    Every method is called once more on the first pair, before the clock counts.

    Args:
        pairs: Those of `find_pairs`. One that cannot be read is skipped, and listed with the
            reason.
        methods: By name; each takes two frames, uint8 RGB ``[H, W, 3]``, and gives the flow
            ``[H, W, 2]`` in pixels.
        report: Called after each pair with how many are done and the name of this one.
        see: Called for each pair with its frames and every method's flow.
        device: Whose memory is watched.

    Returns:
        Scores per sequence, group and in the mean.

    Raises:
        ValueError: There is no method; no pair can be read; or a method refuses a pair, or
            answers with a flow of the wrong size or one that is not finite.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from flowmatch.flow.data.datasets import find_pairs
        >>> from flowmatch.io import write_flow, write_image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("frame1.png", "frame2.png"):
        ...     write_image(folder / name, np.zeros((4, 6, 3), np.uint8))
        >>> write_flow(folder / "flow.flo", np.full((4, 6, 2), (3.0, 4.0)))
        >>> still = lambda first, second: np.zeros((*first.shape[:2], 2), np.float32)
        >>> evaluate(find_pairs(folder), {"still": still}).mean[0].scores.epe
        5.0
    """
    if not methods:
        raise ValueError("at least one method is needed for an evaluation, got none")
    where = torch.device(device)
    measured: list[_Measurement] = []
    skipped: list[Skipped] = []
    for done, pair in enumerate(pairs, start=1):
        try:
            loaded = load_pair(pair)
        except (ValueError, OSError, ImportError) as error:
            skipped.append(Skipped(pair.name, str(error)))
        else:
            if not measured:
                for name, method in methods.items():
                    _measure(pair, loaded, name, method, where)
            flows = {}
            for name, method in methods.items():
                one, flows[name] = _measure(pair, loaded, name, method, where)
                measured.append(one)
            if see is not None:
                see(pair, loaded, flows)
        if report is not None:
            report(done, pair.name)
    if not measured:
        reason = f", the first because {skipped[0].reason}" if skipped else ""
        raise ValueError(f"none of the {len(pairs)} pairs can be read{reason}")
    groups = _average(measured, lambda sequence: sequence.rpartition("/")[0])
    return Evaluation(
        sequences=_average(measured, lambda sequence: sequence),
        groups=groups if len(groups) > len(methods) else (),
        mean=_average(measured, lambda _: "mean"),
        skipped=tuple(skipped),
    )


class _Measurement(NamedTuple):
    sequence: str
    method: str
    scores: FlowScores
    milliseconds: float
    peak_mb: float


def _measure(
    pair: FlowPair, loaded: LoadedPair, name: str, method: Method, device: torch.device
) -> tuple[_Measurement, NDArray[np.float32]]:
    peak = PeakMemory(device)
    start = time.perf_counter()
    try:
        flow = method(loaded.first, loaded.second)
        elapsed = time.perf_counter() - start
        most = peak.megabytes()
        scores = score(flow, loaded.truth, occluded=loaded.occluded)
    except ValueError as error:
        raise ValueError(f"{name} on {pair.name}: {error}") from error
    megabytes = math.nan if most is None else most
    return _Measurement(pair.sequence, name, scores, 1000 * elapsed, megabytes), flow


def _average(measured: Sequence[_Measurement], name_of: Callable[[str], str]) -> tuple[Row, ...]:
    """Average what shares a name and a method, in the order in which they first appear."""
    together: dict[tuple[str, str], list[_Measurement]] = defaultdict(list)
    for one in measured:
        together[name_of(one.sequence), one.method].append(one)
    return tuple(
        Row(
            name,
            method,
            len(some),
            mean_scores([one.scores for one in some]),
            sum(one.milliseconds for one in some) / len(some),
            max(one.peak_mb for one in some),
        )
        for (name, method), some in together.items()
    )


def _plain(row: Row) -> dict[str, Any]:
    values = {
        "name": row.name,
        "method": row.method,
        "pairs": row.pairs,
        **row.scores._asdict(),
        "milliseconds": row.milliseconds,
        "peak_mb": row.peak_mb,
    }
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in values.items()
    }
