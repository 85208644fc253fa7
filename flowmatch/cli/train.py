"""``flowmatch train``: weights from photographs, cut-outs and procedure."""

from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from flowmatch._opencv import cv2
from flowmatch.cli.options import (
    CutoutsFolder,
    DeviceName,
    PhotosFolder,
    console,
)
from flowmatch.devices import choose_device
from flowmatch.flow.checkpoints import load, save_weights
from flowmatch.flow.recipes import RECIPES
from flowmatch.flow.synthetic import Sources
from flowmatch.flow.train import train_flow
from flowmatch.fragments.checkpoints import save_weights as save_descriptor
from flowmatch.fragments.recipes import RECIPES as FRAGMENT_RECIPES
from flowmatch.fragments.train import train_fragments
from flowmatch.training import Progress, is_first_process

train_app = typer.Typer(no_args_is_help=True, help="Train a network.")


@train_app.command("flow")
def train_flow_command(
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the weights.")],
    photos: PhotosFolder = None,
    cutouts: CutoutsFolder = None,
    start: Annotated[Path | None, typer.Option(help="Weights to begin with, .safetensors.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="A real dataset, NAME:FOLDER, such as chairs:DIR; as often as you like."),
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="What a recipe without truth learns from.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in OUT.")
    ] = False,
    device: DeviceName = None,
    precision: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    workers: Annotated[int, typer.Option(min=0, help="Processes that render pairs.")] = 1,
) -> None:
    """Train a flow network on synthetic pairs, datasets or a video; stop it any time, --resume.

    torchrun or accelerate launch start it on several devices and machines:
    torchrun --nproc-per-node 4 -m flowmatch train flow ...
    """
    if recipe not in RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    chosen = RECIPES[recipe]
    checkpoint = out / f"{recipe}.pt"
    if checkpoint.exists() and not resume and is_first_process():
        raise ValueError(f"{checkpoint} is there already: --resume, or another --out")
    cv2.setNumThreads(1)  # the renderers are processes of their own; threads would fight
    recent: deque[float] = deque(maxlen=100)

    def report(progress: Progress) -> None:
        name = "epe" if "epe" in progress.metrics else "loss"
        recent.append(progress.metrics[name])
        if progress.step % 100 == 0 or progress.step == progress.steps:
            console.print(
                f"step {progress.step}/{progress.steps}  {name} {sum(recent) / len(recent):.3f}  "
                f"loss {progress.metrics['loss']:.3f}  {progress.seconds_per_step:.3f} s/step  "
                f"{progress.seconds_left / 60:.0f} min left"
            )

    try:
        model = train_flow(
            chosen,
            Sources.from_folders(photos, cutouts),
            checkpoint,
            data=_folders(data or []),
            video=video,
            start=load(chosen.model, weights=start).state_dict() if start else None,
            resume=resume,
            device=str(choose_device(device)),
            precision=precision,
            workers=workers,
            logs=out / "logs" / recipe,
            report=report,
        )
    except KeyboardInterrupt:
        console.print(f"stopped; --resume goes on from {checkpoint}")
        raise typer.Exit(130) from None
    if not is_first_process():
        return
    weights = out / f"{recipe}.safetensors"
    save_weights(weights, model, chosen.model, chosen.arguments)
    console.print(f"weights in {weights}")


@train_app.command("fragments")
def train_fragments_command(
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(FRAGMENT_RECIPES)}.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the weights.")],
    rgbd: Annotated[
        Path | None,
        typer.Option(help="Real frames too: depth/, poses.txt, intrinsics.txt.", metavar="DIR"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Another number of steps than the recipe's.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in OUT.")
    ] = False,
    device: DeviceName = None,
    precision: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    workers: Annotated[int, typer.Option(min=0, help="Processes that make scans.")] = 1,
) -> None:
    """Train a descriptor of scans on virtual rooms and posed frames; stop it any time, --resume."""
    if recipe not in FRAGMENT_RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(FRAGMENT_RECIPES)}, got {recipe!r}")
    chosen = FRAGMENT_RECIPES[recipe]
    if steps is not None:
        chosen = replace(chosen, schedule=replace(chosen.schedule, steps=steps))
    checkpoint = out / f"{recipe}.pt"
    if checkpoint.exists() and not resume and is_first_process():
        raise ValueError(f"{checkpoint} is there already: --resume, or another --out")
    recent: deque[float] = deque(maxlen=50)

    def report(progress: Progress) -> None:
        recent.append(progress.metrics["first"])
        if progress.step % 10 == 0 or progress.step == progress.steps:
            console.print(
                f"step {progress.step}/{progress.steps}  nearest right "
                f"{sum(recent) / len(recent):.3f}  loss {progress.metrics['loss']:.3f}  "
                f"{progress.seconds_per_step:.3f} s/step  {progress.seconds_left / 60:.0f} min left"
            )

    try:
        network = train_fragments(
            chosen,
            checkpoint,
            rgbd=rgbd,
            resume=resume,
            device=str(choose_device(device)),
            precision=precision,
            workers=workers,
            logs=out / "logs" / recipe,
            report=report,
        )
    except KeyboardInterrupt:
        console.print(f"stopped; --resume goes on from {checkpoint}")
        raise typer.Exit(130) from None
    if is_first_process():
        weights = out / f"{recipe}.safetensors"
        save_descriptor(weights, network, chosen.model, chosen.arguments)
        console.print(f"weights in {weights}")


def _folders(data: list[str]) -> dict[str, Path]:
    """Read NAME:FOLDER options."""
    folders: dict[str, Path] = {}
    for entry in data:
        name, colon, folder = entry.partition(":")
        if not name or not colon or not folder or name in folders:
            raise ValueError(f"--data must be NAME:FOLDER, each name once, got {entry!r}")
        folders[name] = Path(folder)
    return folders
