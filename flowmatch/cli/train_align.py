"""``flowmatch train align``: weights from photographs."""

from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from flowmatch._opencv import cv2
from flowmatch.align.checkpoints import load, save_weights
from flowmatch.align.recipes import RECIPES
from flowmatch.align.synthetic import find_photos
from flowmatch.align.train import train_align
from flowmatch.cli.options import DeviceName, console
from flowmatch.devices import choose_device
from flowmatch.training import Progress, is_first_process


def train_align_command(
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.")],
    photos: Annotated[Path, typer.Option(help="Folder of photographs.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the weights.")],
    start: Annotated[Path | None, typer.Option(help="Weights to begin with, .safetensors.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in OUT.")
    ] = False,
    device: DeviceName = None,
    precision: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    workers: Annotated[int, typer.Option(min=0, help="Processes that make pairs.")] = 1,
) -> None:
    """Train an alignment network on warped photographs; stop it any time, --resume."""
    if recipe not in RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    chosen, pictures = RECIPES[recipe], find_photos(photos)
    checkpoint = out / f"{recipe}.pt"
    if checkpoint.exists() and not resume and is_first_process():
        raise ValueError(f"{checkpoint} is there already: --resume, or another --out")
    cv2.setNumThreads(1)  # pairs are made by processes of their own; threads would fight
    recent: deque[float] = deque(maxlen=100)

    def report(progress: Progress) -> None:
        name = "distance" if "distance" in progress.metrics else "matched"
        recent.append(progress.metrics[name])
        if progress.step % 100 == 0 or progress.step == progress.steps:
            console.print(
                f"step {progress.step}/{progress.steps}  {name} {sum(recent) / len(recent):.4f}  "
                f"loss {progress.metrics['loss']:.4f}  {progress.seconds_per_step:.3f} s/step  "
                f"{progress.seconds_left / 60:.0f} min left"
            )

    try:
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
            report=report,
        )
    except KeyboardInterrupt:
        console.print(f"stopped; --resume goes on from {checkpoint}")
        raise typer.Exit(130) from None
    if not is_first_process():
        return
    weights = out / f"{recipe}.safetensors"
    save_weights(weights, model, chosen.model, chosen.arguments)
    console.print(f"weights in {weights}")
