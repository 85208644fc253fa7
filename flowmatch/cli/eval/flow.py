"""``flowmatch eval flow``: flow networks and classical methods on a dataset with ground truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flowmatch import flow
from flowmatch.cli._messages import messages, progress_bar
from flowmatch.cli._options import (
    METHODS,
    OUTPUT,
    DeviceName,
    JsonFile,
    ModelName,
    Refine,
    WeightsFile,
    WithDis,
    Zoom,
    check_target,
)
from flowmatch.cli._tables import number_table, print_table, write_json
from flowmatch.devices import choose_device
from flowmatch.flow.baselines import BASELINES
from flowmatch.flow.data.datasets import find_pairs
from flowmatch.flow.evaluation.evaluate import FlowEvaluation, FlowRow, Method, evaluate
from flowmatch.flow.evaluation.report import FlowGallery, known_columns
from flowmatch.flow.options import BEST
from flowmatch.io import replace_when_done

EXAMPLES = (
    "flowmatch eval flow MPI-Sintel/training --html page.html",
    "flowmatch eval flow middlebury --model pyramid --refine --json scores.json",
)

# Beyond this number of sequences the table shows only the means of groups; JSON holds all.
_MOST_SEQUENCES = 40


def command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of Middlebury, Sintel, KITTI or FlyingChairs as unpacked, or of "
            "sub-folders with frame1.*, frame2.*, flow.* and optionally occ.png, invalid.png.",
            show_default=False,
        ),
    ],
    json: JsonFile = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Page to write: tables, frames, flows, error maps.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    model: ModelName = "default",
    weights: WeightsFile = None,
    device: DeviceName = None,
    refine: Refine = False,
    zoom: Zoom = 1.0,
    with_dis: WithDis = False,
    best: Annotated[
        bool,
        typer.Option(
            "--best",
            help="A further row for --zoom 2 --with-dis --refine, about 10 times slower.",
            rich_help_panel=METHODS,
        ),
    ] = False,
    baselines: Annotated[
        bool,
        typer.Option(
            help="Rows for DIS, DIS refined, Farneback (all of OpenCV) and zero flow.",
            rich_help_panel=METHODS,
        ),
    ] = True,
) -> None:
    """Measure flow networks and classical methods.

    The dataset must have ground truth. Pairs that cannot be read are skipped and listed.
    """
    check_target(page)
    check_target(json)
    pairs = find_pairs(folder)
    target = choose_device(device)
    network = flow.load(model, weights=weights, device=target)

    def estimate(options: flow.FlowOptions) -> Method:
        return lambda first, second: flow.estimate_flow(
            first, second, model=network, options=options
        )

    methods: dict[str, Method] = {
        "flowmatch": estimate(flow.FlowOptions(refine=refine, zoom=zoom, with_dis=with_dis)),
        **({"flowmatch best": estimate(BEST)} if best else {}),
        **(BASELINES if baselines else {}),
    }
    shown = ("flowmatch best" if best else "flowmatch", "dis")
    gallery = FlowGallery(tuple(name for name in shown if name in methods))
    with progress_bar(transient=True) as bar:
        task = bar.add_task("eval", total=len(pairs))
        evaluation = evaluate(
            pairs,
            methods,
            on_pair=gallery.add if page else None,
            device=target,
            progress=lambda _, done, total: bar.update(task, completed=done),
        )
    for name, reason in evaluation.skipped:
        messages.print(f"skipped {name}: {reason}")
    source = str(weights or model) + (f", zoomed by {zoom:g}" if zoom != 1 else "")
    source += ", with DIS" if with_dis else ""
    source += ", refined," if refine else ""
    if page:
        title = f"{folder}: flowmatch is {source} on {target}."
        with replace_when_done(page) as temporary:
            temporary.write_text(gallery.page(evaluation, title), encoding="utf-8")
        messages.print(f"page: {page}")
    about = {"folder": str(folder), "flowmatch": source, "device": str(target)}
    if json is None or not write_json(json, about | evaluation.to_json()):
        print_table(_table(evaluation), _legend(evaluation, source, str(target)))


def _table(evaluation: FlowEvaluation) -> Table:
    """Return a table: a block for each sequence, group and mean, with a line for each method."""
    is_long = len({row.name for row in evaluation.sequences}) > _MOST_SEQUENCES
    groups = [row._replace(name=f"{row.name}, mean") for row in evaluation.groups]
    blocks = _blocks([*(() if is_long else evaluation.sequences), *groups, *evaluation.mean])
    columns = known_columns(evaluation)
    table = number_table(*columns)
    for rows in blocks:
        pairs = f" ({rows[0].pairs} pairs)" if rows[0].pairs > 1 else ""
        table.add_row(f"{rows[0].name}{pairs}", style="bold")
        for row in rows:
            table.add_row(f"  {row.method}", *(text(row) for text in columns.values()))
        table.add_section()
    return table


def _blocks(rows: Sequence[FlowRow]) -> list[list[FlowRow]]:
    """Gather the rows of each name: one per method."""
    blocks: dict[str, list[FlowRow]] = {}
    for row in rows:
        blocks.setdefault(row.name, []).append(row)
    return list(blocks.values())


def _legend(evaluation: FlowEvaluation, source: str, device: str) -> str:
    pairs = evaluation.mean[0].pairs
    lines = [
        f"{pairs} pairs, equally weighted in a mean; flowmatch is {source} on {device}."
        if pairs > 1
        else f"One pair; flowmatch is {source} on {device}.",
        "EPE: mean endpoint error, px. >1px, >3px, >5px: percent of pixels with a larger error.",
        "Fl-all: percent above 3 px and 5 % of the true length (KITTI). ms: wall time per pair; "
        "MB: peak memory.",
        "s0-10, s10-40, s40+: EPE by length of the true motion, px, over pairs with such motion.",
    ]
    if "match" in known_columns(evaluation):
        lines.append(
            "match, unmatch: EPE of pixels visible in the second frame, and of the others."
        )
    if evaluation.skipped:
        lines.append(
            f"{len(evaluation.skipped)} pairs could not be read and do not count (see stderr)."
        )
    return "\n".join(lines)
