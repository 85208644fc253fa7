"""``flowmatch train align``: weights of alignment networks."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.align.recipes import RECIPES
from flowmatch.align.store import load, save_weights
from flowmatch.align.train import train_align
from flowmatch.cli._options import (
    DATA,
    DeviceName,
    OutputFolder,
    Resume,
    StartWeights,
    TrainingPrecision,
    Workers,
)
from flowmatch.cli._run import find_recipe, new_run, recipe_option, save_result
from flowmatch.io import list_images

EXAMPLES = (
    "flowmatch train align --recipe align-fit -o runs --photos photos",
    "flowmatch train align --recipe align-fit -o runs --photos photos --start align.safetensors",
)


def command(
    recipe: Annotated[str, recipe_option(RECIPES)],
    output: OutputFolder,
    photos: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Folder of photographs.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ],
    start: StartWeights = None,
    resume: Resume = False,
    workers: Workers = 1,
    device: DeviceName = None,
    precision: TrainingPrecision = "bfloat16",
) -> None:
    """Train an alignment network.

    The data are warped photographs. Training may be stopped at any time; --resume continues.
    """
    chosen, pictures = find_recipe(RECIPES, recipe), list_images(photos)
    with new_run(output, recipe, resume, device, precision, workers) as (checkpoint, options):
        network = train_align(
            chosen,
            pictures,
            checkpoint,
            start=load(chosen.model, weights=start).state_dict() if start else None,
            **options,
        )
    weights = output / f"{recipe}.safetensors"
    save_result(save_weights, weights, network, chosen.model, chosen.arguments)
