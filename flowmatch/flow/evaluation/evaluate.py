"""Evaluation of flow methods on the pairs of a dataset, and the means of their scores."""

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
from flowmatch.flow.estimate import FlowBothWays
from flowmatch.flow.evaluation.held_out import RenderedPair
from flowmatch.flow.evaluation.metrics import (
    FlowScores,
    bootstrap_interval,
    epe_map,
    mean_scores,
    score,
)
from flowmatch.flow.evaluation.sparsification import (
    Reliability,
    count_reliability,
    reliability,
)
from flowmatch.flow.occlusion import inconsistency
from flowmatch.imaging import Image
from flowmatch.io._files import message_of
from flowmatch.progress import ProgressCallback

Pair = FlowPair | RenderedPair
Method = Callable[[Image, Image], NDArray[np.float32] | FlowBothWays]
"""A function from two frames, uint8 RGB ``[H, W, 3]``, to their flow ``[H, W, 2]`` in pixels; or to
flows in both directions with their confidence, which is then measured too."""


class FlowRow(NamedTuple):
    """Mean scores of one method on several pairs, of equal weights (`mean_scores`).

    Attributes:
        name: Name of the sequence or of the group of sequences, or ``"mean"``.
        method: Name of the method.
        pairs: Number of pairs.
        scores: Mean scores.
        milliseconds: Mean wall time per pair.
        peak_mb: Largest memory of any pair beyond the frames, in megabytes; NaN if unknown.
        epe_interval: Interval that holds the mean EPE with 95 % confidence, by the bootstrap over
            pairs; NaN for one pair.
    """

    name: str
    method: str
    pairs: int
    scores: FlowScores
    milliseconds: float
    peak_mb: float
    epe_interval: tuple[float, float] = (math.nan, math.nan)


class Skipped(NamedTuple):
    """A pair that could not be read.

    Attributes:
        name: Name of the pair.
        reason: The error.
    """

    name: str
    reason: str


class FlowEvaluation(NamedTuple):
    """Tables of one evaluation; in each, the methods are in the order of the call.

    Attributes:
        sequences: One row per sequence and method.
        groups: One row per group and method; the group is the parent of the sequence, such as
            ``"clean"`` of ``"clean/alley_1"``. Empty if only one group exists.
        mean: One row per method, over all pairs.
        skipped: Pairs that could not be read.
        reliability: By method that gives a confidence, the share of right pixels among those of
            similar confidence, over all pairs.
    """

    sequences: tuple[FlowRow, ...]
    groups: tuple[FlowRow, ...]
    mean: tuple[FlowRow, ...]
    skipped: tuple[Skipped, ...]
    reliability: Mapping[str, tuple[Reliability, ...]]

    def to_json(self) -> dict[str, Any]:
        """Return dicts and lists for `json.dumps`; NaN becomes None."""
        return {
            "sequences": [_plain(row) for row in self.sequences],
            "groups": [_plain(row) for row in self.groups],
            "mean": [_plain(row) for row in self.mean],
            "skipped": [skipped._asdict() for skipped in self.skipped],
            "reliability": {
                method: [_without_nan(row._asdict()) for row in rows]
                for method, rows in self.reliability.items()
            },
        }


