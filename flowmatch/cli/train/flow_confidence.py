"""``flowmatch train flow-confidence``: weights of the network that judges flows."""

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
from flowmatch.flow.store import load, save_weights
from flowmatch.flow.synthetic.sources import Sources
from flowmatch.flow.training.confidence import RECIPES, train_confidence

EXAMPLES = (
    "flowmatch train flow-confidence --recipe confidence -o runs --photos photos",
    "flowmatch train flow-confidence --recipe confidence -o runs --photos photos --resume",
)


def command(
    recipe: Annotated[str, recipe_option(RECIPES)],
    output: OutputFolder,
    start: StartWeights = None,
    resume: Resume = False,
    photos: PhotosFolder = None,
    cutouts: CutoutsFolder = None,
    workers: Workers = 1,
    device: DeviceName = None,
    precision: TrainingPrecision = "bfloat16",
) -> None:
    """Train the network that judges flows.

    The data are flows of the shipped networks and of DIS for synthetic pairs, and their errors.
    Training may be stopped at any time; --resume continues.
    """
    chosen = find_recipe(RECIPES, recipe)
    with new_run(output, recipe, resume, device, precision, workers) as (checkpoint, options):
        network = train_confidence(
            chosen,
            Sources.from_folders(photos, cutouts),
            checkpoint,
            start=load("confidence", weights=start).state_dict() if start else None,
            **options,
        )
    save_result(save_weights, output / f"{recipe}.safetensors", network, "confidence", {})
