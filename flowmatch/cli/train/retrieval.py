"""``flowmatch train retrieval``: weights that describe whole pictures, without labels."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._messages import StageBars, messages, progress_bar
from flowmatch.cli._options import DeviceName, OutputFolder, Resume, TrainingPrecision, Workers
from flowmatch.cli._run import check_new, find_recipe, recipe_option, resumable
from flowmatch.retrieval.training.folder import TrainingSet, train_from_folder
from flowmatch.retrieval.training.recipes import RECIPES
from flowmatch.retrieval.training.train import round_checkpoint
from flowmatch.training import StepReport

EXAMPLES = (
    "flowmatch train retrieval photos -o runs",
    "flowmatch train retrieval photos -o runs --resume",
)


def command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of pictures, some of which show the same things.",
            show_default=False,
        ),
    ],
    output: OutputFolder,
    recipe: Annotated[str, recipe_option(RECIPES)] = "retrieval-small",
    resume: Resume = False,
    workers: Workers = 1,
    device: DeviceName = None,
    precision: TrainingPrecision = "bfloat16",
) -> None:
    """Train a descriptor of whole pictures, without labels.

    Pictures of the same thing are found by matching their keypoints. The network starts from the
    backbone of flowmatch align. Training may be stopped at any time; --resume continues.
    """
    rounds = find_recipe(RECIPES, recipe).rounds
    first = round_checkpoint(output / f"{recipe}.pt", 0)
    check_new(output, first, resume)
    with progress_bar() as bar, resumable(first):
        train_from_folder(
            folder,
            output,
            recipe=recipe,
            resume=resume,
            device=device,
            precision=precision,
            workers=workers,
            progress=StageBars(bar),
            on_pairs=_print_pairs,
            on_step=partial(_print_step, rounds),
        )
    messages.print(f"weights in {output / f'{recipe}.safetensors'}")


def _print_pairs(data: TrainingSet) -> None:
    for entry, reason in data.failures:
        messages.print(f"failed: {entry.name}: {reason}")
    messages.print(
        f"{len(data.pairs)} verified pairs among {len(data.images)} pictures of "
        f"{data.objects} things"
    )


def _print_step(rounds: int, number: int, report: StepReport) -> None:
    if report.step % 20 == 0 or report.step == report.steps:
        messages.print(
            f"round {number + 1}/{rounds}  step {report.step}/{report.steps}"
            f"  loss {report.metrics['loss']:.4f}  first {report.metrics['first']:.2f}"
        )
