"""Many clips for ``flowmatch flow``: options, when a run has many, and what is printed."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.progress import TextColumn

from flowmatch.batch import BatchReport, ClipOptions, write_clips
from flowmatch.cli._messages import messages, progress_bar, report_interrupt
from flowmatch.io._video_stream import is_url
from flowmatch.io.image import READ_SUFFIXES, count_pages
from flowmatch.progress import counted, rate_of

CLIPS = "Many clips"
_PAIRS = TextColumn("{task.fields[pairs]}")

Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of processes, which share the cores and the GPUs; with --ray, of workers.",
        show_default="1; with --ray, one for each GPU or core",
        rich_help_panel=CLIPS,
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Share of the clips that this machine computes: number I from 0, of N shares.",
        show_default="all clips",
        rich_help_panel=CLIPS,
    ),
]
Ray = Annotated[
    bool,
    typer.Option(
        "--ray",
        help="Computation by Ray Data, on this machine or at --ray-address.",
        rich_help_panel=CLIPS,
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Ray cluster: auto for the one that was started here, HOST:PORT or ray://HOST:PORT.",
        show_default="a new one on this machine, or $RAY_ADDRESS",
        rich_help_panel=CLIPS,
    ),
]


class Distribution(NamedTuple):
    """How clips are divided: ``--jobs``, ``--shard``, and the address of a Ray cluster or None."""

    jobs: int | None
    shard: str | None
    ray: str | None


def ray_cluster(ray: bool, address: str | None) -> str | None:
    """Return the address of the cluster of ``--ray``, or None without it.

    Raises:
        ValueError: An address is given without ``--ray``.
    """
    if address and not ray:
        raise ValueError("--ray-address needs --ray")
    return (address or os.environ.get("RAY_ADDRESS") or "local") if ray else None


def parse_shard(text: str | None) -> tuple[int, int]:
    """Return number and count of the shares of ``I/N``; (0, 1) for None.

    Example:
        >>> parse_shard("2/8"), parse_shard(None)
        ((2, 8), (0, 1))

    Raises:
        ValueError: The text has another form, or I is not below N.
    """
    if text is None:
        return 0, 1
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(f"--shard must be I/N with I from 0 to N-1, such as 0/4, got {text!r}")
    return int(match[1]), int(match[2])


def are_many(inputs: list[str], distribution: Distribution, parquet: bool) -> bool:
    """Return whether each input is a clip of its own, not a picture of one clip.

    Raises:
        ValueError: They are clips, but one is a single picture.
    """
    pictures = [text for text in inputs if _is_picture(text)]
    is_one = len(inputs) == 1 or len(pictures) == len(inputs)
    if is_one and not parquet and distribution == (None, None, None):
        return False
    single = next((text for text in pictures if Path(text).is_file()), None)
    if single is not None and count_pages(Path(single)) == 1:
        raise ValueError(f"clips are expected, {single} is a picture")
    return True


def _is_picture(text: str) -> bool:
    path = Path(text)
    is_kind = path.suffix.lower() in READ_SUFFIXES and path.suffix.lower() != ".gif"
    return is_kind and not is_url(text) and not path.is_dir() and not re.search(r"[*?\[]", text)


def write_many(
    clips: list[str],
    folder: Path,
    options: ClipOptions,
    device: str | None,
    distribution: Distribution,
) -> None:
    """Write the flow of clips, print what became of them, and set the exit status."""
    shard = parse_shard(distribution.shard)
    report = BatchReport()
    with progress_bar(_PAIRS) as bar:
        task = bar.add_task("clips", total=None, pairs="")

        def progress(stage: str, done: int, total: int | None) -> None:
            failed = f", {len(report.failed)} failed" if report.failed else ""
            bar.update(task, completed=done, total=total, pairs=f"{report.pairs} pairs{failed}")

        with report_interrupt(bar, lambda: _summary(report, folder)):
            write_clips(
                clips, folder, options=options, device=device, jobs=distribution.jobs, shard=shard,
                ray=distribution.ray, report=report, progress=progress,
            )  # fmt: skip
    _print_messages(report, messages.print)
    messages.print(_summary(report, folder))
    if report.failed:
        raise typer.Exit(1)


def _print_messages(report: BatchReport, show: Callable[[str], None]) -> None:
    for clip in sorted(report.reports, key=lambda clip: clip.name):
        for text in clip.warnings:
            show(f"warning: {clip.name}: {text}")
        if clip.skipped:
            more = "; ..." if len(clip.skipped) > 1 else ""
            skipped = counted(len(clip.skipped), "frame")
            show(f"{clip.name}: {skipped} skipped ({clip.skipped[0]}{more})")
        if clip.error:
            show(f"failed: {clip.name}: {clip.error}")


def _summary(report: BatchReport, folder: Path) -> str:
    """Return a line about a run: numbers of clips and pairs, and the rate."""
    computed = sum(clip.computed for clip in report.reports)
    done = [clip for clip in report.reports if not clip.error]
    kept = sum(clip.computed == 0 for clip in done)
    line = f"{len(done)} of {counted(report.clips, 'clip')} done"
    if kept:
        line += f" ({kept} existed already)"
    if report.failed:
        line += f", {len(report.failed)} failed"
    line += f", {counted(sum(clip.pairs for clip in done), 'pair')}"
    if computed and report.seconds:
        line += f", computed at {rate_of(computed, report.seconds)}"
    return f"{line}, in {folder}"
