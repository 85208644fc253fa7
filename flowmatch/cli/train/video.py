"""``flowmatch train video``: an embedding of moving objects, from videos without labels."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._messages import messages
from flowmatch.cli._options import DeviceName, TrainingPrecision
from flowmatch.cli._run import reporter, resumable
from flowmatch.cli._video import (
    Clips,
    FlowOption,
    FramesOption,
    Recipe,
    Start,
    chosen_recipe,
    follow_patches,
    open_clips,
)
from flowmatch.devices import choose_device
from flowmatch.flow.store import STORE
from flowmatch.metric_learning.fit import read_backbone
from flowmatch.metric_learning.store import save_weights
from flowmatch.selfsupervised import load_patches, save_patches, train_video
from flowmatch.training import is_first_process


def command(
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
    chosen = chosen_recipe(recipe)
    checkpoint, mined = out.with_suffix(".pt"), out.with_suffix(".patches.safetensors")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"there is no folder for {out}")
    if checkpoint.exists() and not resume and is_first_process():
        raise ValueError(f"{checkpoint} is there already: --resume, or another --out")
    videos = open_clips(clips, frames)
    prints = (video.digest() for video in videos)
    made_from = " ".join([flow, STORE.digest(), str(chosen.mined), *prints])
    with resumable(checkpoint, mined):
        if resume and mined.exists():
            patches = load_patches(mined, made_from)
        else:
            patches = follow_patches(videos, chosen, flow, device, every=3)
            save_patches(mined, patches, made_from)
        messages.print(f"{len(patches)} patches of {patches.tracks} tracks")
        network = train_video(
            chosen,
            patches,
            checkpoint,
            start=read_backbone(start) if start else None,
            resume=resume,
            device=str(choose_device(device)),
            precision=precision,
            workers=workers,
            on_step=reporter(),
        )
    if is_first_process():
        save_weights(out, network)
        messages.print(f"weights in {out}")
