"""``flowmatch index``: an index of a folder of pictures, for search."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TextColumn

from flowmatch.cli._messages import messages, progress_bar, report_interrupt
from flowmatch.cli._options import (
    MODEL,
    OUTPUT,
    DeviceName,
    WhiteLevel,
)
from flowmatch.progress import counted
from flowmatch.retrieval.describe import load_describer
from flowmatch.retrieval.index import Index, IndexReport
from flowmatch.retrieval.update import IndexUpdate
from flowmatch.retrieval.vlad_describer import VladOptions

EXAMPLES = (
    "flowmatch index photos -o photos.safetensors",
    "flowmatch index photos -o photos.safetensors --model rootsift --words 128",
)
DESCRIPTION = "Description of pictures"
FAILURES = TextColumn("{task.fields[failed]}")
_SHOWN = 20  # unreadable pictures that are printed; the index lists all


def command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of pictures, and of folders of pictures.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="Index to write, .safetensors; an existing one is updated.",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("index.safetensors"),
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="A new index in place of an existing one.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    white: WhiteLevel = None,
    model: Annotated[
        str,
        typer.Option(
            help="Descriptor: rootsift, sift, a name that flowmatch weights list prints, or a "
            ".safetensors file, such as flowmatch train retrieval writes.",
            rich_help_panel=MODEL,
        ),
    ] = "default",
    device: DeviceName = None,
    words: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of visual words, learned from the folder.",
            rich_help_panel=DESCRIPTION,
        ),
    ] = VladOptions.words,
    keypoints: Annotated[
        int,
        typer.Option(
            min=1, help="Maximum number of keypoints per picture.", rich_help_panel=DESCRIPTION
        ),
    ] = VladOptions.keypoints,
    side: Annotated[
        int,
        typer.Option(
            min=32,
            help="Longer side to which pictures are reduced, pixels.",
            rich_help_panel=DESCRIPTION,
        ),
    ] = VladOptions.side,
    seed: Annotated[
        int, typer.Option(help="Random seed for the visual words.", rich_help_panel=DESCRIPTION)
    ] = VladOptions.seed,
) -> None:
    """Describe the pictures of a folder, for flowmatch search.

    Pictures in an existing index are described again only if they have changed. The run may be
    interrupted; the same command continues.
    """
    options = VladOptions(words=words, keypoints=keypoints, side=side, seed=seed)
    describer = load_describer(model, device=device, options=options)
    update = IndexUpdate(folder, output, describer, overwrite=overwrite)
    with progress_bar(FAILURES) as bar:
        task = bar.add_task("vocabulary", total=None, failed="")

        def progress(stage: str, done: int, total: int | None) -> None:
            failed = f"{update.report.failed} failed" if update.report.failed else ""
            bar.update(task, description=stage, total=total, completed=done, failed=failed)

        with report_interrupt(bar, lambda: _summary(update.report, output)):
            index = update.run(progress)
    _print_failures(index)
    messages.print(_summary(update.report, output))
    if not index.entries:
        raise ValueError(f"none of the pictures in {folder} can be read")


def _print_failures(index: Index) -> None:
    for entry, reason in index.failed[:_SHOWN]:
        messages.print(f"failed: {entry.name}: {reason}")
    if len(index.failed) > _SHOWN:
        messages.print(f"... and {len(index.failed) - _SHOWN} more")


def _summary(report: IndexReport, output: Path) -> str:
    line = f"{counted(report.described, 'picture')} described"
    for count, state in (
        (report.kept, "known already"),
        (report.removed, "changed or deleted"),
        (report.failed, "failed"),
    ):
        line += f", {count} {state}" if count else ""
    return f"{line}, in {output}"
