"""``flowmatch train matching``: weights of networks that describe or compare patches."""

import re
from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._options import (
    DATA,
    DeviceName,
    OutputFolder,
    PhotosFolder,
    Resume,
    StartWeights,
    TrainingPrecision,
    Workers,
)
from flowmatch.cli._run import find_recipe, new_run, recipe_option, save_result
from flowmatch.matching.store import load, save_weights
from flowmatch.matching.synthetic.pairs import find_photos
from flowmatch.matching.training.recipes import RECIPES
from flowmatch.matching.training.train import train_patches

EXAMPLES = (
    "flowmatch train matching --recipe hardnet-half -o runs --photos photos",
    "flowmatch train matching --recipe siam -o runs --data brown:liberty --data brown:yosemite",
)


def command(
    recipe: Annotated[str, recipe_option(RECIPES)],
    output: OutputFolder,
    start: StartWeights = None,
    resume: Resume = False,
    photos: PhotosFolder = None,
    rgbd: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Frames of an RGB-D camera (color/, depth/, poses.txt) to mix in.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:FOLDER",
            help="Set of Brown's patches, brown:FOLDER; may be given several times.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    workers: Workers = 1,
    device: DeviceName = None,
    precision: TrainingPrecision = "bfloat16",
) -> None:
    """Train a network that describes or compares patches.

    The data are photographs and random views of them. Training may be stopped at any time;
    --resume continues.
    """
    chosen = find_recipe(RECIPES, recipe)
    with new_run(output, recipe, resume, device, precision, workers) as (checkpoint, options):
        network = train_patches(
            chosen,
            find_photos(photos),
            checkpoint,
            rgbd=rgbd,
            brown=_brown_sets(data or []),
            start=load(weights=start).state_dict() if start else None,
            **options,
        )
    weights = output / f"{recipe}.safetensors"
    save_result(save_weights, weights, network, chosen.model, chosen.arguments)


def _brown_sets(data: list[str]) -> list[Path]:
    """Return the folders of options brown:FOLDER."""
    wrong = [entry for entry in data if not re.fullmatch("brown:.+", entry)]
    if wrong:
        raise ValueError(f"--data must be brown:FOLDER for patches, got {wrong[0]!r}")
    return [Path(entry.removeprefix("brown:")) for entry in data]
