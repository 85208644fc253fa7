"""``flowmatch train track``: weights of networks that track boxes."""

from typing import Annotated

from flowmatch.cli._options import (
    CutoutsFolder,
    DeviceName,
    OutputFolder,
    PhotosFolder,
    Resume,
    StartWeights,
    TrainingPrecision,
    Workers,
)
from flowmatch.cli._run import find_recipe, new_run, recipe_option, save_result
from flowmatch.flow.synthetic import Sources
from flowmatch.tracking.store import load, save_weights
from flowmatch.tracking.training.recipes import RECIPES
from flowmatch.tracking.training.train import train_tracker

EXAMPLES = (
    "flowmatch train track --recipe box-small -o runs --photos photos --cutouts cutouts",
    "flowmatch train track --recipe box-small -o runs --photos photos --start tracker.safetensors",
)


def command(
    recipe: Annotated[str, recipe_option(RECIPES)],
    output: OutputFolder,
    photos: PhotosFolder = None,
    cutouts: CutoutsFolder = None,
    start: StartWeights = None,
    resume: Resume = False,
    workers: Workers = 1,
    device: DeviceName = None,
    precision: TrainingPrecision = "bfloat16",
) -> None:
    """Train a network that tracks boxes.

    The data are rendered: cut-outs and patches that move over photographs. Training may be stopped
    at any time; --resume continues.
    """
    chosen, sources = find_recipe(RECIPES, recipe), Sources.from_folders(photos, cutouts)
    with new_run(output, recipe, resume, device, precision, workers) as (checkpoint, options):
        network = train_tracker(
            chosen,
            sources,
            checkpoint,
            start=load(chosen.model, weights=start).state_dict() if start else None,
            **options,
        )
    weights = output / f"{recipe}.safetensors"
    save_result(save_weights, weights, network, chosen.model, chosen.arguments)
