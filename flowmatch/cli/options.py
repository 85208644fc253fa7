"""What several commands share: options with one meaning, the console, the progress bar."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

ModelName = Annotated[str, typer.Option(help="Weights that ship, by name.")]
WeightsFile = Annotated[
    Path | None, typer.Option(help="Weights of your own, .safetensors.", show_default=False)
]
DeviceName = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1; else the best there is.", show_default=False),
]
Precision = Annotated[str, typer.Option(help="Of the convolutions: float32, bfloat16 or float16.")]
Refine = Annotated[
    bool, typer.Option("--refine", help="Refine each flow: slower, better below a pixel.")
]
Zoom = Annotated[
    float, typer.Option(help="Enlarge what the network sees, at most 4: finds small, fast things.")
]
Fuse = Annotated[
    bool, typer.Option("--fuse", help="Take DIS's flow (OpenCV) where it explains a pixel better.")
]
Best = Annotated[
    bool,
    typer.Option("--best", help="The same as --zoom 2 --fuse --refine: about 10 times slower."),
]
PhotosFolder = Annotated[
    Path | None,
    typer.Option(help="Folder of photographs; else textures are procedural.", show_default=False),
]
CutoutsFolder = Annotated[
    Path | None, typer.Option(help="Folder of PNG objects with alpha.", show_default=False)
]

Render = Annotated[
    str,
    typer.Option(help="workers: OpenCV paints pairs, one by one; device: torch, whole batches."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in OUT.")]
TrainingPrecision = Annotated[str, typer.Option(help="bfloat16 or float32.")]

Magnification = Annotated[
    float | None,
    typer.Option(
        help="Half a patch's side in scales of its keypoint; else what a network was trained on.",
        show_default=False,
    ),
]

# Messages and progress go to stderr: stdout is for what was asked for.
console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def progress_bar(*more: TextColumn, transient: bool = False) -> Progress:
    """Return a bar with what is done of how much and the time left, and `more` columns."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *more,
        TimeRemainingColumn(),
        console=console,
        transient=transient,
        disable=transient and not console.is_terminal,
    )


def paper(width: int = 100) -> Console:
    """Return what prints a table on stdout, whole numbers within at least so many columns."""
    found = Console(highlight=False, markup=False, emoji=False)
    # What reads a pipe has no width of its own.
    found.width = max(found.width, width) if found.is_terminal else 120
    return found


def figures_table(*columns: str) -> Table:
    """Return an empty table of names and, in columns to the right, figures."""
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def check_target(path: Path | None, suffixes: Collection[str] = ()) -> None:
    """Refuse a file that could not be written in the end, before any work is done."""
    if path is None:
        return
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} cannot be written: it is a folder")
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{path}: expected a name ending in one of {', '.join(suffixes)}")


@contextmanager
def resumable(*kept: Path) -> Iterator[None]:
    """Say at Ctrl-C from which file the run goes on, if any is there; leave with its status."""
    try:
        yield
    except KeyboardInterrupt:
        found = next((file for file in kept if file.exists()), None)
        how = f"--resume goes on from {found}" if found else "nothing was done that could go on"
        console.print(f"stopped; {how}")
        raise typer.Exit(130) from None
