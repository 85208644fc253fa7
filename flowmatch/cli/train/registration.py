"""``flowmatch train registration``: weights of descriptors of scans."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._options import (
    DATA,
    TRAINING,
    DeviceName,
    OutputFolder,
    Resume,
    StartWeights,
    TrainingPrecision,
    Workers,
)
from flowmatch.cli._run import find_recipe, new_run, recipe_option, save_result
from flowmatch.registration.store import load, save_weights
from flowmatch.registration.training.recipes import RECIPES
from flowmatch.registration.training.train import train_descriptor

EXAMPLES = (
    "flowmatch train registration --recipe spin -o runs",
    "flowmatch train registration --recipe spin -o runs --rgbd recording --steps 500",
)


def command(
    recipe: Annotated[str, recipe_option(RECIPES)],
    output: OutputFolder,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of steps.",
            show_default="as in the recipe",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    start: StartWeights = None,
    resume: Resume = False,
    rgbd: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Frames of an RGB-D camera (depth/, poses.txt, intrinsics.txt) to mix in.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    workers: Workers = 1,
    device: DeviceName = None,
    precision: TrainingPrecision = "bfloat16",
) -> None:
    """Train a descriptor of scans.

    The data are virtual rooms and, with --rgbd, depth frames with poses. Training may be stopped
    at any time; --resume continues.
    """
    chosen = find_recipe(RECIPES, recipe)
    if steps is not None:
        chosen = replace(chosen, schedule=replace(chosen.schedule, steps=steps))
    run = new_run(output, recipe, resume, device, precision, workers, every=10)
    with run as (checkpoint, options):
        network = train_descriptor(
            chosen,
            checkpoint,
            rgbd=rgbd,
            start=load(weights=start).state_dict() if start else None,
            **options,
        )
    weights = output / f"{recipe}.safetensors"
    save_result(save_weights, weights, network, chosen.model, chosen.arguments)
