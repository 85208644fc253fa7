"""``flowmatch train registration``: a descriptor of scans, from virtual rooms and posed frames."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._options import (
    DeviceName,
    Resume,
    TrainingPrecision,
)
from flowmatch.cli._run import new_run, save_result
from flowmatch.registration.store import load, save_weights
from flowmatch.registration.training.recipes import RECIPES as FRAGMENT_RECIPES
from flowmatch.registration.training.train import train_descriptor


def command(
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(FRAGMENT_RECIPES)}.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the weights.")],
    rgbd: Annotated[
        Path | None,
        typer.Option(help="Real frames too: depth/, poses.txt, intrinsics.txt.", metavar="DIR"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Another number of steps than the recipe's.")
    ] = None,
    start: Annotated[Path | None, typer.Option(help="Weights to begin with, .safetensors.")] = None,
    resume: Resume = False,
    device: DeviceName = None,
    precision: TrainingPrecision = "bfloat16",
    workers: Annotated[int, typer.Option(min=0, help="Processes that make scans.")] = 1,
) -> None:
    """Train a descriptor of scans on virtual rooms and posed frames; stop it any time, --resume."""
    if recipe not in FRAGMENT_RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(FRAGMENT_RECIPES)}, got {recipe!r}")
    chosen = FRAGMENT_RECIPES[recipe]
    if steps is not None:
        chosen = replace(chosen, schedule=replace(chosen.schedule, steps=steps))
    with new_run(out, recipe, resume, device, precision, workers, every=10) as (
        checkpoint,
        options,
    ):
        network = train_descriptor(
            chosen,
            checkpoint,
            rgbd=rgbd,
            start=load(weights=start).state_dict() if start else None,
            **options,
        )
    save_result(
        save_weights, out / f"{recipe}.safetensors", network, chosen.model, chosen.arguments
    )
