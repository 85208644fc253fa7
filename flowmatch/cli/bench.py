"""``flowmatch bench``: the kernels' speed, beside peers and the machine's ceiling."""

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
from flowmatch.devices import choose_device
from flowmatch.io import replace_when_done

DTYPES = ("float32", "bfloat16", "float16", "float64")


def command(
    op: Annotated[str, typer.Argument(help=f"{', '.join(OPS)}, or all.")] = "all",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(DTYPES)}.")] = "float32",
    shape: Annotated[
        str | None,
        typer.Option(help="A size of your own, such as 8,256,48,64,10,2.", show_default=False),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each figure.")] = 7,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the rows to this file.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page with bars and a roofline.")
    ] = None,
    from_file: Annotated[
        Path | None, typer.Option("--from", help="Show a file of rows, measure nothing.")
    ] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print one table, as in the README.")
    ] = False,
) -> None:
    """Measure, interleaved, after checking that all implementations agree."""
    for file in (json_file, html):
        if file is not None and not file.resolve().parent.is_dir():
            raise FileNotFoundError(f"there is no folder for {file}")
    console = Console(highlight=False)
    console.width = max(console.width, 110)  # numbers that wrap cannot be compared
    if from_file is None:
        content, rows = _measure(op, device, dtype, shape, rounds, console, quiet=as_markdown)
    else:
        content, rows = _read(from_file)
        if not as_markdown:
            for group in _by_case(rows):
                console.print(_table(group))
    if as_markdown:
        print(markdown(rows))
    if json_file is not None:
        _write(json_file, json.dumps(content, indent=1) + "\n")
    if html is not None:
        _write(html, html_page(content, rows))


def _measure(
    op: str, device: str, dtype: str, shape: str | None, rounds: int, console: Console, quiet: bool
) -> tuple[dict[str, Any], list[Row]]:
    if op != "all" and op not in OPS:
        raise ValueError(f"expected one of {', '.join(OPS)} or all, got {op!r}")
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
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not what `flowmatch bench --json` writes: {error}") from error


def _write(file: Path, text: str) -> None:
    with replace_when_done(file) as temporary:
        temporary.write_text(text)


def _by_case(rows: list[Row]) -> list[list[Row]]:
    """Put the passes of a case under each other."""
    found: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.op, row.case, row.dtype, row.device), []).append(row)
    return list(found.values())


def _table(rows: list[Row]) -> Table:
    title = f"{rows[0].op} {rows[0].case} {rows[0].dtype}"
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE, show_edge=False, padding=(0, 1)
    )
    table.add_column("  implementation (* best peer)", no_wrap=True)
    table.add_column("pass", no_wrap=True)
    for heading in ("ms", "spread", "GFLOP/s", "of product", "MB", "ours is"):
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
                f"{row.spread:.0%}",
                "" if row.gflops is None else f"{row.gflops:.1f}",
                "" if row.ceiling_fraction is None else f"{row.ceiling_fraction:.0%}",
                "" if row.peak_mb is None else f"{row.peak_mb:.0f}",
                compared,
                "yes" if row.agrees else "NO",
            )
    return table
