"""The flow of a whole clip, one file for each pair of frames; stops and resumes at any file."""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flowmatch.draw import flow_to_image, side_by_side
from flowmatch.flow.estimate import FlowBothWays, estimate_both_ways, estimate_flow
from flowmatch.io._files import replace_when_done
from flowmatch.io.flow import read_flow, write_flow
from flowmatch.io.image import write_image
from flowmatch.io.video import Frames, VideoWriter

T = TypeVar("T")
Frame = NDArray[np.uint8]

RUN = "run.json"  # beside the flows: what they were computed with


@dataclass(frozen=True)
class SequenceOptions:
    """How the flow of a clip is computed; all of it changes the result, none the way there.

    Attributes:
        weights: Name or file of the weights, for the record.
        suffix: Format of the files: ``.flo``, ``.png`` (KITTI), ``.npz`` or ``.pfm``.
        bidirectional: Also write the backward flow and a mask of what is occluded.
        source: What the frames are taken from, for the record.
        frames: Which frames, and at what scale, for the record.
        precision: As in `estimate_flow`.
        tile: As in `estimate_flow`.
    """

    weights: str
    suffix: str = ".flo"
    bidirectional: bool = False
    source: str = ""
    frames: str = ""
    precision: str = "float32"
    tile: int | None = None


@dataclass
class SequenceReport:
    """What came of it.

    Attributes:
        computed: Pairs computed now.
        kept: Pairs whose files were there already.
        skipped: Frames that were left out, and why.
        seconds: Time it took.
    """

    computed: int = 0
    kept: int = 0
    skipped: tuple[str, ...] = ()
    seconds: float = 0.0


def write_sequence(
    model: nn.Module,
    frames: Frames,
    folder: Path,
    options: SequenceOptions,
    *,
    batch: int = 1,
    overwrite: bool = False,
    progress: Callable[[SequenceReport], None] = lambda report: None,
) -> SequenceReport:
    """Write the flow from each frame to the next, as ``000000.flo``, ``000001.flo``, ...

    Files are whole at any moment: one that is there is done, and is kept when the same command
    runs again. Decoding and writing go on while the network computes.

    Args:
        model: A flow network.
        frames: The clip, of `read_frames`.
        folder: Where to write; made if it is not there.
        options: What to compute.
        batch: Pairs the network sees at once.
        overwrite: Compute what is there again.
        progress: Called after each batch.

    Returns:
        How many pairs were computed and kept, and which frames were skipped.

    Raises:
        ValueError: The folder holds the flows of another run, or the clip has no two frames.
    """
    begin_run(folder, options, overwrite)
    report = SequenceReport()
    began = time.monotonic()
    with ThreadPoolExecutor(1) as writer:
        writing: list[Future[None]] = []
        for pairs in _batches(enumerate(pairwise(read_ahead(frames, 2 * batch + 2))), batch):
            waiting = [
                (index, pair)
                for index, pair in pairs
                if overwrite or not all(path.exists() for path in _files(folder, index, options))
            ]
            report.kept += len(pairs) - len(waiting)
            if waiting:
                flows = _estimate(model, [pair for _, pair in waiting], options)
                for done in writing:
                    done.result()  # raises what went wrong, and bounds what is held in memory
                writing = [
                    writer.submit(_write, _files(folder, index, options), flow)
                    for (index, _), flow in zip(waiting, flows, strict=True)
                ]
            report.computed += len(waiting)
            report.seconds = time.monotonic() - began
            progress(report)
        for done in writing:
            done.result()
    report.skipped = tuple(map(str, frames.skipped))
    report.seconds = time.monotonic() - began
    if report.computed + report.kept == 0:
        why = f" ({'; '.join(report.skipped[:3])})" if report.skipped else ""
        raise ValueError(f"a flow needs two frames of one size, there is one{why}")
    return report


