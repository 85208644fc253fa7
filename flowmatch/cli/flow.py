"""``flowmatch flow``: optical flow of two pictures, a folder of pictures, or videos."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import TextColumn

from flowmatch.batch import ClipOptions
from flowmatch.cli._clips import (
    Distribution,
    Jobs,
    Ray,
    RayAddress,
    Shard,
    are_many,
    ray_cluster,
    write_many,
)
from flowmatch.cli._messages import messages, progress_bar, report_interrupt
from flowmatch.cli._options import (
    INPUT,
    OUTPUT,
    QUALITY,
    DeviceName,
    FlowQuality,
    FrameRange,
    ModelName,
    Precision,
    Refine,
    WeightsFile,
    WhiteLevel,
    WithDis,
    Zoom,
    check_output_folder,
    parse_frames,
)
from flowmatch.devices import choose_device
from flowmatch.flow import FlowOptions, SequenceOptions, load, write_sequence
from flowmatch.flow.data.layouts import FLOW_SUFFIXES
from flowmatch.flow.sequence import PICTURES, VIDEO, SequenceReport
from flowmatch.flow.sequence_drawing import check_video, draw_sequence
from flowmatch.flow.store import STORE
from flowmatch.flow.warm_start import check_warm_start
from flowmatch.io.image import IMAGE_SUFFIXES, count_pages
from flowmatch.io.video import Frames, read_frames
from flowmatch.io.video_writer import VIDEO_SUFFIXES
from flowmatch.progress import counted, rate_of

EXAMPLES = (
    "flowmatch flow first.png second.png -o flow --pictures",
    "flowmatch flow clips/*.mp4 -o flow --video --jobs 4",
)
FORMATS = ("flo", "png", "npz", "pfm", "parquet")
_FILE_SUFFIXES = {*FLOW_SUFFIXES, *IMAGE_SUFFIXES, *VIDEO_SUFFIXES}

RATE = TextColumn("{task.fields[rate]}")


def command(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="A video, a folder or 'pattern*' of pictures, two or more pictures, the number of "
            "a camera, or the URL of a stream; or several clips.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder to write to (required); it is created if it does not exist.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            help="Format of the flows: flo (Middlebury), png (KITTI, 16 bits), npz, pfm, or "
            "parquet (one file of all flows of a clip).",
            rich_help_panel=OUTPUT,
        ),
    ] = "flo",
    video: Annotated[
        bool,
        typer.Option(
            "--video",
            help="Video flow.mp4 of the frames beside their flows, in addition.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    pictures: Annotated[
        bool,
        typer.Option(
            "--pictures",
            help="Coloured picture of each flow, PNG, in addition.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    bidirectional: Annotated[
        bool,
        typer.Option(
            "--bidirectional",
            help="Backward flows and occlusion masks, in addition.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            help="Probability that each flow is right to 1 px, as PNG of 16 bits, in addition; "
            "doubtful flow is gray in pictures and video.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    max_flow: Annotated[
        float | None,
        typer.Option(
            help="Motion of full colour in pictures and video, pixels.",
            show_default="one value fit to the clip",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Computation of all pairs, also of those whose files exist.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    frames: FrameRange = "0:",
    stride: Annotated[
        int,
        typer.Option(help="Step between frames: 2 takes every second one.", rich_help_panel=INPUT),
    ] = 1,
    scale: Annotated[
        float,
        typer.Option(
            help="Factor on the size of the frames; the flow is in pixels of the scaled frames.",
            rich_help_panel=INPUT,
        ),
    ] = 1.0,
    white: WhiteLevel = None,
    reconnect: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of attempts in a row, a second apart, to go on with a stream whose "
            "connection is lost.",
            rich_help_panel=INPUT,
        ),
    ] = 0,
    model: ModelName = "default",
    weights: WeightsFile = None,
    device: DeviceName = None,
    precision: Precision = "float32",
    quality: FlowQuality = "good",
    refine: Refine = None,
    zoom: Zoom = 1.0,
    with_dis: WithDis = None,
    warm_start: Annotated[
        bool,
        typer.Option(
            "--warm-start",
            help="Initialisation of each flow with the flow of the previous pair: for networks "
            "such as RAFT, and clips of a camera.",
            rich_help_panel=QUALITY,
        ),
    ] = False,
    batch: Annotated[
        int,
        typer.Option(min=1, help="Number of pairs computed at once.", rich_help_panel=QUALITY),
    ] = 1,
    tile: Annotated[
        int | None,
        typer.Option(
            help="Side of tiles that large frames are split into, pixels: saves memory.",
            show_default="1024 for frames of more than 2.3 million pixels, 768 above 16.8 million",
            rich_help_panel=QUALITY,
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            help="Number of pixels that neighbouring tiles share, at most half a tile.",
            show_default="an eighth of a tile, at least 64",
            rich_help_panel=QUALITY,
        ),
    ] = None,
    jobs: Jobs = None,
    shard: Shard = None,
    ray: Ray = False,
    ray_address: RayAddress = None,
) -> None:
    """Compute the optical flow from each frame to the next.

    The flows are written to OUTPUT/000000.flo, OUTPUT/000001.flo, and so on. After an interruption
    only complete files are left, and the same command continues.

    Of several clips, or with an option of "Many clips", each is written to a folder of its own,
    OUTPUT/NAME; OUTPUT/manifest.json lists them. The exit status is 1 if a clip failed.
    """
    folder = _output_folder(inputs, output)
    _check_choices(format, max_flow)
    flow_options = FlowOptions(quality, refine, with_dis, zoom, tile, overlap, precision)
    start, stop = parse_frames(frames)
    options = SequenceOptions(
        flow_options,
        suffix=".flo" if format == "parquet" else f".{format}",
        bidirectional=bidirectional,
        warm_start=warm_start,
        confidence=confidence,
    )
    distribution = Distribution(jobs, shard, ray_cluster(ray, ray_address))
    if are_many(inputs, distribution, format == "parquet"):
        clips = ClipOptions(
            options, model=model, weights=str(weights) if weights else None,
            start=start, stop=stop, stride=stride, scale=scale, white=white, reconnect=reconnect,
            batch=batch, overwrite=overwrite, video=video, pictures=pictures, max_flow=max_flow,
            parquet=format == "parquet",
        )  # fmt: skip
        write_many(inputs, folder, clips, device, distribution)
        return
    clip = read_frames(
        _source(inputs), start=start, stop=stop, stride=stride, scale=scale, reconnect=reconnect
    )
    if (video or pictures) and not clip.files:
        raise ValueError("--video and --pictures read the frames again: not from a live source")
    if video:
        check_video(clip, folder / VIDEO)
    options = replace(options, weights=STORE.digest(model, weights))
    network = load(model, weights=weights, device=choose_device(device))
    if warm_start:
        check_warm_start(network, batch)
    report = _compute(network, clip, folder, options, batch, overwrite)
    addition = _draw(clip, folder, options, video, pictures, max_flow, report)
    messages.print(summary(report, folder) + addition)


def _output_folder(inputs: list[str], output: Path | None) -> Path:
    """Return the output folder, or explain what is missing on the command line."""
    if not all(inputs):
        raise ValueError(f"an INPUT is empty, got {inputs}")
    if output is None:
        *others, last = inputs
        hint = f"; is it {last}?" if others and not Path(last).is_file() else ""
        raise ValueError(f"no output folder: add -o FOLDER{hint}")
    check_output_folder(output, _FILE_SUFFIXES)
    first = Path(inputs[0])
    if (
        len(inputs) == 1
        and first.suffix.lower() in IMAGE_SUFFIXES
        and first.is_file()
        and count_pages(first) == 1
    ):
        raise ValueError(f"one picture given, {first}: a flow needs two or more")
    return output


def _check_choices(format: str, max_flow: float | None) -> None:
    if format not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {format!r}")
    if max_flow is not None and not 0 < max_flow < math.inf:
        raise ValueError(f"--max-flow must be a positive number of pixels, got {max_flow}")


def summary(report: SequenceReport, folder: Path) -> str:
    """Return a line about a run: number of pairs, rate, and what was skipped for which reason."""
    line = counted(report.computed, "pair")
    if report.computed and report.seconds:
        line += f" at {rate_of(report.computed, report.seconds)}"
    if report.kept:
        line += f", {report.kept} existed already"
    if report.skipped:
        shown = "; ".join(report.skipped[:3]) + ("; ..." if len(report.skipped) > 3 else "")
        line += f", {counted(len(report.skipped), 'frame')} skipped ({shown})"
    if report.unknown:
        line += f", {report.unknown} pixels stored as unknown (not finite, or beyond the format)"
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
    report = SequenceReport()
    with progress_bar(RATE) as bar:
        total = None if frames.count is None else max(frames.count - 1, 0)
        task = bar.add_task("flow", total=total, rate="")

        def progress(stage: str, done: int, total: int | None) -> None:
            known = report.computed and report.seconds
            rate = rate_of(report.computed, report.seconds) if known else ""
            bar.update(task, completed=done, rate=rate)

        with report_interrupt(bar, lambda: summary(report, folder)):
            write_sequence(
                frames,
                folder,
                model=network,
                options=options,
                batch=batch,
                overwrite=overwrite,
                report=report,
                progress=progress,
            )
        done = report.computed + report.kept
        bar.update(task, completed=done, total=done)
    return report


def _draw(
    frames: Frames,
    folder: Path,
    options: SequenceOptions,
    video: bool,
    pictures: bool,
    max_flow: float | None,
    report: SequenceReport,
) -> str:
    """Draw video and pictures; return a clause about them for the summary."""
    if not (video or pictures):
        return ""
    with progress_bar(RATE) as bar:
        task = bar.add_task("draw", total=report.computed + report.kept, rate="")
        scale = draw_sequence(
            frames,
            folder,
            options.suffix,
            video=folder / VIDEO if video else None,
            pictures=folder / PICTURES if pictures else None,
            max_flow=max_flow,
            confidence=options.confidence,
            progress=lambda _, done, total: bar.update(task, completed=done, total=total),
        )
    files = [*([VIDEO] if video else []), *([f"{PICTURES}/"] if pictures else [])]
    return f", with {' and '.join(files)} (full colour at {scale:.3g} px)"
