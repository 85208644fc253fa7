"""The flow of a whole clip, one file for each pair of frames; stops and resumes at any file."""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flowmatch.draw import flow_to_image, side_by_side
from flowmatch.flow.estimate import Options, check_options, estimate_both_ways, estimate_flow
from flowmatch.flow.read_ahead import read_ahead
from flowmatch.flow.warm_start import StartedWith, check_warm_start
from flowmatch.io import replace_when_done
from flowmatch.io.flow import read_flow, write_flow
from flowmatch.io.image import IMAGE_SUFFIXES, write_image
from flowmatch.io.video import Frames
from flowmatch.io.video_writer import VideoWriter

T = TypeVar("T")
Frame = NDArray[np.uint8]

RUN = "run.json"  # beside the flows: what they were computed with
VIDEO, PICTURES = "flow.mp4", "pictures"  # beside them too: what they were drawn to
_OURS = re.compile(r"[0-9]{6,}(_backward|_occluded|_occluded_backward)?\.(flo|png|npz|pfm)")
_DRAWN = re.compile(r"[0-9]{6,}\.png")
KITTI_LIMIT = 511.9  # pixels that a KITTI file holds, in each component


@dataclass(frozen=True)
class SequenceOptions:
    """What the flow of a clip is; two runs with different ones do not mix in a folder.

    Attributes:
        weights: What the network is, for the record.
        suffix: Format of the files: ``.flo``, ``.png`` (KITTI), ``.npz`` or ``.pfm``.
        bidirectional: Also write the backward flow and masks of what is occluded.
        precision: As in `estimate_flow`.
        tile: As in `estimate_flow`.
        refine: As in `estimate_flow`.
        zoom: As in `estimate_flow`.
        fuse: As in `estimate_flow`.
        warm_start: Begin each pair with the flow written for the pair before, where there is one.
    """

    weights: str
    suffix: str = ".flo"
    bidirectional: bool = False
    precision: str = "float32"
    tile: int | None = None
    refine: bool = False
    zoom: float = 1.0
    fuse: bool = False
    warm_start: bool = False


