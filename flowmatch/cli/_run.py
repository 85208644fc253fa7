"""Training runs: their folder, their progress, and what Ctrl-C leaves."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from torch import nn

from flowmatch._opencv import cv2
from flowmatch.cli._messages import messages
from flowmatch.devices import choose_device
from flowmatch.training import RunOptions, StepReport, is_first_process


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


def save_result(
    save: Callable[..., None], file: Path, network: nn.Module, name: str, arguments: dict[str, Any]
) -> None:
    """Write what was learnt, once, and say where it is."""
    if is_first_process():
        save(file, network, name, arguments)
        messages.print(f"weights in {file}")


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
            messages.print(
                f"step {progress.step}/{progress.steps}  {means}  "
                f"{progress.seconds_per_step:.3f} s/step  {progress.seconds_left / 60:.0f} min left"
            )

    return report


@contextmanager
def resumable(*kept: Path) -> Iterator[None]:
    """Say at Ctrl-C from which file the run goes on, if any is there; leave with its status."""
    try:
        yield
    except KeyboardInterrupt:
        found = next((file for file in kept if file.exists()), None)
        how = f"--resume goes on from {found}" if found else "nothing was done that could go on"
        messages.print(f"stopped; {how}")
        raise typer.Exit(130) from None
