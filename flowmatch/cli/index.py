"""``flowmatch index``: describe a folder of pictures, to be searched."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TextColumn

from flowmatch.cli._messages import (
    messages,
    progress_bar,
)
from flowmatch.cli._options import (
    DeviceName,
)
from flowmatch.retrieval.describe import load_describer
from flowmatch.retrieval.index import Index, IndexReport
from flowmatch.retrieval.update import IndexUpdate
from flowmatch.retrieval.vlad_describer import VladOptions

_SHOWN = 20  # unreadable pictures that are listed; the index knows all
FAILURES = TextColumn("{task.fields[failed]}")


def command(
    folder: Annotated[Path, typer.Argument(help="Of pictures, and folders of pictures.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The index; one that is there is updated.")
    ] = Path("index.safetensors"),
    descriptor: Annotated[
        str,
        typer.Option(help="default (a network that ships), rootsift, sift, or a file of weights."),
    ] = "default",
    weights: Annotated[
        Path | None,
        typer.Option(help="What flowmatch train retrieval wrote, instead.", show_default=False),
    ] = None,
    words: Annotated[int, typer.Option(min=1, help="Visual words, learnt from the folder.")] = 64,
    keypoints: Annotated[int, typer.Option(min=1, help="At most, in each picture.")] = 1000,
    side: Annotated[int, typer.Option(min=32, help="Pixels that pictures are shrunk to.")] = 640,
    seed: Annotated[int, typer.Option(help="Of the visual words.")] = 0,
    device: DeviceName = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew.")] = False,
) -> None:
    """Describe the pictures of a folder, to be found by flowmatch search.

    Pictures that are described already are not described again, unless they have changed. It may
    be interrupted; the same command goes on.
    """
    options = VladOptions(words=words, keypoints=keypoints, side=side, seed=seed)
    describer = load_describer(weights or descriptor, device=device, options=options)
    update = IndexUpdate(folder, output, describer, overwrite=overwrite)
    with progress_bar(FAILURES) as bar:
        task = bar.add_task("vocabulary", total=None, failed="")

        def progress(stage: str, done: int, total: int | None) -> None:
            failed = f"{update.report.failed} failed" if update.report.failed else ""
            bar.update(task, description=stage, total=total, completed=done, failed=failed)

        try:
            made = update.run(progress)
        except KeyboardInterrupt:
            bar.stop()
            again = "the same command, without --overwrite, goes on"
            messages.print(f"stopped: {_summary(update.report, output)}; {again}")
            raise typer.Exit(130) from None
    _tell_failures(made)
    messages.print(_summary(update.report, output))
    if not made.entries:
        raise ValueError(f"none of the pictures in {folder} can be read")


def _tell_failures(made: Index) -> None:
    for entry, reason in made.failed[:_SHOWN]:
        messages.print(f"failed: {entry.name}: {reason}")
    if len(made.failed) > _SHOWN:
        messages.print(f"... and {len(made.failed) - _SHOWN} more")


def _summary(report: IndexReport, output: Path) -> str:
    line = f"{report.described} picture{'' if report.described == 1 else 's'} described"
    for count, what in (
        (report.kept, "known already"),
        (report.removed, "changed or gone"),
        (report.failed, "failed"),
    ):
        line += f", {count} {what}" if count else ""
    return f"{line}, in {output}"