@dataclass
class SequenceReport:
    """What came of it.

    Attributes:
        computed: Pairs computed now.
        kept: Pairs whose files were there already.
        skipped: Frames that were left out, and why; there is no pair across one.
        unknown: Pixels stored as unknown: not finite, or past what the format holds.
        seconds: Time it took.
    """

    computed: int = 0
    kept: int = 0
    skipped: tuple[str, ...] = ()
    unknown: int = 0
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

    The number is that of the pair's first frame among the chosen ones. Files are whole at any
    moment: one that is there is done, and is kept when the same command runs again. Decoding and
    writing go on while the network computes.

    Args:
        model: A flow network.
        frames: The clip, of `read_frames`.
        folder: Where to write; made if it is not there.
        options: What to compute.
        batch: Pairs the network sees at once.
        overwrite: Remove what an earlier run left, and compute all.
        progress: Called after each batch.

    Returns:
        How many pairs were computed and kept, and which frames were skipped.

    Raises:
        ValueError: The folder holds the flows of another run, or the input, or the clip has no two
            frames; or a warm start is asked for of a network, a batch or tiles that have none.
    """
    check_options(options.precision, options.tile, zoom=options.zoom)
    if options.warm_start:
        check_warm_start(model, batch, options.tile, options.zoom, options.fuse)
    begin_run(folder, frames, options, overwrite)
    report = SequenceReport()
    began = time.monotonic()
    with ThreadPoolExecutor(1) as writer:
        writing: list[Future[int]] = []
        for pairs in _batches(_pairs(frames, 2 * batch + 2), batch):
            waiting = [
                (index, pair)
                for index, pair in pairs
                if not all(path.exists() for path in _files(folder, index, options))
            ]
            report.kept += len(pairs) - len(waiting)
            if waiting:
                if options.warm_start:  # the pair before is on the disk, or it never will be
                    report.unknown += sum(done.result() for done in writing)
                    writing = []
                models = _models(model, folder, waiting[0][0], options)
                flows = _estimate(models, [pair for _, pair in waiting], options)
                # Waiting for the batch before raises what went wrong, and bounds the memory.
                report.unknown += sum(done.result() for done in writing)
                writing = [
                    writer.submit(_write, _files(folder, index, options), flow)
                    for (index, _), flow in zip(waiting, flows, strict=True)
                ]
            report.computed += len(waiting)
            report.seconds = time.monotonic() - began
            progress(report)
        report.unknown += sum(done.result() for done in writing)
    report.skipped = tuple(map(str, frames.skipped))
    report.seconds = time.monotonic() - began
    if report.computed + report.kept == 0:
        why = f" ({'; '.join(report.skipped[:3])})" if report.skipped else ""
        raise ValueError(f"a flow needs two frames of one size in a row, there are none{why}")
    return report


def begin_run(folder: Path, frames: Frames, options: SequenceOptions, overwrite: bool) -> None:
    """Make the folder, refuse to mix two runs in it, and note what this one is."""
    inputs = [file.resolve() for file in frames.files]
    pictures = (file for file in inputs if file.suffix.lower() in IMAGE_SUFFIXES)
    drawn = [folder / VIDEO, *(folder / PICTURES).glob("*")]
    if any(file.parent == folder.resolve() for file in pictures) or any(
        file.resolve() in inputs for file in drawn
    ):
        raise ValueError(f"{folder} holds the input; take another folder for the output")
    record = folder / RUN
    new = {"frames": frames.fingerprint(), "source": frames.name, **asdict(options)}
    left = [file for file in folder.glob("*") if _OURS.fullmatch(file.name)]
    if left and not record.exists():
        raise ValueError(f"{folder} holds files of something else; take another folder")
    if left and not overwrite:
        _check_same_run(record, new)
        if not frames.files:
            raise ValueError(f"{frames.name} cannot be resumed; take another folder or --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    if overwrite:
        if record.exists():
            left += [file for file in drawn if file.name == VIDEO or _DRAWN.fullmatch(file.name)]
        for file in left:
            file.unlink(missing_ok=True)
    with replace_when_done(record) as beside:
        beside.write_text(json.dumps(new, indent=2) + "\n")


def _check_same_run(record: Path, new: dict[str, Any]) -> None:
    try:
        old = json.loads(record.read_text())
    except ValueError as error:
        raise ValueError(f"{record} is damaged ({error}); --overwrite starts anew") from error
    changed = [key for key in new if not isinstance(old, dict) or old.get(key) != new[key]]
    if changed:
        raise ValueError(
            f"{record.parent} holds the flows of another run ({', '.join(changed)} differ); "
            "take another folder, or --overwrite"
        )


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
    files = {int(f.stem): f for f in sorted(folder.glob(f"*{suffix}")) if f.stem.isdecimal()}
    scale = common_scale(files.values()) if max_flow is None else max_flow
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        rate = min(max(frames.rate or 25.0, 1.0), 120.0)  # what players play
        writer = video and stack.enter_context(VideoWriter(video, rate))
        drawn = ((files[n], frame) for n, frame in frames.numbered() if n in files)
        for done, (file, frame) in enumerate(drawn, 1):
            colours = flow_to_image(read_flow(file), scale)
            if pictures is not None:
                write_image(pictures / f"{file.stem}.png", colours)
            if writer:
                writer.write(side_by_side(frame, colours))
            progress(done)
    return scale


# Edges of the bins that motions are counted in: a clip's worth of pixels does not fit in memory.
_BINS = np.concatenate([[0.0], np.geomspace(0.01, 1e5, 4000)])


def common_scale(files: Iterable[Path]) -> float:
    """Return the motion that 99 % of the pixels of all flows stay below, at least one pixel."""
    counts = np.zeros(len(_BINS) - 1, np.int64)
    for file in files:
        flow = read_flow(file)[::4, ::4]
        counts += np.histogram(np.hypot(flow[..., 0], flow[..., 1]), _BINS)[0]
    if not counts.any():
        return 1.0
    below = np.cumsum(counts) >= 0.99 * counts.sum()
    return float(max(1.0, _BINS[1 + int(np.argmax(below))]))


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
    ends = [options.suffix]
    if options.bidirectional:
        ends += [f"_backward{options.suffix}", "_occluded.png", "_occluded_backward.png"]
    return [folder / f"{index:06d}{end}" for end in ends]


def _models(
    model: nn.Module, folder: Path, index: int, options: SequenceOptions
) -> tuple[nn.Module, nn.Module]:
    """Return the networks for the flow there and back of pair `index`.

    A warm start reads what is written, not what was just computed: a run that was interrupted
    gives the same files as one that was not. Across a frame that was skipped there is no file.
    """
    earlier = _files(folder, index - 1, options)
    if not options.warm_start or not all(file.exists() for file in earlier):
        return model, model
    there = StartedWith(model, read_flow(earlier[0]))
    if not options.bidirectional:
        return there, model
    return there, StartedWith(model, read_flow(earlier[1]), direction=-1)


def _estimate(
    models: tuple[nn.Module, nn.Module],
    pairs: Sequence[tuple[Frame, Frame]],
    options: SequenceOptions,
) -> list[list[NDArray[Any]]]:
    """Return for each pair the contents of its files."""
    first, second = (
        torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2) for side in zip(*pairs, strict=True)
    )
    chosen: Options = {
        "precision": options.precision,
        "tile": options.tile,
        "refine": options.refine,
        "zoom": options.zoom,
        "fuse": options.fuse,
    }
    if not options.bidirectional:
        flows = estimate_flow(models[0], first, second, **chosen)
        return [[flow.permute(1, 2, 0).cpu().numpy()] for flow in flows]
    both = estimate_both_ways(models[0], first, second, back=models[1], **chosen)
    return [
        [
            *(flow.permute(1, 2, 0).cpu().numpy() for flow in (forward, backward)),
            *((mask.cpu().numpy() * np.uint8(255)) for mask in masks),
        ]
        for forward, backward, *masks in zip(*both, strict=True)
    ]


def _write(paths: Sequence[Path], contents: Sequence[NDArray[Any]]) -> int:
    """Write the files of a pair; return how many pixels of flow had to be stored as unknown."""
    unknown = 0
    for path, content in zip(paths, contents, strict=True):
        if content.ndim == 3:
            limit = KITTI_LIMIT if path.suffix == ".png" else 1e9
            known = (np.abs(content) < limit).all(axis=2)
            unknown += int((~known).sum())
            write_flow(path, np.where(known[..., None], content, np.float32(np.nan)))
        else:
            write_image(path, content)
    return unknown


def _pairs(frames: Frames, depth: int) -> Iterator[tuple[int, tuple[Frame, Frame]]]:
    """Yield neighbours, with the number of the first; none across a frame that was skipped."""
    with closing(read_ahead(frames.numbered(), depth)) as ahead:
        for (n, first), (m, second) in pairwise(ahead):
            if m == n + 1:
                yield n, (first, second)
