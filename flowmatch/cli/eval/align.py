"""``flowmatch eval align``: on warped photographs, a network beside SIFT and beside nothing."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from torch import nn

from flowmatch.align import BASELINES, available, load
from flowmatch.align.evaluate import AlignScores, evaluate
from flowmatch.align.synthetic import SyntheticPairs
from flowmatch.cli._messages import (
    messages,
    progress_bar,
)
from flowmatch.cli._options import (
    DeviceName,
    WeightsFile,
)
from flowmatch.cli._tables import (
    number_table,
    stdout_console,
)
from flowmatch.devices import choose_device
from flowmatch.io import list_images


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Photographs.", show_default=False)],
    weights: WeightsFile = None,
    device: DeviceName = None,
    pairs: Annotated[int, typer.Option(min=1, help="How many to make.")] = 100,
    appearance: Annotated[
        float, typer.Option(min=0, max=1, help="How often each picture of a pair is restyled.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the pairs.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure alignment on pairs made from photographs, by default with strong change of look."""
    samples = SyntheticPairs(list_images(folder), appearance=appearance, seed=seed)
    methods: dict[str, nn.Module | str] = {name: name for name in BASELINES}
    if weights or available():
        methods = {"flowmatch": load(weights=weights, device=choose_device(device)), **methods}
    else:
        messages.print("no alignment weights ship or were given: --weights adds a network")
    with progress_bar(transient=True) as bar:
        task = bar.add_task("eval", total=pairs)
        found = evaluate(
            methods, samples, pairs, lambda stage, done, total: bar.update(task, completed=done)
        )
    if as_json:
        about = {"folder": str(folder), "weights": str(weights) if weights else None}
        about_pairs = {"pairs": pairs, "appearance": appearance, "seed": seed}
        scores = {name: row._asdict() for name, row in found.items()}
        typer.echo(json.dumps({**about, **about_pairs, "methods": scores}, indent=2))
        return
    console = stdout_console()
    console.print(_table(found))
    console.print(
        f"\n{pairs} pairs of 240 x 240. PCK: percent of 20 x 20 points within 0.1 of the longer "
        "side of the true\npoints' box (box: Proposal Flow, Rocco 2017), or of the picture "
        "(scnet). distance: of the points, in half\npictures, mean and median over pairs. "
        "found: percent of pairs with a transform, else the identity counts."
    )


def _table(found: dict[str, AlignScores]) -> Table:
    table = number_table("PCK@0.1 box", "PCK@0.1 scnet", "distance", "median", "found")
    for name, row in found.items():
        table.add_row(
            name,
            f"{100 * row.pck_box:.1f}",
            f"{100 * row.pck_scnet:.1f}",
            f"{row.distance:.3f}",
            f"{row.median:.3f}",
            f"{100 * row.found:.0f}",
        )
    return table
