"""``flowmatch eval align``: alignment of warped photographs, beside SIFT and no alignment."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from torch import nn

from flowmatch.align import BASELINES, load
from flowmatch.align.evaluate import AlignScores, evaluate
from flowmatch.align.synthetic import SyntheticPairs
from flowmatch.cli._messages import StageBars, progress_bar
from flowmatch.cli._options import (
    DATA,
    DeviceName,
    JsonFile,
    Seed,
    WeightsFile,
    WhiteLevel,
    check_target,
)
from flowmatch.cli._tables import number, number_table, percent, print_table, write_json
from flowmatch.devices import choose_device
from flowmatch.io import list_images

EXAMPLES = (
    "flowmatch eval align photos",
    "flowmatch eval align photos --appearance 0 --weights align.safetensors",
)


def command(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Folder of photographs.", show_default=False),
    ],
    json: JsonFile = None,
    weights: WeightsFile = None,
    white: WhiteLevel = None,
    device: DeviceName = None,
    count: Annotated[
        int, typer.Option(min=1, help="Number of pairs to make.", rich_help_panel=DATA)
    ] = 100,
    appearance: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Probability that each picture of a pair changes its appearance.",
            rich_help_panel=DATA,
        ),
    ] = 1.0,
    seed: Seed = 1000,
) -> None:
    """Measure alignment on warped photographs.

    The pairs are made from photographs, by default with strong changes of appearance.
    """
    check_target(json)
    samples = SyntheticPairs(list_images(folder), appearance=appearance, seed=seed)
    methods: dict[str, nn.Module | str] = {
        "flowmatch": load(weights=weights, device=choose_device(device)),
        **{name: name for name in BASELINES},
    }
    with progress_bar(transient=True) as bar:
        scores = evaluate(methods, samples, count, StageBars(bar))
    content = {
        "folder": str(folder),
        "weights": str(weights) if weights else None,
        "pairs": count,
        "appearance": appearance,
        "seed": seed,
        "methods": {name: row._asdict() for name, row in scores.items()},
    }
    if json is None or not write_json(json, content):
        print_table(_table(scores), _legend(count))


def _table(scores: dict[str, AlignScores]) -> Table:
    table = number_table("PCK@0.1 box", "PCK@0.1 scnet", "distance", "median", "found")
    for name, row in scores.items():
        table.add_row(
            name,
            percent(row.pck_box),
            percent(row.pck_scnet),
            number(row.distance, 3),
            number(row.median, 3),
            percent(row.found, 0),
        )
    return table


def _legend(pairs: int) -> str:
    return (
        f"{pairs} pairs of 240 x 240. PCK: percent of 20 x 20 points within 0.1 of the longer side "
        "of the true\npoints' box (box: Proposal Flow, Rocco 2017), or of the picture (scnet). "
        "distance: mean error of the points\nin half pictures, mean and median over pairs. found: "
        "percent of pairs with a transform; the others count as identity."
    )
