"""``flowmatch bench``: speed of the kernels, beside other packages and the machine's ceiling."""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from flowmatch.bench import (
    OPS,
    Case,
    Row,
    describe_machine,
    group_rows,
    html_page,
    markdown,
    measure_all,
    measure_ceilings,
    peers,
    shape_of,
)
from flowmatch.cli._options import MODEL, OUTPUT, STDOUT, JsonFile, check_target
from flowmatch.cli._tables import stdout_console, write_json
from flowmatch.devices import choose_device
from flowmatch.io import replace_when_done

EXAMPLES = (
    "flowmatch bench correlation --shape 1,64,48,64,4,1",
    "flowmatch bench --json rows.json --html page.html",
)
DTYPES = ("float32", "bfloat16", "float16", "float64")
MEASUREMENT = "Measurement"


def command(
    op: Annotated[
        str, typer.Argument(metavar="OP", help=f"Operator: {', '.join(OPS)}, or all.")
    ] = "all",
    json_file: JsonFile = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Page to write, with bars and a roofline.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_markdown: Annotated[
        bool,
        typer.Option(
            "--markdown",
            help="One table in Markdown, as in the documentation, instead of a table per case.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="File of an earlier --json to show, instead of a measurement.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Device: cpu, cuda or cuda:1.", rich_help_panel=MODEL)
    ] = "cpu",
    dtype: Annotated[
        str, typer.Option(help=f"Type: {', '.join(DTYPES)}.", rich_help_panel=MEASUREMENT)
    ] = "float32",
    shape: Annotated[
        str | None,
        typer.Option(
            help="Shape to measure, numbers with commas, such as 8,256,48,64,10,2 for correlation.",
            show_default="several for each operator",
            rich_help_panel=MEASUREMENT,
        ),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(
            min=1, help="Number of measurements of each time.", rich_help_panel=MEASUREMENT
        ),
    ] = 7,
) -> None:
    """Measure the speed of the kernels, beside other packages.

    All implementations are first checked to agree, and then measured in turns. System: the
    operating system's part of the time, of all threads, mostly for memory that is used for the
    first time. A spread above 15% is marked.
    """
    if op != "all" and op not in OPS:
        raise ValueError(f"expected one of {', '.join(OPS)} or all, got {op!r}")
    check_target(json_file)
    check_target(html)
    console = stdout_console(110)  # numbers that wrap cannot be compared
    quiet = as_markdown or json_file == STDOUT
    if from_file is None:
        content, rows = _measure(op, device, dtype, shape, rounds, console, quiet)
    else:
        content, rows = _read(from_file)
        rows = [row for row in rows if op in ("all", row.op)]
        if not quiet:
            for group in _by_case(rows):
                console.print(_table(group))
    if as_markdown:
        typer.echo(markdown(rows))
    if json_file is not None:
        write_json(json_file, content)
    if html is not None:
        with replace_when_done(html) as temporary:
            temporary.write_text(html_page(content, rows), encoding="utf-8")


def _measure(
    op: str, device: str, dtype: str, shape: str | None, rounds: int, console: Console, quiet: bool
) -> tuple[dict[str, Any], list[Row]]:
    if dtype not in DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if shape is not None and op == "all":
        raise ValueError("--shape needs one op by name")
    kind, target = getattr(torch, dtype), choose_device(device)
    names = tuple(OPS) if op == "all" else (op,)
    sizes = {} if shape is None else {"shapes": {shape: shape_of(op, shape)}}
    machine, ceilings = describe_machine(target), measure_ceilings(target, kind)
    if not quiet:
        console.print(
            f"{target} ({machine['device']}), torch {torch.__version__}: {dtype} product "
            f"{ceilings['gflops']:.0f} GFLOP/s, copy {ceilings['gbytes']:.1f} GB/s"
        )
    rows: list[Row] = []
    for name in names:
        cases: list[Case] = OPS[name].cases(target, kind, **sizes)
        for measured in measure_all(cases, ceilings["gflops"], rounds):
            if not quiet:
                console.print(_table(measured))
            rows += measured
    content = {**machine, "ceilings": ceilings, "rows": [row.to_json() for row in rows]}
    return content, rows


def _read(file: Path) -> tuple[dict[str, Any], list[Row]]:
    try:
        content = json.loads(file.read_text())
        return content, [Row.from_json(row) for row in content["rows"]]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not what `flowmatch bench --json` writes: {error}") from error


def _by_case(rows: list[Row]) -> list[list[Row]]:
    """Gather the passes of each case."""
    cases: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        cases.setdefault((row.op, row.case, row.dtype, row.device), []).append(row)
    return list(cases.values())


def _table(rows: list[Row]) -> Table:
    title = f"{rows[0].op} {rows[0].case} {rows[0].dtype}"
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE, show_edge=False, padding=(0, 1)
    )
    table.add_column("  implementation (* best peer)", no_wrap=True)
    table.add_column("pass", no_wrap=True)
    for heading in ("ms", "system", "spread", "GFLOP/s", "of product", "MB", "ours is"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("agrees", justify="right", no_wrap=True)
    for group in group_rows(rows):
        ours = next((r for r in group if r.implementation == "flowmatch"), None)
        best = peers(group)
        for row in group:
            compared = ""
            if ours is not None and row is not ours:
                compared = f"{row.median_ms / ours.median_ms:.1f}x"
            table.add_row(
                ("* " if best and row is best[0] else "  ") + row.implementation,
                "" if row.passes == "forward" else "+ backward",
                f"{row.median_ms:#.4g}" if row.median_ms < 1000 else f"{row.median_ms:.0f}",
                "" if row.system_ms is None else f"{row.system_ms:.3g}",
                f"{row.spread:.0%}" + ("!" if row.noisy else ""),
                "" if row.gflops is None else f"{row.gflops:.1f}",
                "" if row.ceiling_fraction is None else f"{row.ceiling_fraction:.0%}",
                "" if row.peak_mb is None else f"{row.peak_mb:.0f}",
                compared,
                "yes" if row.agrees else "NO",
            )
    return table
