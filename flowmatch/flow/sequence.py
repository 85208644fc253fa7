"""Optical flow of a whole clip, one file for each pair of frames; a run resumes at any file."""

import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flowmatch.devices import choose_device
from flowmatch.flow.estimate import confidence_of, estimate_directions
from flowmatch.flow.occlusion import find_occlusion
from flowmatch.flow.options import SequenceOptions
from flowmatch.flow.read_ahead import read_ahead
from flowmatch.flow.store import STORE
from flowmatch.flow.warm_start import WarmStarted, check_warm_start
from flowmatch.imaging import Image
from flowmatch.io import replace_when_done
from flowmatch.io._lock import only_writer
from flowmatch.io.confidence import write_confidence
from flowmatch.io.flow import read_flow, storable, write_flow
from flowmatch.io.image import IMAGE_SUFFIXES, write_image
from flowmatch.io.video import Frames
from flowmatch.progress import ProgressCallback

T = TypeVar("T")
NumberedPair = tuple[int, tuple[Image, Image]]
PreviousFlows = tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]

RECORD = "run.json"
"""File beside the flows: the input and the options they were computed with."""
VIDEO, PICTURES = "flow.mp4", "pictures"
"""Names of the video and of the folder of pictures that are drawn from the flows."""
CONFIDENCE = "_confidence.png"
"""End of the names of confidence files, after the number of the pair."""
_FLOW_FILE = re.compile(
    r"[0-9]{6,}(_backward|_(occluded|confidence)(_backward)?)?\.(flo|png|npz|pfm)"
)
_PICTURE_FILE = re.compile(r"[0-9]{6,}\.png")


@dataclass
class SequenceReport:
    """Summary of a run of `write_sequence`.

    Attributes:
        computed: Number of pairs computed in this run.
        kept: Number of pairs whose files existed already.
        skipped: Frames that were left out, and why; no pair spans one.
        unknown: Number of pixels stored as unknown: not finite, or beyond the format's range.
        seconds: Time that the run took.
    """

    computed: int = 0
    kept: int = 0
    skipped: tuple[str, ...] = ()
    unknown: int = 0
    seconds: float = 0.0


def write_sequence(
    frames: Frames,
    folder: Path,
    *,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
    options: SequenceOptions = SequenceOptions(),
    batch: int = 1,
    overwrite: bool = False,
    report: SequenceReport | None = None,
    progress: ProgressCallback | None = None,
) -> SequenceReport:
    """Write the flow from each frame to the next, as ``000000.flo``, ``000001.flo``, ...

    A pair has the number of its first frame among the chosen ones. Files are complete at any
    moment: an existing file is done, and is kept when the same run starts again. Decoding and
    writing go on while the network computes.

    Args:
        frames: The clip, from `read_frames`.
        folder: Folder to write to; it is made if it does not exist.
        model: Name of weights, a ``.safetensors`` file, or a network.
        device: Device to compute on. None takes a GPU where torch can use one, and leaves a given
            network where it is.
        options: Options of the flow and of the files.
        batch: Number of pairs that the network sees at once; the best quality takes one.
        overwrite: Remove the files of an earlier run, and compute all pairs.
        report: Report that is kept up to date, and returned; a caller that passes one can read it
            after an interrupt.
        progress: Called after each batch, with the stage ``"flow"``.

    Returns:
        The numbers of computed and kept pairs, and the skipped frames.

    Raises:
        ValueError: The folder holds the flows of another run, or the input; the clip has no two
            consecutive frames of one size; a network is given without ``options.weights``; or a
            warm start is asked of a network or a batch that does not support it.
        FileNotFoundError: The file of weights does not exist.
        BlockingIOError: Another run is writing to the folder.
    """
    network, options = _network(model, device, options)
    if options.warm_start:
        check_warm_start(network, batch)
    folder.mkdir(parents=True, exist_ok=True)
    report = SequenceReport() if report is None else report
    with only_writer(folder / RECORD):
        begin_run(folder, frames, options, overwrite)
        _write_pairs(frames, folder, network, options, batch, report, progress)
    _check_any(report)
    return report


