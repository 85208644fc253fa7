"""One clip of a run: its files, the mark that they are whole, and what is reported."""

import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flowmatch._opencv import cv2
from flowmatch.batch.fetch import fetched, is_remote, remote_state
from flowmatch.batch.options import ClipOptions
from flowmatch.batch.plan import Clip
from flowmatch.batch.table import CSV, PARQUET, pairs_of_csv, write_csv, write_parquet
from flowmatch.flow.sequence import (
    PICTURES,
    RECORD,
    VIDEO,
    check_same_run,
    pair_files,
    run_record,
    write_sequence,
)
from flowmatch.flow.sequence_drawing import draw_sequence
from flowmatch.flow.store import STORE
from flowmatch.io import replace_when_done
from flowmatch.io._files import reason_of
from flowmatch.io._video_stream import without_password
from flowmatch.io.video import Frames, digest_of_identity, read_frames

PairProgress = Callable[[int], None]
"""Function that is called with the number of pairs of a clip that are done."""


@dataclass(frozen=True)
class ClipReport:
    """What became of a clip.

    Attributes:
        source: Path or URL, without a password.
        name: Folder of its files in the output.
        pairs: Number of its pairs that are there.
        computed: Number of those that this run computed.
        skipped: Frames that were left out, and why.
        warnings: Other messages about the clip.
        error: Reason why it failed; empty if it did not.
        seconds: Time that it took.
    """

    source: str
    name: str
    pairs: int = 0
    computed: int = 0
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    error: str = ""
    seconds: float = 0.0


