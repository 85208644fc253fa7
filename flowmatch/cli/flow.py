"""``flowmatch flow``: optical flow of two pictures, a folder of pictures, or a video."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import TextColumn

from flowmatch.cli._messages import (
    messages,
    progress_bar,
)
from flowmatch.cli._options import (
    Best,
    DeviceName,
    Fuse,
    ModelName,
    Precision,
    Refine,
    WeightsFile,
    Zoom,
)
from flowmatch.devices import choose_device
from flowmatch.flow import load
from flowmatch.flow.data.layouts import FLOW_SUFFIXES
from flowmatch.flow.estimate import BEST, check_options
from flowmatch.flow.sequence import (
    PICTURES,
    VIDEO,
    SequenceOptions,
    SequenceReport,
    draw_sequence,
    write_sequence,
)
from flowmatch.flow.store import STORE
from flowmatch.io.image import IMAGE_SUFFIXES
from flowmatch.io.video import Frames, read_frames
from flowmatch.io.video_writer import VIDEO_SUFFIXES

FORMATS = ("flo", "png", "npz", "pfm")
_OF_FILES = {*FLOW_SUFFIXES, *IMAGE_SUFFIXES, *VIDEO_SUFFIXES}

RATE = TextColumn("{task.fields[rate]}")


def command(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT... OUTPUT",
            help="A video, a folder or 'pattern*' of pictures, two or more pictures, or the number "
            "of a camera; then the folder to write to.",
            show_default=False,
        ),
    ],
    model: ModelName = "default",
    weights: WeightsFile = None,
    device: DeviceName = None,
    format: Annotated[
        str, typer.Option(help="flo (Middlebury), png (KITTI, 16 bits), npz or pfm.")
    ] = "flo",
    video: Annotated[
        bool, typer.Option("--video", help="Also write flow.mp4, each frame beside its flow.")
    ] = False,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Also write each flow as a coloured PNG.")
    ] = False,
    bidirectional: Annotated[
        bool, typer.Option("--bidirectional", help="Also the backward flow and occlusion masks.")
    ] = False,
    scale: Annotated[
        float, typer.Option(help="Factor on the frames; the flow is in their pixels.")
    ] = 1.0,
    every: Annotated[int, typer.Option(help="Take each n-th frame only.")] = 1,
    start: Annotated[int, typer.Option(help="First frame, from 0.")] = 0,
    stop: Annotated[
        int | None, typer.Option(help="Frame to stop before.", show_default=False)
    ] = None,
    max_flow: Annotated[
        float | None,
        typer.Option(help="Motion of full colour, pixels; else one scale fit to the clip."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pairs computed at once.")] = 1,
    tile: Annotated[
        int | None,
        typer.Option(help="Split frames into tiles of this side, to save memory."),
    ] = None,
    precision: Precision = "float32",
    refine: Refine = False,
    zoom: Zoom = 1.0,
    fuse: Fuse = False,
    best: Best = False,
    warm_start: Annotated[
        bool,
        typer.Option(
            "--warm-start", help="Begin with the flow of the pair before: RAFT, clips of a camera."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Compute again what is there already.")
    ] = False,
) -> None:
    """Compute the optical flow from each frame to the next.

    Writes OUTPUT/000000.flo and so on. Interrupted, it leaves only whole files; the same command
    goes on where it stopped.
    """
    inputs, folder = _checked_paths(paths)
    _check_choices(format, max_flow)
    check_options(precision, tile, zoom=zoom)
    frames = read_frames(_source(inputs), start=start, stop=stop, every=every, scale=scale)
    if (video or pictures) and not frames.files:
        raise ValueError("--video and --pictures read the frames again, which a camera cannot give")
    if best:
        zoom, fuse, refine = BEST["zoom"], BEST["fuse"], BEST["refine"]
    options = SequenceOptions(
        weights=STORE.digest(model, weights),
        suffix=f".{format}",
        bidirectional=bidirectional,
        precision=precision,
        tile=tile,
        refine=refine,
        zoom=zoom,
        fuse=fuse,
        warm_start=warm_start,
    )
    network = load(model, weights=weights, device=choose_device(device))
    report = _compute(network, frames, folder, options, batch, overwrite)
    drawn = _draw(frames, folder, options.suffix, video, pictures, max_flow, report)
    messages.print(summary(report, folder) + drawn)


def _checked_paths(paths: list[str]) -> tuple[list[str], Path]:
    if len(paths) < 2 or not all(paths):
        raise ValueError(f"an INPUT and an OUTPUT are needed, got {paths}")
    *inputs, output = paths
    if Path(output).is_file():
        raise ValueError(f"OUTPUT must be a folder, {output} is a file")
    suffix = Path(output).suffix.lower()
    if suffix in _OF_FILES and not Path(output).is_dir():
        raise ValueError(
            f"OUTPUT must be a folder, {output} ends as a file does; --format names the format"
        )
    return inputs, Path(output)


def _check_choices(format: str, max_flow: float | None) -> None:
    if format not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {format!r}")
    if max_flow is not None and not 0 < max_flow < math.inf:
        raise ValueError(f"--max-flow must be a positive number of pixels, got {max_flow}")


def summary(report: SequenceReport, folder: Path) -> str:
    """Say in one line how many pairs, at what rate, and what was skipped and why."""
    line = f"{report.computed} pair{'' if report.computed == 1 else 's'}"
    if report.computed and report.seconds:
        line += f" at {report.computed / report.seconds:.2f} pairs/s"
    if report.kept:
        line += f", {report.kept} were there already"
    if report.skipped:
        shown = "; ".join(report.skipped[:3]) + ("; ..." if len(report.skipped) > 3 else "")
        line += f", {len(report.skipped)} frames skipped ({shown})"
    if report.unknown:
        line += f", {report.unknown} pixels stored as unknown (not finite, or past the format)"
    return f"{line}, in {folder}"


def _source(inputs: list[str]) -> Any:
    if len(inputs) > 1:
        return inputs
    return int(inputs[0]) if inputs[0].isdecimal() and not Path(inputs[0]).exists() else inputs[0]


def _compute(
    network: Any,
    frames: Frames,
    folder: Path,
    options: SequenceOptions,
    batch: int,
    overwrite: bool,
) -> SequenceReport:
    latest = SequenceReport()
    with progress_bar(RATE) as bar:
        total = None if frames.count is None else max(frames.count - 1, 0)
        task = bar.add_task("flow", total=total, rate="")

        def progress(report: SequenceReport) -> None:
            nonlocal latest
            latest = replace(report)
            rate = f"{report.computed / report.seconds:.2f} pairs/s" if report.seconds else ""
            bar.update(task, completed=report.computed + report.kept, rate=rate)

        try:
            report = write_sequence(
                network,
                frames,
                folder,
                options,
                batch=batch,
                overwrite=overwrite,
                progress=progress,
            )
        except KeyboardInterrupt:
            bar.stop()
            again = "the same command, without --overwrite, goes on"
            messages.print(f"stopped: {summary(latest, folder)}; {again}")
            raise typer.Exit(130) from None
        done = report.computed + report.kept
        bar.update(task, completed=done, total=done)
    return report


def _draw(
    frames: Frames,
    folder: Path,
    suffix: str,
    video: bool,
    pictures: bool,
    max_flow: float | None,
    report: SequenceReport,
) -> str:
    if not (video or pictures):
        return ""
    with progress_bar(RATE) as bar:
        task = bar.add_task("draw", total=report.computed + report.kept, rate="")
        scale = draw_sequence(
            frames,
            folder,
            suffix,
            video=folder / VIDEO if video else None,
            pictures=folder / PICTURES if pictures else None,
            max_flow=max_flow,
            progress=lambda done: bar.update(task, completed=done),
        )
    made = [*([VIDEO] if video else []), *([f"{PICTURES}/"] if pictures else [])]
    return f", with {' and '.join(made)} (full colour at {scale:.3g} px)"
