"""``flowmatch eval``: how far a network is from a dataset's truth, next to classical methods."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flowmatch import flow
from flowmatch.cli._messages import (
    messages,
    progress_bar,
)
from flowmatch.cli._options import (
    DeviceName,
    Fuse,
    ModelName,
    Refine,
    WeightsFile,
    Zoom,
    check_target,
)
from flowmatch.cli._tables import (
    number_table,
    stdout_console,
)
from flowmatch.devices import choose_device
from flowmatch.flow.baselines import BASELINES
from flowmatch.flow.data.datasets import find_pairs
from flowmatch.flow.estimate import BEST, Options
from flowmatch.flow.evaluation.evaluate import Evaluation, Method, Row, evaluate
from flowmatch.flow.evaluation.report import Gallery, known_columns
from flowmatch.io import replace_when_done

# Beyond this many sequences the table shows the means of their groups only; JSON has them all.
_MOST_SEQUENCES = 40


def command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Middlebury, Sintel, KITTI or FlyingChairs as unpacked, or sub-folders with "
            "frame1.*, frame2.*, flow.* and optionally occ.png, invalid.png.",
            show_default=False,
        ),
    ],
    model: ModelName = "default",
    weights: WeightsFile = None,
    device: DeviceName = None,
    refine: Refine = False,
    zoom: Zoom = 1.0,
    fuse: Fuse = False,
    best: Annotated[
        bool,
        typer.Option("--best", help="Also with --zoom 2 --fuse --refine, about 10 times slower."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    page: Annotated[
        Path | None,
        typer.Option("--html", help="Page to write: tables, frames, flows, error maps."),
    ] = None,
    baselines: Annotated[
        bool, typer.Option(help="Also DIS, DIS refined, Farneback (OpenCV) and zero flow.")
    ] = True,
) -> None:
    """Measure a flow network on pairs with a known flow, next to classical methods."""
    check_target(page)
    pairs = find_pairs(folder)
    where = choose_device(device)
    network = flow.load(model, weights=weights, device=where)

    def ours(options: Options) -> Method:
        return lambda first, second: flow.estimate_flow(network, first, second, **options)

    methods: dict[str, Method] = {
        "flowmatch": ours({"refine": refine, "zoom": zoom, "fuse": fuse}),
        **({"flowmatch best": ours(BEST)} if best else {}),
        **(BASELINES if baselines else {}),
    }
    with progress_bar(transient=True) as bar:
        task = bar.add_task("eval", total=len(pairs))
        gallery = Gallery(
            tuple(
                name
                for name in ("flowmatch best" if best else "flowmatch", "dis")
                if name in methods
            )
        )
        evaluation = evaluate(
            pairs,
            methods,
            lambda done, _: bar.update(task, completed=done),
            see=gallery.add if page else None,
            device=where,
        )
    for name, reason in evaluation.skipped:
        messages.print(f"skipped {name}: {reason}")
    source = str(weights or model) + (f", zoomed by {zoom:g}" if zoom != 1 else "")
    source += ", fused with DIS" if fuse else ""
    source += ", refined," if refine else ""
    if page:
        about_page = f"{folder}: flowmatch is {source} on {where}."
        with replace_when_done(page) as beside:
            beside.write_text(gallery.page(evaluation, about_page), encoding="utf-8")
        messages.print(f"page: {page}")
    if as_json:
        about = {"folder": str(folder), "flowmatch": source, "device": str(where)}
        typer.echo(json.dumps(about | evaluation.to_json(), indent=2, allow_nan=False))
        return
    console = stdout_console()
    console.print(_table(evaluation))
    console.print()
    console.print(_legend(evaluation, source, str(where)))


# ---- The table ---------------------------------------------------------------------------------


def _table(evaluation: Evaluation) -> Table:
    """One block per sequence, group and mean, one line per method in it."""
    many = len({row.name for row in evaluation.sequences}) > _MOST_SEQUENCES
    groups = [row._replace(name=f"{row.name}, mean") for row in evaluation.groups]
    blocks = _blocks([*(() if many else evaluation.sequences), *groups, *evaluation.mean])
    columns = known_columns(evaluation)
    table = number_table(*columns)
    for rows in blocks:
        pairs = f" ({rows[0].pairs} pairs)" if rows[0].pairs > 1 else ""
        table.add_row(f"{rows[0].name}{pairs}", style="bold")
        for row in rows:
            table.add_row(f"  {row.method}", *(text(row) for text in columns.values()))
        table.add_section()
    return table


def _blocks(rows: Sequence[Row]) -> list[list[Row]]:
    """Gather the rows of one name; each list holds one row per method."""
    blocks: dict[str, list[Row]] = {}
    for row in rows:
        blocks.setdefault(row.name, []).append(row)
    return list(blocks.values())


def _legend(evaluation: Evaluation, source: str, device: str) -> str:
    pairs = evaluation.mean[0].pairs
    lines = [
        f"{pairs} pairs, each weighing the same in a mean; flowmatch is {source} on {device}."
        if pairs > 1
        else f"One pair; flowmatch is {source} on {device}.",
        "EPE: mean endpoint error, px. >1px, >3px, >5px: percent of the pixels with a larger one.",
        "Fl-all: percent above 3 px and 5 % of the true length (KITTI). ms: wall time per pair; "
        "MB: most memory.",
        "s0-10, s10-40, s40+: EPE where the true motion is that long, px; over pairs that have it.",
    ]
    if "match" in known_columns(evaluation):
        lines.append("match, unmatch: EPE where the second frame shows the point, and where not.")
    if evaluation.skipped:
        lines.append(
            f"{len(evaluation.skipped)} pairs could not be read and do not count (see stderr)."
        )
    return "\n".join(lines)
