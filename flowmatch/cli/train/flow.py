"""``flowmatch train``: weights of flow and of patches, from photographs and procedure."""

import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from flowmatch import matching as patches
from flowmatch._opencv import cv2
from flowmatch.cli.options import (
    CutoutsFolder,
    DeviceName,
    PhotosFolder,
    Render,
    Resume,
    TrainingPrecision,
    console,
    resumable,
)
from flowmatch.devices import choose_device
from flowmatch.flow.store import load, save_weights
from flowmatch.flow.synthetic.sources import Sources
from flowmatch.flow.training.recipes import RECIPES
from flowmatch.flow.training.train import train_flow
from flowmatch.matching.synthetic.pairs import photos_in
from flowmatch.matching.training.recipes import RECIPES as PATCH_RECIPES
from flowmatch.matching.training.train import train_patches
from flowmatch.training import StepReport, RunOptions, is_first_process

train_app = typer.Typer(no_args_is_help=True, help="Train a network.")


@train_app.command("flow")
def train_flow_command(
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the weights.")],
    photos: PhotosFolder = None,
    cutouts: CutoutsFolder = None,
    start: Annotated[Path | None, typer.Option(help="Weights to begin with, .safetensors.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="A real dataset, NAME:FOLDER, such as chairs:DIR; as often as you like."),
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="What a recipe without truth learns from.")
    ] = None,
    resume: Resume = False,
    device: DeviceName = None,
    precision: TrainingPrecision = "bfloat16",
    workers: Annotated[int, typer.Option(min=0, help="Processes that render pairs.")] = 1,
    render: Render = "workers",
) -> None:
    """Train a flow network on synthetic pairs, datasets or a video; stop it any time, --resume.

    torchrun or accelerate launch start it on several devices and machines:
    torchrun --nproc-per-node 4 -m flowmatch train flow ...
    """
    if recipe not in RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    chosen = RECIPES[recipe]
    with new_run(out, recipe, resume, device, precision, workers) as (checkpoint, options):
        model = train_flow(
            chosen,
            Sources.from_folders(photos, cutouts),
            checkpoint,
            data=_folders(data or []),
            video=video,
            start=load(chosen.model, weights=start).state_dict() if start else None,
            render=render,
            **options,
        )
    keep(save_weights, out / f"{recipe}.safetensors", model, chosen.model, chosen.arguments)


@train_app.command("matching")
def train_patches_command(
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(PATCH_RECIPES)}.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the weights.")],
    photos: PhotosFolder = None,
    rgbd: Annotated[
        Path | None,
        typer.Option(help="Frames of an RGB-D camera (color/, depth/, poses.txt) to mix in."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="brown:FOLDER, a set of Brown's patches; as often as you like."),
    ] = None,
    start: Annotated[Path | None, typer.Option(help="Weights to begin with, .safetensors.")] = None,
    resume: Resume = False,
    device: DeviceName = None,
    precision: TrainingPrecision = "bfloat16",
    workers: Annotated[int, typer.Option(min=0, help="Processes that render views.")] = 1,
) -> None:
    """Train a patch network on photographs and random views of them; stop any time, --resume."""
    if recipe not in PATCH_RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(PATCH_RECIPES)}, got {recipe!r}")
    chosen = PATCH_RECIPES[recipe]
    with new_run(out, recipe, resume, device, precision, workers) as (checkpoint, options):
        model = train_patches(
            chosen,
            photos_in(photos),
            checkpoint,
            rgbd=rgbd,
            brown=_brown_sets(data or []),
            start=patches.load(weights=start).state_dict() if start else None,
            **options,
        )
    keep(patches.save_weights, out / f"{recipe}.safetensors", model, chosen.model, chosen.arguments)


@contextmanager
def new_run(
    out: Path,
    recipe: str,
    resume: bool,
    device: str | None,
    precision: str,
    workers: int,
    every: int = 100,
) -> Iterator[tuple[Path, RunOptions]]:
    """Give the checkpoint and the options of a run that may begin; say at Ctrl-C how it goes on.

    Args:
        out: Folder of all that the run writes.
        recipe: Its name.
        resume: Go on from the checkpoint.
        device: As `choose_device` takes it.
        precision: As in `flowmatch.training.train`.
        workers: As there.
        every: Steps between lines about its progress.
    """
    checkpoint = out / f"{recipe}.pt"
    if checkpoint.exists() and not resume and is_first_process():
        raise ValueError(f"{checkpoint} is there already: --resume, or another --out")
    cv2.setNumThreads(1)  # the renderers are processes of their own; threads would fight
    with resumable(checkpoint):
        yield (
            checkpoint,
            RunOptions(
                resume=resume,
                workers=workers,
                device=str(choose_device(device)),
                precision=precision,
                logs=out / "logs" / recipe,
                on_step=reporter(every),
            ),
        )


def keep(
    save: Callable[..., None], file: Path, network: nn.Module, name: str, arguments: dict[str, Any]
) -> None:
    """Write what was learnt, once, and say where it is."""
    if is_first_process():
        save(file, network, name, arguments)
        console.print(f"weights in {file}")


def reporter(every: int = 100) -> Callable[[StepReport], None]:
    """Return what prints a line every so many steps, with means over them."""
    recent: deque[dict[str, float]] = deque(maxlen=every)

    def report(progress: StepReport) -> None:
        recent.append(progress.metrics)
        if progress.step % every == 0 or progress.step == progress.steps:
            means = "  ".join(
                f"{name} {sum(metrics[name] for metrics in recent) / len(recent):.3f}"
                for name in progress.metrics
            )
            console.print(
                f"step {progress.step}/{progress.steps}  {means}  "
                f"{progress.seconds_per_step:.3f} s/step  {progress.seconds_left / 60:.0f} min left"
            )

    return report


def _brown_sets(data: list[str]) -> list[Path]:
    """Read brown:FOLDER options."""
    wrong = [entry for entry in data if not re.fullmatch("brown:.+", entry)]
    if wrong:
        raise ValueError(f"--data must be brown:FOLDER for patches, got {wrong[0]!r}")
    return [Path(entry.removeprefix("brown:")) for entry in data]


def _folders(data: list[str]) -> dict[str, Path]:
    """Read NAME:FOLDER options."""
    folders: dict[str, Path] = {}
    for entry in data:
        name, colon, folder = entry.partition(":")
        if not name or not colon or not folder or name in folders:
            raise ValueError(f"--data must be NAME:FOLDER, each name once, got {entry!r}")
        folders[name] = Path(folder)
    return folders
