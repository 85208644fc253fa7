"""``flowmatch train flow``: weights of flow, from photographs and procedural textures."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._options import (
    CutoutsFolder,
    DeviceName,
    PhotosFolder,
    Render,
    Resume,
    TrainingPrecision,
)
from flowmatch.cli._run import new_run, save_result
from flowmatch.flow.store import load, save_weights
from flowmatch.flow.synthetic.sources import Sources
from flowmatch.flow.training.recipes import RECIPES
from flowmatch.flow.training.train import train_flow


def command(
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
    resume: Resume = False,
    device: DeviceName = None,
    precision: TrainingPrecision = "bfloat16",
    workers: Annotated[int, typer.Option(min=0, help="Processes that render pairs.")] = 1,
    render: Render = "workers",
) -> None:
    """Train a flow network on synthetic pairs, datasets or a video; stop it any time, --resume.

    torchrun or accelerate launch start it on several devices and machines:
    torchrun --nproc-per-node 4 -m flowmatch train flow ...
    """
    if recipe not in RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    chosen = RECIPES[recipe]
    with new_run(out, recipe, resume, device, precision, workers) as (checkpoint, options):
        model = train_flow(
            chosen,
            Sources.from_folders(photos, cutouts),
            checkpoint,
            data=_folders(data or []),
            video=video,
            start=load(chosen.model, weights=start).state_dict() if start else None,
            render=render,
            **options,
        )
    save_result(save_weights, out / f"{recipe}.safetensors", model, chosen.model, chosen.arguments)


def _folders(data: list[str]) -> dict[str, Path]:
    """Read NAME:FOLDER options."""
    folders: dict[str, Path] = {}
    for entry in data:
        name, colon, folder = entry.partition(":")
        if not name or not colon or not folder or name in folders:
            raise ValueError(f"--data must be NAME:FOLDER, each name once, got {entry!r}")
        folders[name] = Path(folder)
    return folders
