"""``flowmatch eval flow``: flow networks and classical methods on a dataset with ground truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flowmatch import flow
from flowmatch.cli._messages import messages, progress_bar
from flowmatch.cli._options import (
    DATA,
    METHODS,
    OUTPUT,
    QUALITY,
    DeviceName,
    JsonFile,
    ModelName,
    PhotosFolder,
    Refine,
    Seed,
    WeightsFile,
    WhiteLevel,
    WithDis,
    Zoom,
    check_target,
)
from flowmatch.cli._tables import number_table, print_table, write_json
from flowmatch.devices import choose_device
from flowmatch.flow.baselines import BASELINES
from flowmatch.flow.data.datasets import find_pairs
from flowmatch.flow.evaluation.evaluate import FlowEvaluation, FlowRow, Method, Pair, evaluate
from flowmatch.flow.evaluation.held_out import render_held_out
from flowmatch.flow.evaluation.report import FlowGallery, known_columns
from flowmatch.io import replace_when_done
from flowmatch.progress import counted

EXAMPLES = (
    "flowmatch eval flow MPI-Sintel/training --html page.html",
    "flowmatch eval flow --synthetic 20 --quality fast --quality good --json scores.json",
)

# Beyond this number of sequences the table shows only the means of groups; JSON holds all.
_MOST_SEQUENCES = 40
SMOKE = 10
"""Number of pairs below which the figures are called smoke numbers."""


def command(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]",
            help="Folder of Middlebury, Sintel, KITTI or FlyingChairs as unpacked, or of "
            "sub-folders with frame1.*, frame2.*, flow.* and optionally occ.png, invalid.png.",
            show_default=False,
        ),
    ] = None,
    synthetic: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Evaluation on N rendered pairs instead of FOLDER, with textures and motions that "
            "no network is trained on.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    seed: Seed = 0,
    photos: PhotosFolder = None,
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
    white: WhiteLevel = None,
    device: DeviceName = None,
    quality: Annotated[
        list[str],
        typer.Option(
            "--quality",
            help="Quality of each flow: fast, good or best. Several, each with a row of its own: "
            "--quality fast --quality best.",
            rich_help_panel=QUALITY,
        ),
    ] = ["good"],  # noqa: B006
    refine: Refine = None,
    zoom: Zoom = 1.0,
    with_dis: WithDis = None,
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            help="Confidence of each flow: its AUSE beside that of the forward-backward error, and "
            "how often it is right.",
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
    options = {name: flow.FlowOptions(name, refine, with_dis, zoom) for name in quality}
    pairs, dataset = _pairs(folder, synthetic, seed, photos)
    target = choose_device(device)
    network = flow.load(model, weights=weights, device=target)

    def estimate(options: flow.FlowOptions) -> Method:
        if confidence:
            return lambda first, second: flow.estimate_both_ways(
                first, second, model=network, options=options, confidence=True
            )
        return lambda first, second: flow.estimate_flow(
            first, second, model=network, options=options
        )

    methods: dict[str, Method] = {
        **{_method(name, quality): estimate(one) for name, one in options.items()},
        **(BASELINES if baselines else {}),
    }
    shown = (_method(quality[-1], quality), "dis")
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
    setting = ", ".join([f"{' and '.join(options)} quality", *_switches(refine, with_dis)])
    if page:
        title = f"{dataset}: flowmatch is {source} on {target}, {setting}."
        with replace_when_done(page) as temporary:
            temporary.write_text(gallery.page(evaluation, title), encoding="utf-8")
        messages.print(f"page: {page}")
    about = {
        "folder": dataset,
        "flowmatch": source,
        "device": str(target),
        "quality": list(options),
        "refine": refine,
        "with_dis": with_dis,
    }
    if json is None or not write_json(json, about | evaluation.to_json()):
        legend = _legend(evaluation, source, f"{target}, {setting}", synthetic is not None)
        print_table(_table(evaluation), legend)


def _pairs(
    folder: Path | None, synthetic: int | None, seed: int, photos: Path | None
) -> tuple[Sequence[Pair], str]:
    """Return the pairs to evaluate, and the name of their dataset."""
    if (folder is None) is (synthetic is None):
        raise ValueError("name a FOLDER with ground truth, or the number of pairs by --synthetic")
    if folder is not None:
        return find_pairs(folder), str(folder)
    return render_held_out(synthetic or 0, seed, photos), f"rendered pairs of seed {seed}"


def _method(quality: str, qualities: Sequence[str]) -> str:
    return f"flowmatch {quality}" if len(set(qualities)) > 1 else "flowmatch"


def _switches(refine: bool | None, with_dis: bool | None) -> list[str]:
    """Return the options that replace a part of the quality, in words."""
    given = (("refined", refine), ("with DIS", with_dis))
    return [name if on else f"not {name}" for name, on in given if on is not None]


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


def _legend(evaluation: FlowEvaluation, source: str, device: str, intervals: bool) -> str:
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
    if evaluation.reliability:
        lines.append(
            "AUSE: area between the sparsification curve of the confidence and that of the true "
            "error, relative to the EPE, 0 is perfect; AUSE f-b: of the forward-backward error."
        )
    for method, ranges in evaluation.reliability.items():
        parts = "; ".join(
            f"{100 * r.low:.0f} to {100 * r.high:.0f} %: {100 * r.within:.0f} %"
            for r in ranges
            if r.pixels
        )
        lines.append(f"Pixels of {method} within 1 px, by confidence: {parts}.")
    if pairs < SMOKE:
        lines.append(f"Fewer than {SMOKE} pairs are smoke numbers: they do not rank methods.")
    if intervals and pairs > 1:
        lines.append(
            "Mean EPE, 95 % bootstrap interval over the pairs: "
            + "; ".join(
                f"{row.method} {row.epe_interval[0]:.2f} to {row.epe_interval[1]:.2f}"
                for row in evaluation.mean
            )
            + "."
        )
    if evaluation.skipped:
        skipped = counted(len(evaluation.skipped), "pair")
        lines.append(f"{skipped} could not be read and do not count (see stderr).")
    return "\n".join(lines)
