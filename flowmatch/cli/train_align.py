"""``flowmatch train align``: weights from photographs."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.align.checkpoints import load, save_weights
from flowmatch.align.recipes import RECIPES
from flowmatch.align.train import train_align
from flowmatch.cli.options import DeviceName, Resume, TrainingPrecision, console, resumable
from flowmatch.cli.train import new_checkpoint, reporter
from flowmatch.devices import choose_device
from flowmatch.io import list_images
from flowmatch.training import is_first_process


def train_align_command(
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
    checkpoint = new_checkpoint(out, recipe, resume)
    with resumable(checkpoint):
        model = train_align(
            chosen,
            pictures,
            checkpoint,
            start=load(chosen.model, weights=start).state_dict() if start else None,
            resume=resume,
            device=str(choose_device(device)),
            precision=precision,
            workers=workers,
            logs=out / "logs" / recipe,
            report=reporter(),
        )
    if not is_first_process():
        return
    weights = out / f"{recipe}.safetensors"
    save_weights(weights, model, chosen.model, chosen.arguments)
    console.print(f"weights in {weights}")
