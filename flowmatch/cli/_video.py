"""Options and steps that ``train video`` and ``eval video`` share."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.cli._messages import progress_bar
from flowmatch.devices import choose_device
from flowmatch.flow.baselines import dis_refined
from flowmatch.flow.estimate import estimate_flow
from flowmatch.flow.options import FlowOptions
from flowmatch.flow.store import load
from flowmatch.imaging import Image
from flowmatch.io.video import Frames, read_frames
from flowmatch.selfsupervised import RECIPES, TrackedPatches, VideoRecipe, mine_patches

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
    typer.Option(help="Weights of the backbone to begin with, .safetensors.", show_default=False),
]


def chosen_recipe(name: str) -> VideoRecipe:
    if name not in RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, got {name!r}")
    return RECIPES[name]


def open_clips(clips: list[str], frames: str) -> list[Frames]:
    first, colon, stop = frames.partition(":")
    if not colon or not all(part.strip().isdigit() for part in (first, stop) if part):
        raise ValueError(f"--frames must be FIRST:STOP, such as 0:500 or 500:, got {frames!r}")
    return [
        read_frames(clip, start=int(first or 0), stop=int(stop) if stop else None) for clip in clips
    ]


def follow_patches(
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
    # Refined, because a network's flow alone is no sharper than its last level.
    options = FlowOptions(refine=True, precision="bfloat16")

    def network(first: Image, second: Image) -> NDArray[np.float32]:
        return estimate_flow(first, second, model=model, options=options)

    cv2.setNumThreads(1)
    total = sum(video.count or 0 for video in videos)
    with progress_bar(transient=True) as bar:
        task = bar.add_task("following what moves", total=total or None)
        return mine_patches(
            videos,
            network if flow == "network" else dis_refined,
            size=recipe.mined,
            stride=every,
            checked_by=(dis_refined if flow == "network" else network) if checked else None,
            progress=lambda stage, done, total: bar.update(task, completed=done, total=total),
        )
