"""Training runs: recipes, checkpoints, progress, and messages after Ctrl-C."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import typer
from torch import nn

from flowmatch.cli._messages import messages
from flowmatch.cli._options import TRAINING, check_output_folder
from flowmatch.devices import choose_device
from flowmatch.training import RunOptions, StepReport, is_first_process

T = TypeVar("T")


def recipe_option(recipes: Collection[str]) -> Any:
    """Return the option ``--recipe`` of a command."""
    return typer.Option(
        "--recipe",
        help=f"Training recipe: {', '.join(recipes)}.",
        show_default=False,
        rich_help_panel=TRAINING,
    )


def find_recipe(recipes: Mapping[str, T], name: str) -> T:
    """Return the recipe of a name.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in recipes:
        raise ValueError(f"--recipe must be one of {', '.join(recipes)}, got {name!r}")
    return recipes[name]


def check_new(folder: Path, checkpoint: Path, resume: bool) -> None:
    """Raise ValueError if the output is not a folder, or a run in it would be overwritten."""
    check_output_folder(folder, (".safetensors", ".pt"))
    if checkpoint.exists() and not resume and is_first_process():
        raise ValueError(f"{checkpoint} exists already: --resume, or another --output")


@contextmanager
def new_run(
    folder: Path,
    recipe: str,
    resume: bool,
    device: str | None,
    precision: str,
    workers: int,
    every: int = 100,
) -> Iterator[tuple[Path, RunOptions]]:
    """Yield the checkpoint and the options of a training run; report after Ctrl-C how to resume.

    Args:
        folder: Folder of all files of the run.
        recipe: Name of the recipe.
        resume: Whether to continue from the checkpoint.
        device: Name of a device, see `choose_device`.
        precision: Precision of convolutions, see `flowmatch.training.train`.
        workers: Number of processes that make samples.
        every: Number of steps between lines of progress.
    """
    checkpoint = folder / f"{recipe}.pt"
    check_new(folder, checkpoint, resume)
    with resumable(checkpoint):
        yield (
            checkpoint,
            RunOptions(
                resume=resume,
                workers=workers,
                device=str(choose_device(device)),
                precision=precision,
                logs=folder / "logs" / recipe,
                on_step=reporter(every),
            ),
        )


def save_result(
    save: Callable[..., None], file: Path, network: nn.Module, name: str, arguments: dict[str, Any]
) -> None:
    """Write the trained weights, in the first process only, and print their file."""
    if is_first_process():
        save(file, network, name, arguments)
        messages.print(f"weights in {file}")


def reporter(every: int = 100) -> Callable[[StepReport], None]:
    """Return a callback that prints a line every so many steps, with means over these steps."""
    recent: deque[dict[str, float]] = deque(maxlen=every)

    def report(progress: StepReport) -> None:
        recent.append(progress.metrics)
        if progress.step % every == 0 or progress.step == progress.steps:
            means = "  ".join(
                f"{name} {sum(metrics[name] for metrics in recent) / len(recent):.3f}"
                for name in progress.metrics
            )
            messages.print(
                f"step {progress.step}/{progress.steps}  {means}  "
                f"{progress.seconds_per_step:.3f} s/step  {progress.seconds_left / 60:.0f} min left"
            )

    return report


@contextmanager
def resumable(*files: Path) -> Iterator[None]:
    """Report at Ctrl-C from which of the files a run can be resumed; end with status 130."""
    try:
        yield
    except KeyboardInterrupt:
        file = next((file for file in files if file.exists()), None)
        hint = f"--resume continues from {file}" if file else "no checkpoint was written yet"
        messages.print(f"stopped; {hint}")
        raise typer.Exit(130) from None
