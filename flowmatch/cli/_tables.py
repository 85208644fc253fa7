"""Results on stdout: tables of numbers, their legends, and JSON."""

import json
import math
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from flowmatch.cli._options import STDOUT
from flowmatch.io import replace_when_done


def stdout_console(width: int = 100) -> Console:
    """Return a console on stdout.

    Args:
        width: Minimum number of columns, so that numbers are not cut in a narrow terminal. A pipe
            has no width of its own; it gets at least 120.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = max(console.width, width) if console.is_terminal else max(width, 120)
    return console


def number_table(*columns: str, title: str = "") -> Table:
    """Return an empty table: names on the left, and columns of numbers aligned to the right.

    Args:
        *columns: Headings of the numbers.
        title: Heading of the names.
    """
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(title, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def number(value: float, decimals: int) -> str:
    """Return a number as text, ``-`` for NaN."""
    return "-" if math.isnan(value) else f"{value:.{decimals}f}"


def percent(share: float, decimals: int = 1) -> str:
    """Return a share in 0..1 in percent, ``-`` for NaN."""
    return number(100 * share, decimals)


def print_table(table: Table, legend: str, width: int = 100) -> None:
    """Print a table and, below it, what its columns mean."""
    console = stdout_console(width)
    console.print(table)
    console.print()
    console.print(legend)


def write_json(target: Path, content: Any) -> bool:
    """Write JSON to a file, or to stdout if `target` is ``-``; NaN becomes null.

    Returns:
        Whether it went to stdout, where nothing else may then be printed.
    """
    text = json.dumps(_without_nan(content), indent=2, allow_nan=False)
    if target == STDOUT:
        typer.echo(text)
        return True
    with replace_when_done(target) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return False


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
