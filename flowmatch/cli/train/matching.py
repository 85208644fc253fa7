"""``flowmatch train matching``: weights of patch descriptors, from views of photographs."""

import re
from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._options import DeviceName, PhotosFolder, Resume, TrainingPrecision
from flowmatch.cli._run import new_run, save_result
from flowmatch.matching.store import load, save_weights
from flowmatch.matching.synthetic.pairs import photos_in
from flowmatch.matching.training.recipes import RECIPES
from flowmatch.matching.training.train import train_patches


def command(
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the weights.")],
    photos: PhotosFolder = None,
    rgbd: Annotated[
        Path | None,
        typer.Option(help="Frames of an RGB-D camera (color/, depth/, poses.txt) to mix in."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="brown:FOLDER, a set of Brown's patches; as often as you like."),
    ] = None,
    start: Annotated[Path | None, typer.Option(help="Weights to begin with, .safetensors.")] = None,
    resume: Resume = False,
    device: DeviceName = None,
    precision: TrainingPrecision = "bfloat16",
    workers: Annotated[int, typer.Option(min=0, help="Processes that render views.")] = 1,
) -> None:
    """Train a patch network on photographs and random views of them; stop any time, --resume."""
    if recipe not in RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    chosen = RECIPES[recipe]
    with new_run(out, recipe, resume, device, precision, workers) as (checkpoint, options):
        model = train_patches(
            chosen,
            photos_in(photos),
            checkpoint,
            rgbd=rgbd,
            brown=_brown_sets(data or []),
            start=load(weights=start).state_dict() if start else None,
            **options,
        )
    save_result(save_weights, out / f"{recipe}.safetensors", model, chosen.model, chosen.arguments)


def _brown_sets(data: list[str]) -> list[Path]:
    """Read brown:FOLDER options."""
    wrong = [entry for entry in data if not re.fullmatch("brown:.+", entry)]
    if wrong:
        raise ValueError(f"--data must be brown:FOLDER for patches, got {wrong[0]!r}")
    return [Path(entry.removeprefix("brown:")) for entry in data]