def begin_run(folder: Path, options: SequenceOptions, overwrite: bool) -> None:
    """Make the folder, and refuse to mix two runs in it."""
    record = folder / RUN
    if record.exists() and not overwrite:
        try:
            old = json.loads(record.read_text())
        except ValueError as error:
            raise ValueError(f"{record} is damaged ({error}); --overwrite starts anew") from error
        new = asdict(options)
        changed = [key for key in new if not isinstance(old, dict) or old.get(key) != new[key]]
        if changed:
            raise ValueError(
                f"{folder} holds the flows of another run ({', '.join(changed)} differ); "
                "take another folder, or --overwrite"
            )
    elif folder.is_dir() and not overwrite and any(folder.glob("[0-9]*" + options.suffix)):
        raise ValueError(f"{folder} holds files of something else; take another, or --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    with replace_when_done(record) as beside:
        beside.write_text(json.dumps(asdict(options), indent=2) + "\n")


def draw_sequence(
    frames: Frames,
    folder: Path,
    suffix: str,
    *,
    video: Path | None = None,
    pictures: Path | None = None,
    max_flow: float | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> float:
    """Draw the flows that `write_sequence` wrote: as a video beside the frames, or as pictures.

    Args:
        frames: The same frames as those of the flows.
        folder: Where the flows are.
        suffix: Their format.
        video: File to write, each frame beside its flow.
        pictures: Folder for one coloured PNG for each flow.
        max_flow: Motion of full colour, pixels; None takes the 99th percentile of all flows, one
            scale for the whole clip, so that colours do not flicker.
        progress: Called with the number of flows drawn.

    Returns:
        The motion of full colour, in pixels.
    """
    files = sorted(f for f in folder.glob(f"*{suffix}") if f.stem.isdecimal())
    scale = common_scale(files) if max_flow is None else max_flow
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    writer = None if video is None else VideoWriter(video, frames.rate or 25.0)
    if writer is not None:
        writer.__enter__()
    try:
        for done, (file, frame) in enumerate(zip(files, frames, strict=False), 1):
            colours = flow_to_image(read_flow(file), scale)
            if pictures is not None:
                write_image(pictures / f"{file.stem}.png", colours)
            if writer is not None:
                writer.write(side_by_side(frame, colours))
            progress(done)
    except BaseException as error:
        if writer is not None:
            writer.__exit__(type(error), error, error.__traceback__)
        raise
    if writer is not None:
        writer.__exit__(None, None, None)
    return scale


def common_scale(files: Sequence[Path]) -> float:
    """Return the motion that 99 % of the pixels of all flows stay below, at least one pixel."""
    lengths = []
    for file in files:
        flow = read_flow(file)[::4, ::4]
        length = np.hypot(flow[..., 0], flow[..., 1])
        lengths.append(length[np.isfinite(length)])
    found = np.concatenate(lengths) if lengths else np.zeros(0)
    return float(max(1.0, np.percentile(found, 99))) if found.size else 1.0


def read_ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """Yield `items`, fetched by another thread that stays up to `depth` of them ahead."""
    fetched: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stop = threading.Event()

    def put(what: str, value: Any) -> None:
        while not stop.is_set():
            try:
                return fetched.put((what, value), timeout=0.1)
            except queue.Full:
                continue
        return None

    def fetch() -> None:
        try:
            for item in items:
                put("item", item)
                if stop.is_set():
                    return
            put("end", None)
        except BaseException as error:  # noqa: BLE001 - raised again where the items are used
            put("error", error)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    try:
        while True:
            what, value = fetched.get()
            if what == "end":
                return
            if what == "error":
                raise value
            yield value
    finally:
        stop.set()
        thread.join()


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _files(folder: Path, index: int, options: SequenceOptions) -> list[Path]:
    """Name what pair `index` leaves: the flow, and with `bidirectional` what goes with it."""
    flow = folder / f"{index:06d}{options.suffix}"
    if not options.bidirectional:
        return [flow]
    stem = f"{index:06d}"
    return [
        flow,
        folder / f"{stem}_backward{options.suffix}",
        folder / f"{stem}_occluded.png",
        folder / f"{stem}_occluded_backward.png",
    ]


def _estimate(
    model: nn.Module, pairs: Sequence[tuple[Frame, Frame]], options: SequenceOptions
) -> list[list[NDArray[Any]]]:
    """Return for each pair the contents of its files."""
    stacked = (
        torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2) for side in zip(*pairs, strict=True)
    )
    chosen: dict[str, Any] = {"precision": options.precision, "tile": options.tile}
    if not options.bidirectional:
        flows = estimate_flow(model, *stacked, **chosen)
        return [[flow.permute(1, 2, 0).cpu().numpy()] for flow in flows]
    both: FlowBothWays = estimate_both_ways(model, *stacked, **chosen)
    return [
        [
            *(flow.permute(1, 2, 0).cpu().numpy() for flow in (forward, backward)),
            *((mask.cpu().numpy() * np.uint8(255)) for mask in masks),
        ]
        for forward, backward, *masks in zip(*both, strict=True)
    ]


def _write(paths: Sequence[Path], contents: Sequence[NDArray[Any]]) -> None:
    for path, content in zip(paths, contents, strict=True):
        if content.ndim == 3:
            write_flow(path, content)
        else:
            write_image(path, content)
