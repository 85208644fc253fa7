"""``flowmatch eval track``: trackers of boxes and of points, beside OpenCV's and plain flow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._messages import StageBars, progress_bar
from flowmatch.cli._options import (
    DATA,
    INPUT,
    METHODS,
    CutoutsFolder,
    DeviceName,
    FrameRange,
    JsonFile,
    PhotosFolder,
    Seed,
    WeightsFile,
    WhiteLevel,
    check_target,
    parse_frames,
)
from flowmatch.cli._tables import number_table, percent, print_table, write_json
from flowmatch.devices import choose_device
from flowmatch.flow import FlowOptions
from flowmatch.flow import load as load_flow
from flowmatch.flow.synthetic import Sources
from flowmatch.io.video import read_frames
from flowmatch.progress import counted
from flowmatch.tracking import load, track_boxes, track_points
from flowmatch.tracking.baselines import (
    BoxMethod,
    flow_propagation,
    lucas_kanade,
    opencv_mil,
    still,
)
from flowmatch.tracking.evaluation.evaluate import (
    PointMethod,
    evaluate_clips,
    evaluate_video,
)
from flowmatch.tracking.evaluation.metrics import BoxScores, LostScores, PointScores
from flowmatch.tracking.files import read_mot
from flowmatch.tracking.synthetic import RenderedClip, render_clip

EXAMPLES = (
    "flowmatch eval track --count 12 --photos photos --cutouts cutouts",
    "flowmatch eval track --clip street.avi --boxes gt.txt --json scores.json",
)
_FIRST_SEED = 1_000_000  # far from those of training
_TEXTURES = range(1_000_000, 1_000_040)  # seeds; training takes those from 0
_MOST_FRAMES = 2000  # of a clip, which is held in memory


def command(
    json: JsonFile = None,
    weights: WeightsFile = None,
    white: WhiteLevel = None,
    device: DeviceName = None,
    count: Annotated[
        int, typer.Option(min=1, help="Number of clips to render.", rich_help_panel=DATA)
    ] = 12,
    photos: PhotosFolder = None,
    cutouts: CutoutsFolder = None,
    seed: Seed = 0,
    clip: Annotated[
        str | None,
        typer.Option(
            "--clip",
            metavar="FILE",
            help="Video with known boxes, instead of rendered clips.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            "--boxes",
            metavar="FILE",
            help="Boxes of the video, as text of MOTChallenge.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    frames: FrameRange = "0:",
    baselines: Annotated[
        bool,
        typer.Option(
            help="Rows for OpenCV's MIL and Lucas-Kanade, plain flow, and boxes that stand still.",
            rich_help_panel=METHODS,
        ),
    ] = True,
) -> None:
    """Measure trackers of boxes and of points.

    The clips are rendered: objects that move over a background, cover each other and come back. The
    photographs and cut-outs should be others than those of the training.
    """
    check_target(json)
    if (clip is None) != (boxes is None):
        raise ValueError("--clip and --boxes belong together: a video and its known boxes")
    target = choose_device(device)
    network, flow = load(weights=weights, device=target), load_flow(device=target)
    fast = FlowOptions("fast")
    box_methods: dict[str, BoxMethod] = {
        "flowmatch": lambda frames, start: track_boxes(frames, start, model=network)
    }
    point_methods: dict[str, PointMethod] = {
        "flowmatch": lambda frames, start: track_points(frames, start, model=flow)
    }
    if baselines:
        box_methods |= {
            "OpenCV MIL": opencv_mil,
            "plain flow": flow_propagation(flow, fast),
            "still": still,
        }
        point_methods |= {
            "without anchors": lambda frames, start: track_points(
                frames, start, model=flow, anchors=False
            ),
            "OpenCV Lucas-Kanade": lucas_kanade,
        }
    point_scores: dict[str, PointScores] = {}
    lost_scores: dict[str, LostScores] = {}
    if clip is None:
        sources = Sources.from_folders(photos, cutouts)
        sources = Sources(sources.photos, sources.cutouts, textures=_TEXTURES)
        with progress_bar(transient=True) as bar:
            box_scores, point_scores, lost_scores = evaluate_clips(
                _render(sources, seed, count), box_methods, point_methods, StageBars(bar)
            )
    else:
        assert boxes is not None
        box_scores = _score_video(clip, boxes, frames, box_methods)
    content = {
        "clip": clip,
        "clips": count if clip is None else 1,
        "seed": seed if clip is None else None,
        "boxes": {name: row._asdict() for name, row in box_scores.items()},
        "points": {name: row._asdict() for name, row in point_scores.items()},
        "lost": {name: row._asdict() for name, row in lost_scores.items()},
    }
    if json is None or not write_json(json, content):
        _print(box_scores, point_scores, lost_scores, count if clip is None else 1)


def _render(sources: Sources, seed: int, count: int) -> Iterator[RenderedClip]:
    return (render_clip(sources, _FIRST_SEED + seed * count + k) for k in range(count))


def _score_video(
    clip: str, boxes: Path, frames: str, methods: dict[str, BoxMethod]
) -> dict[str, BoxScores]:
    first, stop = parse_frames(frames)
    truth = read_mot(boxes)[first:stop]
    stop = first + min(len(truth), _MOST_FRAMES)  # later frames are compared with nothing
    if stop == first:
        raise ValueError(f"{boxes}: expected boxes in the frames {frames}, got none")
    numbered = dict(read_frames(clip, start=first, stop=stop).numbered())
    if sorted(numbered) != list(range(len(truth))):
        raise ValueError(
            f"{clip}: expected {len(truth)} frames that can be read, one after another"
        )
    return evaluate_video([numbered[k] for k in range(len(truth))], truth, methods)


def _print(
    boxes: dict[str, BoxScores],
    points: dict[str, PointScores],
    lost: dict[str, LostScores],
    clips: int,
) -> None:
    table = number_table("success AUC", "precision", "mean IoU", title="boxes")
    for name, row in boxes.items():
        table.add_row(name, percent(row.success), percent(row.precision), percent(row.iou))
    total = next(iter(boxes.values())).boxes
    smoke = " These are smoke numbers." if clips < 10 else ""
    print_table(
        table,
        f"{counted(total, 'box', 'boxes')} of {clips} {'clips' if clips > 1 else 'clip or video'}. "
        "success AUC: mean over IoU thresholds of the percent of boxes\n"
        f"above; precision: percent of centres within 20 px (OTB, Wu et al. 2013).{smoke}",
    )
    for name, marks in lost.items():
        print(
            f"{name} marks {marks.found} of {marks.hidden} boxes of objects of which less than "
            f"30 % are visible as lost, and {marks.wrong} of\n{marks.seen} of which at least half "
            "is."
        )
    if not points:
        return
    table = number_table("average Jaccard", "delta avg", "occlusion", title="points")
    for name, scores in points.items():
        table.add_row(name, *map(percent, scores))
    print_table(
        table,
        "Percent, means over clips of 256 points; TAP-Vid's metrics (Doersch et al. 2022), points "
        "given in the\nfirst frame: delta avg, percent of visible points within 1, 2, 4, 8 and 16 "
        "px; occlusion, percent of right visibilities.",
    )
