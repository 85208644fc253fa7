"""``flowmatch train flow``: weights of flow networks."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._options import (
    DATA,
    CutoutsFolder,
    DeviceName,
    OutputFolder,
    PhotosFolder,
    Render,
    Resume,
    StartWeights,
    TrainingPrecision,
    Workers,
)
from flowmatch.cli._run import find_recipe, new_run, recipe_option, save_result
from flowmatch.flow.store import save_weights
from flowmatch.flow.synthetic.sources import Sources
from flowmatch.flow.training.recipes import RECIPES
from flowmatch.flow.training.train import train_flow
from flowmatch.tensor_files import read_safetensors

EXAMPLES = (
    "flowmatch train flow --recipe pyramid-small -o runs --photos photos",
    "flowmatch train flow --recipe pyramid-small -o runs --photos photos --resume",
)


def command(
    recipe: Annotated[str, recipe_option(RECIPES)],
    output: OutputFolder,
    start: StartWeights = None,
    resume: Resume = False,
    photos: PhotosFolder = None,
    cutouts: CutoutsFolder = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:FOLDER",
            help="Real dataset, such as chairs:FOLDER; may be given several times.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    clip: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Video for recipes that learn without ground truth.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    render: Render = "workers",
    workers: Workers = 1,
    device: DeviceName = None,
    precision: TrainingPrecision = "bfloat16",
) -> None:
    """Train a flow network.

    The data are synthetic pairs, datasets or a video, as the recipe demands. Training may be
    stopped at any time; --resume continues. For several devices or machines, start it by torchrun
    or accelerate launch: torchrun --nproc-per-node 4 -m flowmatch train flow ...
    """
    chosen = find_recipe(RECIPES, recipe)
    with new_run(output, recipe, resume, device, precision, workers) as (checkpoint, options):
        network = train_flow(
            chosen,
            Sources.from_folders(photos, cutouts),
            checkpoint,
            data=_folders(data or []),
            video=clip,
            start=read_safetensors(start)[0] if start else None,
            render=render,
            **options,
        )
    weights = output / f"{recipe}.safetensors"
    save_result(save_weights, weights, network, chosen.model, chosen.arguments)


def _folders(data: list[str]) -> dict[str, Path]:
    """Return the folders of options NAME:FOLDER by name."""
    folders: dict[str, Path] = {}
    for entry in data:
        name, colon, folder = entry.partition(":")
        if not name or not colon or not folder or name in folders:
            raise ValueError(f"--data must be NAME:FOLDER, each name once, got {entry!r}")
        folders[name] = Path(folder)
    return folders