def evaluate(
    pairs: Sequence[Pair],
    methods: Mapping[str, Method],
    *,
    on_pair: Callable[[Pair, LoadedPair, dict[str, Any]], None] | None = None,
    device: str | torch.device = "cpu",
    progress: ProgressCallback | None = None,
) -> FlowEvaluation:
    """Run methods on pairs with known flow, and score them.

    Every method runs on the first pair once before time is measured.

    Args:
        pairs: Pairs from `find_pairs` or `render_held_out`. A pair that cannot be read is skipped,
            and listed with the reason.
        methods: Methods by name.
        on_pair: Called for each pair with its frames and the flow of every method.
        device: Device whose memory is measured.
        progress: Called after each pair, with the stage ``"evaluating"``.

    Returns:
        Scores of sequences, groups and all pairs.

    Raises:
        ValueError: No methods are given; no pair can be read; or a method fails with a ValueError,
            or returns a flow of the wrong size or one that is not finite.

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
    target = torch.device(device)
    measured: list[_Measurement] = []
    skipped: list[Skipped] = []
    for done, pair in enumerate(pairs, start=1):
        try:
            loaded = pair.load() if isinstance(pair, RenderedPair) else load_pair(pair)
        except (ValueError, OSError, ImportError) as error:
            skipped.append(Skipped(pair.name, message_of(error)))
        else:
            if not measured:
                for name, method in methods.items():
                    _measure(pair, loaded, name, method, target)
            flows = {}
            for name, method in methods.items():
                measurement, flows[name] = _measure(pair, loaded, name, method, target)
                measured.append(measurement)
            if on_pair is not None:
                on_pair(pair, loaded, flows)
        if progress is not None:
            progress("evaluating", done, len(pairs))
    if not measured:
        reason = f", the first because {skipped[0].reason}" if skipped else ""
        raise ValueError(f"no pair of {len(pairs)} can be read{reason}")
    groups = _average(measured, lambda sequence: sequence.rpartition("/")[0])
    return FlowEvaluation(
        sequences=_average(measured, lambda sequence: sequence),
        groups=groups if len(groups) > len(methods) else (),
        mean=_average(measured, lambda _: "mean"),
        skipped=tuple(skipped),
        reliability=_reliability(measured),
    )


class _Measurement(NamedTuple):
    sequence: str
    method: str
    scores: FlowScores
    milliseconds: float
    peak_mb: float
    reliability: NDArray[np.int64] | None  # counts, of methods that give a confidence


def _measure(
    pair: Pair, loaded: LoadedPair, name: str, method: Method, device: torch.device
) -> tuple[_Measurement, NDArray[np.float32]]:
    peak = PeakMemory(device)
    start = time.perf_counter()
    try:
        result = method(loaded.first, loaded.second)
        elapsed = time.perf_counter() - start
        megabytes = peak.megabytes()
        judged = result if isinstance(result, FlowBothWays) else None
        flow: Any = result if judged is None else judged.forward
        scores = score(
            flow,
            loaded.truth,
            occluded=loaded.occluded,
            confidence=judged and judged.confidence,
            inconsistency=judged and inconsistency(flow, judged.backward),
        )
        counts = judged and count_reliability(epe_map(flow, loaded.truth), judged.confidence)
    except ValueError as error:
        raise ValueError(f"{name} on {pair.name}: {error}") from error
    peak_mb = math.nan if megabytes is None else megabytes
    return _Measurement(pair.sequence, name, scores, 1000 * elapsed, peak_mb, counts), flow


def _reliability(measured: Sequence[_Measurement]) -> dict[str, tuple[Reliability, ...]]:
    counts: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
    for measurement in measured:
        if measurement.reliability is not None:
            counts[measurement.method].append(measurement.reliability)
    return {method: reliability(parts) for method, parts in counts.items()}


def _average(
    measured: Sequence[_Measurement], name_of: Callable[[str], str]
) -> tuple[FlowRow, ...]:
    """Average the measurements of one name and method; rows are in the order of appearance."""
    groups: dict[tuple[str, str], list[_Measurement]] = defaultdict(list)
    for measurement in measured:
        groups[name_of(measurement.sequence), measurement.method].append(measurement)
    return tuple(
        FlowRow(
            name,
            method,
            len(group),
            mean_scores([measurement.scores for measurement in group]),
            sum(measurement.milliseconds for measurement in group) / len(group),
            max(measurement.peak_mb for measurement in group),
            bootstrap_interval([measurement.scores.epe for measurement in group]),
        )
        for (name, method), group in groups.items()
    )


def _plain(row: FlowRow) -> dict[str, Any]:
    values = {
        "name": row.name,
        "method": row.method,
        "pairs": row.pairs,
        **row.scores._asdict(),
        "milliseconds": row.milliseconds,
        "peak_mb": row.peak_mb,
        "epe_low": row.epe_interval[0],
        "epe_high": row.epe_interval[1],
    }
    return _without_nan(values)


def _without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in values.items()
    }
