"""``flowmatch track``: boxes or points, tracked through a video."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from flowmatch.cli._messages import StageBars, messages, progress_bar
from flowmatch.cli._options import (
    INPUT,
    OUTPUT,
    QUALITY,
    DeviceName,
    FrameRange,
    ModelName,
    WeightsFile,
    WhiteLevel,
    check_target,
    parse_frames,
)
from flowmatch.devices import choose_device
from flowmatch.flow import FlowOptions
from flowmatch.flow import load as load_flow
from flowmatch.io.video import Frames, read_frames
from flowmatch.progress import counted
from flowmatch.tracking import BoxTracks, PointTracks, grid_points, load, track_boxes, track_points
from flowmatch.tracking.draw import write_tracks_video
from flowmatch.tracking.files import BOX_SUFFIXES, POINT_SUFFIXES, read_points, write_tracks

EXAMPLES = (
    "flowmatch track clip.mp4 --box 120,80,40,90 --box 300,60,35,80 -o boxes.csv --video",
    "flowmatch track clip.mp4 --points grid -o points.npz --video",
)
GRID = "grid"


def command(
    clip: Annotated[
        str,
        typer.Argument(
            metavar="VIDEO",
            help="A video, or a folder or 'pattern*' of pictures.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="File to write: .csv, .npz, or for boxes .txt as MOTChallenge has it.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ],
    box: Annotated[
        list[str] | None,
        typer.Option(
            "--box",
            metavar="X,Y,WIDTH,HEIGHT",
            help="Box of an object in the first frame, pixels; may be given several times.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    points: Annotated[
        str | None,
        typer.Option(
            "--points",
            metavar="FILE|grid",
            help="Text file of points in the first frame, x and y in each line, or grid for points "
            "all over the frame.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    step: Annotated[
        int,
        typer.Option(
            min=1, help="Distance of the points of a grid, pixels.", rich_help_panel=INPUT
        ),
    ] = 16,
    frames: FrameRange = "0:",
    white: WhiteLevel = None,
    video: Annotated[
        bool,
        typer.Option(
            "--video",
            help="Video of the frames with boxes or trails, next to the output, as *.mp4.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    model: ModelName = "default",
    weights: WeightsFile = None,
    device: DeviceName = None,
    quality: Annotated[
        str,
        typer.Option(
            "--quality",
            help="Quality of the flow that moves points, refined in any case: fast, good or best.",
            rich_help_panel=QUALITY,
        ),
    ] = "fast",
) -> None:
    """Track boxes or points through a video.

    A network regresses each box from two crops; points follow the optical flow. Lost objects and
    hidden points are marked as such, and found again if they reappear nearby. --model is the name
    of tracking weights for boxes, and of flow weights for points.
    """
    if (box is None) == (points is None):
        raise ValueError("expected either --box, once or several times, or --points")
    check_target(output, POINT_SUFFIXES if box is None else BOX_SUFFIXES)
    drawn = output.with_suffix(".mp4")
    if video:
        check_target(drawn)
    boxes = [_parse_box(text) for text in box or ()]
    first, stop = parse_frames(frames)
    source = read_frames(clip, start=first, stop=stop)
    if not source.files:
        raise ValueError(f"{clip}: expected a video file or pictures, not a live source")
    target = choose_device(device)
    with progress_bar() as bar:
        progress = StageBars(bar)
        tracks: BoxTracks | PointTracks
        if points is None:
            network = load(model, weights=weights, device=target)
            tracks = track_boxes(source, boxes, model=network, progress=progress)
        else:
            flow, options = (
                load_flow(model, weights=weights, device=target),
                FlowOptions(quality, True),
            )
            start = _start_points(source, points, step)
            tracks = track_points(source, start, model=flow, options=options, progress=progress)
        write_tracks(output, tracks)
        if video:
            write_tracks_video(source, tracks, drawn, progress)
    addition = f", with {drawn}" if video else ""
    messages.print(_summary(source, tracks) + f", in {output}{addition}")


def _parse_box(text: str) -> list[float]:
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4:
        raise ValueError(f"--box must be X,Y,WIDTH,HEIGHT in pixels, got {text!r}")
    return numbers


def _start_points(source: Frames, points: str, step: int) -> NDArray[np.float64]:
    if points != GRID:
        return read_points(points)
    height, width = next(iter(source)).shape[:2]
    return grid_points((height, width), step)


def _summary(source: Frames, tracks: BoxTracks | PointTracks) -> str:
    count = len(tracks.frames)
    if isinstance(tracks, BoxTracks):
        lost = int(tracks.lost[-1].sum())
        boxes = counted(tracks.boxes.shape[1], "box", "boxes")
        line = f"{boxes} in {counted(count, 'frame')}, {lost} lost at the end"
    else:
        visible = int(tracks.visible[-1].sum())
        points = counted(tracks.points.shape[1], "point")
        line = f"{points} in {counted(count, 'frame')}, {visible} visible in the last"
    if source.skipped:
        line += f", {counted(len(source.skipped), 'frame')} skipped ({source.skipped[0]})"
    return line