def _write_pairs(
    frames: Frames,
    folder: Path,
    network: nn.Module,
    options: SequenceOptions,
    batch: int,
    report: SequenceReport,
    progress: ProgressCallback | None,
) -> None:
    uses_previous = options.warm_start or options.flow.quality == "best"
    if uses_previous:
        batch = 1
    total = None if frames.count is None else max(frames.count - 1, 0)
    began = time.monotonic()
    with ThreadPoolExecutor(1) as writer:
        writing: list[Future[int]] = []

        def finish_writing() -> None:
            report.unknown += sum(future.result() for future in writing)
            writing.clear()

        for pairs in _batches(_pairs(frames, 2 * batch + 2), batch):
            missing = _missing(pairs, folder, options)
            report.kept += len(pairs) - len(missing)
            if missing:
                previous: PreviousFlows = (None, None)
                if uses_previous:
                    finish_writing()
                    previous = _read_previous(folder, missing[0][0], options)
                flows = _estimate(network, [pair for _, pair in missing], options, previous)
                # Waiting for the previous batch raises its errors, and bounds the memory.
                finish_writing()
                writing += [
                    writer.submit(_write, pair_files(folder, index, options), flow)
                    for (index, _), flow in zip(missing, flows, strict=True)
                ]
            report.computed += len(missing)
            report.seconds = time.monotonic() - began
            if progress:
                progress("flow", report.computed + report.kept, total)
        finish_writing()
    report.skipped = tuple(map(str, frames.skipped))
    report.seconds = time.monotonic() - began


def _network(
    model: str | Path | nn.Module,
    device: str | torch.device | None,
    options: SequenceOptions,
) -> tuple[nn.Module, SequenceOptions]:
    """Return the network, and the options with the identity of its weights."""
    if isinstance(model, nn.Module):
        if options.weights is None:
            raise ValueError("options.weights must name the weights of a network that is a module")
        return (model if device is None else model.to(choose_device(device))), options
    if options.weights is None:
        options = replace(options, weights=STORE.digest(model))
    return STORE.load(model, device=device), options


def _check_any(report: SequenceReport) -> None:
    if report.computed + report.kept == 0:
        reasons = f" ({'; '.join(report.skipped[:3])})" if report.skipped else ""
        raise ValueError(f"the clip has no two consecutive frames of one size{reasons}")


# ---- The folder --------------------------------------------------------------------------------


def begin_run(folder: Path, frames: Frames, options: SequenceOptions, overwrite: bool) -> None:
    """Write the record of the run.

    Raises:
        ValueError: The folder holds the input, the flows of another run or files of something else.
    """
    inputs = [file.resolve() for file in frames.files]
    images = (file for file in inputs if file.suffix.lower() in IMAGE_SUFFIXES)
    drawn = [folder / VIDEO, *(folder / PICTURES).glob("*")]
    if any(file.parent == folder.resolve() for file in images) or any(
        file.resolve() in inputs for file in drawn
    ):
        raise ValueError(f"{folder} holds the input; take another folder for the output")
    record = folder / RECORD
    new = run_record(frames.digest(), frames.name, options)
    existing = [file for file in folder.glob("*") if _FLOW_FILE.fullmatch(file.name)]
    drawn = [
        f for f in drawn if f.exists() and (f.name == VIDEO or _PICTURE_FILE.fullmatch(f.name))
    ]
    present = [*existing, *drawn, *([record] if record.exists() else [])]
    if present and not _is_record(record, damaged=bool(existing)):
        name = present[0].relative_to(folder)
        raise ValueError(f"{folder} holds files of something else ({name}); take another folder")
    if existing and not overwrite:
        check_same_run(record, new)
        if not frames.files:
            raise ValueError(f"{frames.name} cannot be resumed; take another folder or --overwrite")
    if overwrite:
        for file in (*existing, *drawn):
            file.unlink(missing_ok=True)
    with replace_when_done(record) as temporary:
        temporary.write_text(json.dumps(new, indent=2) + "\n")


def _is_record(record: Path, damaged: bool) -> bool:
    """Return whether a run wrote this record; `damaged` is the answer for one that is no JSON."""
    try:
        content = json.loads(record.read_text())
    except FileNotFoundError:
        return False
    except (ValueError, RecursionError):
        return damaged
    return isinstance(content, dict) and {"frames", "source"} <= content.keys()


