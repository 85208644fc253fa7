"""``flowmatch train align``: weights from photographs."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.align.recipes import RECIPES
from flowmatch.align.store import load, save_weights
from flowmatch.align.train import train_align
from flowmatch.cli._options import (
    DeviceName,
    Resume,
    TrainingPrecision,
)
from flowmatch.cli._run import new_run, save_result
from flowmatch.io import list_images


def command(
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.")],
    photos: Annotated[Path, typer.Option(help="Folder of photographs.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the weights.")],
    start: Annotated[Path | None, typer.Option(help="Weights to begin with, .safetensors.")] = None,
    resume: Resume = False,
    device: DeviceName = None,
    precision: TrainingPrecision = "bfloat16",
    workers: Annotated[int, typer.Option(min=0, help="Processes that make pairs.")] = 1,
) -> None:
    """Train an alignment network on warped photographs; stop it any time, --resume."""
    if recipe not in RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    chosen, pictures = RECIPES[recipe], list_images(photos)
    with new_run(out, recipe, resume, device, precision, workers) as (checkpoint, options):
        model = train_align(
            chosen,
            pictures,
            checkpoint,
            start=load(chosen.model, weights=start).state_dict() if start else None,
            **options,
        )
    save_result(save_weights, out / f"{recipe}.safetensors", model, chosen.model, chosen.arguments)
