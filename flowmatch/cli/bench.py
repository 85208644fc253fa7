"""``flowmatch bench``: the kernels' speed, beside peers and the machine's ceiling."""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from flowmatch import __version__
from flowmatch.bench import Row, correlation_cases, measure_all, measure_ceilings
from flowmatch.devices import choose_device
from flowmatch.io import replace_when_done

DTYPES = ("float32", "bfloat16", "float16", "float64")


def bench(
    op: Annotated[str, typer.Argument(help="correlation, or all.")] = "all",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(DTYPES)}.")] = "float32",
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each figure.")] = 7,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the rows to this file.")
    ] = None,
) -> None:
    """Measure, interleaved, after checking that all implementations agree."""
    if op not in ("correlation", "all"):
        raise ValueError(f"expected correlation or all, got {op!r}")
    if dtype not in DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    console = Console(highlight=False)
    console.width = max(console.width, 110)  # numbers that wrap cannot be compared
    target = choose_device(device)
    if json_file is not None and not json_file.resolve().parent.is_dir():
        raise FileNotFoundError(f"there is no folder for {json_file}")
    kind = getattr(torch, dtype)
    ceilings = measure_ceilings(target, kind)
    on_cpu = f"{torch.get_num_threads()} threads"
    about = on_cpu if target.type == "cpu" else torch.cuda.get_device_name(target)
    console.print(
        f"{target} ({about}), torch {torch.__version__}: {dtype} product "
        f"{ceilings['gflops']:.0f} GFLOP/s, copy {ceilings['gbytes']:.1f} GB/s"
    )
    rows: list[Row] = []
    for measured in measure_all(correlation_cases(target, kind), ceilings["gflops"], rounds):
        console.print(_table(measured))
        rows += measured
    if json_file is not None:
        content = {
            "flowmatch": __version__,
            "torch": torch.__version__,
            "device": about,
            "ceilings": ceilings,
            "rows": [row.to_json() for row in rows],
        }
        with replace_when_done(json_file) as beside:
            beside.write_text(json.dumps(content, indent=1) + "\n")


def _table(rows: list[Row]) -> Table:
    title = f"{rows[0].op} {rows[0].case} {rows[0].dtype}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_edge=False)
    table.add_column("implementation", no_wrap=True)
    for heading in ("pass", "ms", "spread", "GFLOP/s", "of product", "flowmatch is", "agrees"):
        table.add_column(heading, justify="right", no_wrap=True)
    ours = {row.passes: row.median_ms for row in rows if row.implementation == "flowmatch"}
    for row in rows:
        table.add_row(
            row.implementation,
            row.passes,
            f"{row.median_ms:.2f}",
            f"{row.spread:.0%}",
            f"{row.gflops:.1f}",
            f"{row.ceiling_fraction:.0%}",
            f"{row.median_ms / ours[row.passes]:.1f}x faster"
            if row.implementation != "flowmatch"
            else "",
            "yes" if row.agrees else "NO",
        )
    return table
