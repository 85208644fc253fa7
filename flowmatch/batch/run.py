"""A run over many clips: one after another, in processes, or by Ray, with a manifest."""

import json
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flowmatch.batch.clip import ClipFlow, ClipReport
from flowmatch.batch.options import ClipOptions
from flowmatch.batch.plan import Clip, plan_clips
from flowmatch.batch.processes import write_in_processes
from flowmatch.batch.ray_data import write_by_ray
from flowmatch.batch.table import import_parquet
from flowmatch.devices import choose_device
from flowmatch.flow.store import STORE
from flowmatch.flow.warm_start import check_warm_start
from flowmatch.io import replace_when_done
from flowmatch.io._files import FilePath
from flowmatch.io._video_stream import without_password
from flowmatch.progress import ProgressCallback

_MANIFEST_SECONDS = 10.0  # between two writings of the manifest, which may list many clips


@dataclass
class BatchReport:
    """Summary of a run of `write_clips`.

    Attributes:
        clips: Number of clips of the plan, or of its share.
        reports: Reports of the clips that are done or failed, in the order in which they ended.
        pairs: Number of pairs of all clips that were computed or kept so far.
        seconds: Time that the run took.
        manifest: File that lists all clips and what became of them.
    """

    clips: int = 0
    reports: list[ClipReport] = field(default_factory=list)
    pairs: int = 0
    seconds: float = 0.0
    manifest: Path = Path()

    @property
    def failed(self) -> list[ClipReport]:
        """Reports of the clips that failed."""
        return [report for report in self.reports if report.error]


def write_clips(
    clips: Sequence[FilePath],
    output: FilePath,
    *,
    options: ClipOptions = ClipOptions(),
    device: str | None = None,
    jobs: int | None = None,
    shard: tuple[int, int] = (0, 1),
    ray: str | None = None,
    report: BatchReport | None = None,
    progress: ProgressCallback | None = None,
) -> BatchReport:
    """Write the flow of many clips, each to its folder of the output.

    A folder holds the files of `write_sequence`, and ``pairs.csv`` with statistics of each pair; or
    with ``options.parquet`` one file ``flows.parquet`` with the statistics and the flows. A clip
    that is whole is skipped in a later run, another one goes on. A clip that fails does not end the
    run. The files do not depend on the number of processes or machines.

    Args:
        clips: Videos, folders and patterns of pictures, URLs of streams, and URLs of object stores
            and archives that fsspec reads, such as ``"s3://bucket/clip.mp4"``.
        output: Folder of all clips; on several machines, one that all of them see.
        options: Options of the flows.
        device: Device to compute on; None takes the GPUs, one for each process, where torch can
            use them.
        jobs: Number of processes; None is one, or with Ray as many as the cluster has devices.
        shard: Number of this share of the clips, from 0, and the number of shares (`plan_clips`).
        ray: Address of a Ray cluster, or ``"local"`` for this machine; None does without Ray.
        report: Report that is kept up to date, and returned; a caller that passes one can read it
            after an interrupt.
        progress: Called with the stage ``"clips"`` and the number of clips that have ended, also
            while pairs are added to `report`.

    Returns:
        What became of the clips.

    Raises:
        ValueError: The plan or an option is wrong (`plan_clips`).
        FileNotFoundError: The file of weights does not exist.
        ImportError: Ray or pyarrow is needed and not installed.
        OSError: The cluster cannot be reached, or the output cannot be written.

    Example:
        >>> import tempfile
        >>> report = write_clips(["none.mp4"], tempfile.mkdtemp(), device="cpu")
        >>> [(clip.name, clip.pairs) for clip in report.failed]
        [('none', 0)]
    """
    report = BatchReport() if report is None else report
    plan = plan_clips(clips, shard)
    output = Path(output).absolute()
    options = _checked(options, device if ray is None else None)
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be 1 or more processes, got {jobs}")
    output.mkdir(parents=True, exist_ok=True)
    index, count = shard
    name = "manifest.json" if count == 1 else f"manifest-{index}-of-{count}.json"
    report.clips, report.manifest = len(plan), output / name
    running: dict[str, int] = {}
    began = time.monotonic()

    def count_pairs(name: str, done: int) -> None:
        running[name] = done
        report.pairs = sum(r.pairs for r in report.reports) + sum(running.values())
        report.seconds = time.monotonic() - began
        if progress:
            progress("clips", len(report.reports), len(plan))

    written = 0.0
    try:
        with closing(_reports(plan, output, options, device, jobs, ray, count_pairs)) as ended:
            for clip in ended:
                running.pop(clip.name, None)
                report.reports.append(clip)
                if time.monotonic() - written > _MANIFEST_SECONDS:
                    _write_manifest(report, plan)
                    written = time.monotonic()
                count_pairs("", 0)
    finally:
        report.seconds = time.monotonic() - began
        _write_manifest(report, plan)
    return report


def _reports(
    plan: list[Clip],
    output: Path,
    options: ClipOptions,
    device: str | None,
    jobs: int | None,
    ray: str | None,
    count_pairs: Any,
) -> Generator[ClipReport, None, None]:
    if ray is not None:
        yield from write_by_ray(plan, output, options, device, jobs, ray)
    elif (jobs or 1) > 1:
        yield from write_in_processes(plan, output, options, device, jobs or 1, count_pairs)
    else:
        flow = ClipFlow(output, options, device)
        for clip in plan:
            yield flow.write(clip, lambda done, name=clip.name: count_pairs(name, done))  # type: ignore[misc]


def _checked(options: ClipOptions, device: str | None) -> ClipOptions:
    """Return the options with the identity of the weights, after checks of what all clips need."""
    if options.parquet:
        import_parquet()
    choose_device(device)
    model = str(Path(options.model).absolute()) if Path(options.model).is_file() else options.model
    weights = options.weights and str(Path(options.weights).absolute())
    network = STORE.load(model, weights=weights)
    sequence = replace(options.sequence, weights=STORE.digest(model, weights))
    if sequence.warm_start:
        check_warm_start(network, options.batch)
    return replace(options, sequence=sequence, model=model, weights=weights)


def _write_manifest(report: BatchReport, plan: list[Clip]) -> None:
    """Write what became of each clip; without times, so that equal runs give equal files."""
    ended = {clip.name: clip for clip in report.reports}
    clips = []
    for clip in plan:
        entry: dict[str, Any] = {"source": without_password(clip.source), "folder": clip.name}
        result = ended.get(clip.name)
        if result is None:
            entry["state"] = "waiting"
        elif result.error:
            entry |= {"state": "failed", "error": result.error}
        else:
            entry |= {"state": "done", "pairs": result.pairs, "skipped": list(result.skipped)}
        clips.append(entry)
    with replace_when_done(report.manifest) as temporary:
        temporary.write_text(json.dumps({"clips": clips}, indent=2) + "\n", encoding="utf-8")