def run_record(digest: str, source: str, options: SequenceOptions) -> dict[str, Any]:
    """Return what `RECORD` says of a run: digest and name of its frames, and the options."""
    entries = asdict(options)
    return {"frames": digest, "source": source, **entries.pop("flow"), **entries}


def check_same_run(record: Path, new: dict[str, Any]) -> None:
    """Raise ValueError if a folder's record is damaged, or is that of another run."""
    try:
        old = json.loads(record.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{record} is damaged ({error}); --overwrite starts anew") from error
    changed = [key for key in new if not isinstance(old, dict) or old.get(key) != new[key]]
    if changed:
        raise ValueError(
            f"{record.parent} holds the flows of another run ({', '.join(changed)} differ); "
            "take another folder, or --overwrite"
        )


def pair_files(folder: Path, index: int, options: SequenceOptions) -> list[Path]:
    """Return the files of pair `index`: the flow first, and what the options add."""
    ends = [options.suffix]
    if options.bidirectional:
        ends += [f"_backward{options.suffix}", "_occluded.png", "_occluded_backward.png"]
    if options.confidence:
        ends += [CONFIDENCE, "_confidence_backward.png"][: 2 if options.bidirectional else 1]
    return [folder / f"{index:06d}{end}" for end in ends]


def _missing(
    pairs: Sequence[NumberedPair], folder: Path, options: SequenceOptions
) -> list[NumberedPair]:
    """Return the pairs whose files do not all exist."""
    return [
        (index, pair)
        for index, pair in pairs
        if not all(path.exists() for path in pair_files(folder, index, options))
    ]


def _write(paths: Sequence[Path], contents: Sequence[NDArray[Any]]) -> int:
    """Write the files of a pair; return the number of flow pixels stored as unknown."""
    unknown = 0
    for path, content in zip(paths, contents, strict=True):
        if content.ndim == 3:
            known = storable(path, content)
            unknown += int((~known).sum())
            write_flow(path, np.where(known[..., None], content, np.float32(np.nan)))
        elif content.dtype == np.float32:
            write_confidence(path, content)
        else:
            write_image(path, content)
    return unknown


# ---- Frames in, flows out ----------------------------------------------------------------------


def _pairs(frames: Frames, depth: int) -> Iterator[NumberedPair]:
    """Yield consecutive frames, with the number of the first; no pair spans a skipped frame."""
    with closing(read_ahead(frames.numbered(), depth)) as ahead:
        for (n, first), (m, second) in pairwise(ahead):
            if m == n + 1:
                yield n, (first, second)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _read_previous(folder: Path, index: int, options: SequenceOptions) -> PreviousFlows:
    """Return the forward and backward flow of the pair before `index`, None where missing.

    The written file is read, instead of the computed flow, so that an interrupted run gives the
    same files as an uninterrupted one. After a skipped frame no file exists.
    """
    files = pair_files(folder, index - 1, options)
    if not all(file.exists() for file in files):
        return None, None
    return read_flow(files[0]), read_flow(files[1]) if options.bidirectional else None


def _estimate(
    network: nn.Module,
    pairs: Sequence[tuple[Image, Image]],
    options: SequenceOptions,
    previous: PreviousFlows,
) -> list[list[NDArray[Any]]]:
    """Return the contents of each pair's files."""
    first, second = (
        torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2) for side in zip(*pairs, strict=True)
    )
    networks = (network, network)
    if options.warm_start:
        networks = (_warm(network, previous[0], 1), _warm(network, previous[1], -1))
    directions = 2 if options.bidirectional or options.confidence else 1
    flows = estimate_directions(networks, first, second, options.flow, directions, previous)
    ways = (flows, flows[::-1])[: 2 if options.bidirectional else 1]
    contents = [way[0].permute(0, 2, 3, 1).cpu().numpy() for way in ways]
    if options.bidirectional:
        contents += [find_occlusion(*way).cpu().numpy() * np.uint8(255) for way in ways]
    if options.confidence:
        sides = ((first, second), (second, first))
        contents += [
            confidence_of(a, b, there, back, options.flow).cpu().numpy()
            for (a, b), (there, back) in zip(sides, ways, strict=False)
        ]
    return [list(parts) for parts in zip(*contents, strict=True)]


def _warm(network: nn.Module, previous: NDArray[np.float32] | None, direction: int) -> nn.Module:
    return network if previous is None else WarmStarted(network, previous, direction)
