"""``flowmatch train retrieval``: a descriptor of whole pictures, from a folder without labels."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._messages import StageBars, messages, progress_bar
from flowmatch.cli._options import (
    DeviceName,
    TrainingPrecision,
)
from flowmatch.cli._run import (
    resumable,
)
from flowmatch.retrieval.training.folder import TrainingSet, train_from_folder
from flowmatch.retrieval.training.recipes import RECIPES
from flowmatch.retrieval.training.train import round_checkpoint
from flowmatch.training import StepReport


def command(
    folder: Annotated[Path, typer.Argument(help="Of pictures, some of them of the same things.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoints and the weights.")],
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.")] = "retrieval-small",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoints in OUT.")
    ] = False,
    device: DeviceName = None,
    precision: TrainingPrecision = "bfloat16",
    workers: Annotated[int, typer.Option(min=0, help="Processes that make samples.")] = 1,
) -> None:
    """Find pictures of the same thing by matching their points, and learn to describe them alike.

    Nothing has to be labelled. The network begins with the trunk that flowmatch align uses.
    """
    if recipe not in RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    first = round_checkpoint(out / f"{recipe}.pt", 0)
    if first.exists() and not resume:
        raise ValueError(f"{out} holds a run of {recipe} already: --resume, or another --out")
    with progress_bar() as bar, resumable(first):
        train_from_folder(
            folder,
            out,
            recipe=recipe,
            resume=resume,
            device=device,
            precision=precision,
            workers=workers,
            progress=StageBars(bar),
            on_pairs=_print_pairs,
            on_step=partial(_print_step, RECIPES[recipe].rounds),
        )
    messages.print(f"weights in {out / f'{recipe}.safetensors'}")


def _print_pairs(found: TrainingSet) -> None:
    for entry, reason in found.failures:
        messages.print(f"failed: {entry.name}: {reason}")
    messages.print(
        f"{len(found.pairs)} verified pairs among {len(found.images)} pictures of "
        f"{found.objects} things"
    )


def _print_step(rounds: int, number: int, report: StepReport) -> None:
    if report.step % 20 == 0 or report.step == report.steps:
        messages.print(
            f"round {number + 1}/{rounds}  step {report.step}/{report.steps}"
            f"  loss {report.metrics['loss']:.4f}  first {report.metrics['first']:.2f}"
        )