class ClipFlow:
    """The flow of clips, with one network: also for ``map_batches`` of Ray Data.

    The clips of a batch are written one after another, each to its folder of the output. What
    exists is kept, so a batch may be computed again after its worker was lost.

    Args:
        output: Folder of all clips, the same on all machines.
        options: Options of the flows.
        device: Device to compute on; None takes a GPU if torch can use one.
        threads: Number of threads; None takes those of torch.

    Raises:
        ValueError: The name of the weights or the device is unknown.
        FileNotFoundError: The file of weights does not exist.

    Example:
        >>> import tempfile
        >>> flow = ClipFlow(tempfile.mkdtemp(), device="cpu")
        >>> rows = flow({"source": np.array(["none.mp4"]), "name": np.array(["none"])})
        >>> rows["error"].tolist()
        ['none.mp4 does not exist']
    """

    def __init__(
        self,
        output: str | Path,
        options: ClipOptions = ClipOptions(),
        device: str | None = None,
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
            cv2.setNumThreads(threads)
        self.output = Path(output)
        if options.sequence.weights is None:
            digest = STORE.digest(options.model, options.weights)
            options = replace(options, sequence=replace(options.sequence, weights=digest))
        self.options = options
        self.network = STORE.load(options.model, weights=options.weights, device=device)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Write the clips of a batch.

        Args:
            batch: Columns ``"source"`` and ``"name"``, such as the fields of `Clip`.

        Returns:
            Columns of the fields of `ClipReport`, one row for each clip; the tuples are texts of
            lines.
        """
        pairs = zip(batch["source"], batch["name"], strict=True)
        reports = [self.write(Clip(str(source), str(name))) for source, name in pairs]
        return columns_of(reports)

    def write(self, clip: Clip, progress: PairProgress | None = None) -> ClipReport:
        """Write one clip; whatever goes wrong with it is in the report."""
        began = time.monotonic()
        source = without_password(clip.source)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                report = _write(clip, self.output / clip.name, self.network, self.options, progress)
            except Exception as error:  # noqa: BLE001 - the other clips go on
                report = ClipReport(source, clip.name, error=reason_of(error))
        told = tuple(dict.fromkeys(str(w.message) for w in caught if w.category is UserWarning))
        return replace(report, warnings=told, seconds=time.monotonic() - began)


def columns_of(reports: list[ClipReport]) -> dict[str, NDArray[Any]]:
    """Return reports as columns of one row each."""
    rows = [
        {key: "\n".join(v) if isinstance(v, tuple) else v for key, v in asdict(report).items()}
        for report in reports
    ]
    return {key: np.array([row[key] for row in rows]) for key in rows[0]} if rows else {}


def report_of_row(row: dict[str, Any]) -> ClipReport:
    """Return the report of a row of `columns_of`."""
    lines = {key: tuple(row[key].splitlines()) for key in ("skipped", "warnings")}
    return ClipReport(**{**row, **lines})


def _write(
    clip: Clip,
    folder: Path,
    network: nn.Module,
    options: ClipOptions,
    progress: PairProgress | None,
) -> ClipReport:
    source = without_password(clip.source)
    remote = is_remote(clip.source)
    identity = f"{remote_state(clip.source)} {_reading(options)}" if remote else None
    if identity is not None:
        record = run_record(digest_of_identity(identity), source, options.sequence)
        kept = _finished(folder, record, options)
        if kept is not None:
            return replace(kept, source=source, name=clip.name)
    with _opened(clip.source, identity, options) as frames:
        record = run_record(frames.digest(), frames.name, options.sequence)
        kept = _finished(folder, record, options)
        if kept is not None:
            return replace(kept, source=source, name=clip.name)
        _check(frames, folder, record, options)
        # A file of a server that is not finished is read from its beginning; of a live stream,
        # which has no length, nothing is removed.
        overwrite = options.overwrite or (not frames.files and frames.count is not None)
        report = write_sequence(
            frames,
            folder,
            model=network,
            options=options.sequence,
            batch=options.batch,
            overwrite=overwrite,
            progress=lambda _, done, __: progress(done) if progress else None,
        )
        _draw(frames, folder, options)
    pairs = _finish(clip, folder, record, options, report.skipped)
    return ClipReport(source, clip.name, pairs, report.computed, report.skipped)


def _check(frames: Frames, folder: Path, record: dict[str, Any], options: ClipOptions) -> None:
    if (options.video or options.pictures) and not frames.files:
        raise ValueError("video and pictures read the frames again: not from a stream")
    tables = [table.name for table in (folder / CSV, folder / PARQUET) if table.exists()]
    if tables and not (folder / RECORD).exists():
        raise ValueError(f"{folder} holds files of something else ({tables[0]})")
    if (folder / PARQUET).exists() and not options.overwrite:  # no flow is there to be checked
        check_same_run(folder / RECORD, record)


def _reading(options: ClipOptions) -> str:
    """Return the options that change what is read, as text."""
    return (
        f"{options.start}:{options.stop}:{options.stride} {options.scale:g} {options.white or ''}"
    )


@contextmanager
def _opened(source: str, identity: str | None, options: ClipOptions) -> Iterator[Frames]:
    """Yield the frames of a clip; a remote one is copied, and goes by its URL."""
    choice: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("start", "stop", "stride", "scale", "white", "reconnect")
    }
    if identity is None:
        yield read_frames(source, **choice)
        return
    with fetched(source) as path:
        frames = read_frames(path, **choice)
        frames.name, frames.identity = without_password(source), identity
        yield frames


def _draw(frames: Frames, folder: Path, options: ClipOptions) -> None:
    if not (options.video or options.pictures):
        return
    draw_sequence(
        frames,
        folder,
        options.sequence.suffix,
        video=folder / VIDEO if options.video else None,
        pictures=folder / PICTURES if options.pictures else None,
        max_flow=options.max_flow,
        confidence=options.sequence.confidence,
    )


# ---- The mark of a whole clip: "finished" in its record, written last ----------------------------


def _finish(
    clip: Clip,
    folder: Path,
    record: dict[str, Any],
    options: ClipOptions,
    skipped: tuple[str, ...],
) -> int:
    """Write the table of a clip and the mark; return the number of pairs."""
    pairs = _pairs_in(folder, options)
    files = [(pair, _columns(folder, pair, options)) for pair in pairs]
    if options.parquet:
        write_parquet(folder / PARQUET, clip.name, files)
    else:
        write_csv(folder / CSV, [(pair, paths["flow"]) for pair, paths in files])
    (folder / (CSV if options.parquet else PARQUET)).unlink(missing_ok=True)
    drawn = {name: getattr(options, name) for name in ("video", "pictures", "max_flow")}
    mark = {"pairs": len(pairs), "skipped": skipped, "parquet": options.parquet, **drawn}
    with replace_when_done(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record | {"finished": mark}, indent=2) + "\n")
    if options.parquet:
        _remove(path for _, paths in files for path in paths.values())
    return len(pairs)


def _finished(folder: Path, record: dict[str, Any], options: ClipOptions) -> ClipReport | None:
    """Return the report of a clip whose files are all there, computed with the same options."""
    if options.overwrite:
        return None
    try:
        old = json.loads((folder / RECORD).read_text())
        mark = old.pop("finished")
        if old != record or mark["parquet"] != options.parquet:
            return None
        if options.parquet:
            pairs = list(range(mark["pairs"]))
            whole = (folder / PARQUET).exists()
            # A run may have ended between the mark and the removal of the files.
            _remove(path for pair in _pairs_in(folder, options)
                    for path in pair_files(folder, pair, options.sequence))  # fmt: skip
        else:
            pairs = pairs_of_csv(folder / CSV)
            present = {path.name for path in folder.iterdir()}
            whole = mark["pairs"] == len(pairs) and present.issuperset(
                path.name for pair in pairs for path in pair_files(folder, pair, options.sequence)
            )
        drawn = [name for name in ("video", "pictures") if getattr(options, name)]
        whole &= all(mark[name] for name in drawn)
        whole &= not drawn or mark["max_flow"] == options.max_flow
        whole &= not options.video or (folder / VIDEO).exists()
        if options.pictures and not options.parquet:
            whole &= all((folder / PICTURES / f"{pair:06d}.png").exists() for pair in pairs)
        report = ClipReport("", "", mark["pairs"], skipped=tuple(mark["skipped"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return report if whole else None


def _pairs_in(folder: Path, options: ClipOptions) -> list[int]:
    """Return the numbers of the pairs whose flow is in a folder."""
    files = folder.glob(f"*{options.sequence.suffix}")
    return sorted(int(file.stem) for file in files if file.stem.isdecimal())


def _columns(folder: Path, pair: int, options: ClipOptions) -> dict[str, Path]:
    """Return the files of a pair by what they hold: flow, backward, occluded, confidence, ..."""
    files = pair_files(folder, pair, options.sequence)
    return {file.stem[len(f"{pair:06d}_") :] or "flow": file for file in files}


def _remove(paths: Iterator[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
