"""``flowmatch train video`` and ``flowmatch eval video``: what moves teaches an embedding."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from flowmatch._opencv import cv2
from flowmatch.cli.options import DeviceName, TrainingPrecision, console, progress_bar, resumable
from flowmatch.cli.train.flow import reporter
from flowmatch.devices import choose_device
from flowmatch.flow.baselines import dis_refined
from flowmatch.flow.estimate import estimate_flow
from flowmatch.flow.store import STORE, load
from flowmatch.io import write_image
from flowmatch.io.video import Frames, read_frames
from flowmatch.metric_learning.fit import read_trunk
from flowmatch.metric_learning.weights import Embedding, load_embedding, save_embedding
from flowmatch.selfsupervised import (
    BASELINES,
    RECIPES,
    TrackedPatches,
    VideoRecipe,
    embed_patches,
    load_patches,
    mine_patches,
    save_patches,
    score_patches,
    train_video,
)
from flowmatch.selfsupervised.evaluate import VideoScores, calibrated, retrieval_sheet
from flowmatch.selfsupervised.tracks import Image
from flowmatch.selfsupervised.train import initial_network
from flowmatch.training import is_first_process

Clips = Annotated[
    list[str], typer.Argument(metavar="CLIP...", help="Videos, or folders of frames.")
]
FramesOption = Annotated[
    str, typer.Option(metavar="FIRST:STOP", help="Of each clip: the first, and the one after.")
]
Recipe = Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.")]
FlowOption = Annotated[
    str, typer.Option("--flow", help="Which flow follows: network, or dis, several times faster.")
]
Start = Annotated[
    Path | None,
    typer.Option(help="Weights of the trunk to begin with, .safetensors.", show_default=False),
]


def train_video_command(
    clips: Clips,
    out: Annotated[Path, typer.Option(help="File to write, .safetensors.")],
    frames: FramesOption = "0:",
    recipe: Recipe = "video-small",
    flow: FlowOption = "network",
    start: Start = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint beside OUT.")
    ] = False,
    device: DeviceName = None,
    precision: TrainingPrecision = "bfloat16",
    workers: Annotated[int, typer.Option(min=0, help="Processes that make pairs.")] = 0,
) -> None:
    """Train an embedding of what moves in videos, followed by flow; no labels. Stop any time."""
    chosen = _recipe(recipe)
    checkpoint, mined = out.with_suffix(".pt"), out.with_suffix(".patches.safetensors")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"there is no folder for {out}")
    if checkpoint.exists() and not resume and is_first_process():
        raise ValueError(f"{checkpoint} is there already: --resume, or another --out")
    videos = _videos(clips, frames)
    prints = (video.fingerprint() for video in videos)
    made_from = " ".join([flow, STORE.digest(), str(chosen.mined), *prints])
    with resumable(checkpoint, mined):
        if resume and mined.exists():
            patches = load_patches(mined, made_from)
        else:
            patches = _mine(videos, chosen, flow, device, every=3)
            save_patches(mined, patches, made_from)
        console.print(f"{len(patches)} patches of {patches.tracks} tracks")
        network = train_video(
            chosen,
            patches,
            checkpoint,
            start=read_trunk(start) if start else None,
            resume=resume,
            device=str(choose_device(device)),
            precision=precision,
            workers=workers,
            on_step=reporter(),
        )
    if is_first_process():
        save_embedding(out, Embedding(network, chosen.size, "cosine"))
        console.print(f"weights in {out}")


def eval_video(
    clips: Clips,
    weights: Annotated[Path, typer.Option(help="What train video wrote.")],
    frames: FramesOption = "0:",
    recipe: Recipe = "video-small",
    flow: FlowOption = "network",
    start: Start = None,
    apart: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Frames between a query and what it should find; as often as you like.  "
            "[default: 10, 20]",
            show_default=False,
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="File for a picture of what is found.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    device: DeviceName = None,
) -> None:
    """Find what moves in other frames of videos, beside the untrained network and baselines.

    What is the same thing is what two trackers agree about, by two kinds of flow: give frames that
    training has not seen.
    """
    chosen, embedding = _recipe(recipe), load_embedding(weights, choose_device(device))
    patches = _mine(_videos(clips, frames), chosen, flow, device, every=5, checked=True)
    initial = calibrated(
        initial_network(chosen, read_trunk(start) if start else None), patches, chosen.size
    )
    found: dict[str, Tensor] = {name: make(patches) for name, make in BASELINES.items()}
    found["initialisation"] = embed_patches(initial, patches, chosen.size)
    found["trained"] = embed_patches(embedding.network, patches, embedding.size)
    gaps = apart or [10, 20]
    rows = {
        name: {gap: score_patches(embedded, patches, gap) for gap in gaps}
        for name, embedded in found.items()
    }
    if picture is not None:
        shown = {name: found[name] for name in ("initialisation", "trained")}
        write_image(picture, retrieval_sheet(shown, patches, apart=gaps[-1]))
    if as_json:
        plain = {
            name: {gap: {"R@1": s.recall_at_1.mean, "mAP": s.map.mean} for gap, s in row.items()}
            for name, row in rows.items()
        }
        typer.echo(json.dumps(plain, indent=2))
        return
    _print(rows, patches)


def _recipe(name: str) -> VideoRecipe:
    if name not in RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, got {name!r}")
    return RECIPES[name]


def _videos(clips: list[str], frames: str) -> list[Frames]:
    first, colon, stop = frames.partition(":")
    if not colon or not all(part.strip().isdigit() for part in (first, stop) if part):
        raise ValueError(f"--frames must be FIRST:STOP, such as 0:500 or 500:, got {frames!r}")
    return [
        read_frames(clip, start=int(first or 0), stop=int(stop) if stop else None) for clip in clips
    ]


def _mine(
    videos: list[Frames],
    recipe: VideoRecipe,
    flow: str,
    device: str | None,
    every: int,
    checked: bool = False,
) -> TrackedPatches:
    if flow not in ("network", "dis"):
        raise ValueError(f"--flow must be network or dis, got {flow!r}")
    model = load(device=choose_device(device))

    def network(first: Image, second: Image) -> NDArray[np.float32]:
        # Refined, for the shapes: a network's flow alone is no sharper than its last level.
        return estimate_flow(model, first, second, refine=True, precision="bfloat16")

    cv2.setNumThreads(1)
    total = sum(video.count or 0 for video in videos)
    with progress_bar(transient=True) as bar:
        task = bar.add_task("following what moves", total=total or None)
        return mine_patches(
            videos,
            network if flow == "network" else dis_refined,
            size=recipe.mined,
            every=every,
            checked_by=(dis_refined if flow == "network" else network) if checked else None,
            report=lambda clip, number: bar.advance(task),
        )


def _print(rows: dict[str, dict[int, VideoScores]], patches: TrackedPatches) -> None:
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    table.add_column("embedding", no_wrap=True)
    chance, counts = [], []
    for gap, one in next(iter(rows.values())).items():
        table.add_column(f"R@1, {gap} apart", justify="right", no_wrap=True)
        table.add_column(f"mAP, {gap} apart", justify="right", no_wrap=True)
        chance += [f"{100 * one.chance:.1f}", ""]
        counts.append(f"{one.queries} of {one.tracks} tracks {gap} apart")
    for name, row in rows.items():
        figures = [figure for one in row.values() for figure in (one.recall_at_1, one.map)]
        cells = (f"{100 * figure.mean:.1f} ±{100 * figure.margin:.1f}" for figure in figures)
        table.add_row(name, *cells)
    table.add_row("chance", *chance)
    paper = Console(highlight=False, markup=False, emoji=False)
    paper.width = max(paper.width, 100)
    paper.print(table)
    paper.print(
        f"{len(patches)} patches of {patches.tracks} tracks. Each is searched among those of its "
        "track that are frames apart and of what is\ncertainly something else; queries with both: "
        f"{', '.join(counts)}. Means over tracks ± half a 95 % interval, percent."
    )
