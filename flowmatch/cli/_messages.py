"""Messages and progress, on stderr: stdout is for results."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)


class _Bar(Progress):
    """A progress bar that disappears if an error ends the work before anything is done."""

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None and not any(task.completed for task in self.tasks):
            self.live.transient = True
            # Into a file, a bar is drawn only when it stops.
            self.console.quiet = not self.console.is_terminal
        super().__exit__(*error)
        self.console.quiet = False


messages = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def progress_bar(*columns: TextColumn, transient: bool = False) -> Progress:
    """Return a progress bar on stderr: items done, items in all, and the time left.

    Args:
        *columns: Further columns, before the time left.
        transient: Whether the bar disappears at the end; it is then not drawn into files at all.
    """
    return _Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        TimeRemainingColumn(),
        console=messages,
        transient=transient,
        disable=transient and not messages.is_terminal,
    )


class StageBars:
    """A `ProgressCallback` that shows one line of a progress bar for each stage."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Show how far a stage is."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage)
        self._bar.update(self._tasks[stage], completed=done, total=total)


@contextmanager
def report_interrupt(bar: Progress, summary: Callable[[], str]) -> Iterator[None]:
    """Report at Ctrl-C what was done, and end with status 130.

    Args:
        bar: Progress bar to stop.
        summary: Function that describes in one line what was done.
    """
    try:
        yield
    except KeyboardInterrupt:
        bar.stop()
        messages.print(f"stopped: {summary()}; the same command, without --overwrite, continues")
        raise typer.Exit(130) from None
