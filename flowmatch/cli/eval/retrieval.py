"""``flowmatch eval retrieval``: describers beside each other on views of photographs."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flowmatch.cli._messages import (
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
from flowmatch.retrieval.backbone_describer import BackboneDescriber
from flowmatch.retrieval.describe import Describer, load_describer
from flowmatch.retrieval.evaluation.evaluate import Scores, evaluate, make_gallery
from flowmatch.retrieval.network import RetrievalNet, initial_network
from flowmatch.retrieval.store import STORE

_VLAD = ("rootsift", "hardnet-half")


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Photographs.", show_default=False)],
    weights: WeightsFile = None,
    device: DeviceName = None,
    views: Annotated[int, typer.Option(min=2, help="Of each; one of them is searched for.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the views.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure how well views of a photograph find each other among views of the others."""
    photos = list_images(folder)
    describers: dict[str, Describer] = {
        f"vlad {name}": load_describer(name, device=device) for name in _VLAD
    }
    initial = initial_network().to(choose_device(device)).eval()
    describers["backbone of align"] = BackboneDescriber.of_network(initial, "align", whiten=False)
    if weights:
        network, name = STORE.load(weights, device=device), STORE.digest(weights)
        assert isinstance(network, RetrievalNet)
        describers |= {
            "network": BackboneDescriber.of_network(network, name, whiten=False),
            "network, whitened": BackboneDescriber.of_network(network, name),
        }
    gallery = make_gallery(photos, views, seed)
    total = len(describers) * (len(gallery.queries) + len(gallery.images))
    with progress_bar(transient=True) as bar:
        task = bar.add_task("eval", total=total)
        found = evaluate(
            describers,
            gallery,
            progress=lambda stage, done, total: bar.update(task, completed=done),
        )
    if as_json:
        about = {"folder": str(folder), "weights": str(weights) if weights else None}
        scores = {name: row._asdict() for name, row in found.items()}
        typer.echo(json.dumps({**about, "views": views, "seed": seed, "methods": scores}, indent=2))
        return
    console = stdout_console()
    console.print(_table(found))
    console.print(
        f"\n{len(gallery.queries)} queries, {len(gallery.images)} gray views of 320 x 240 of as "
        "many photographs. mAP: mean average precision,\npercent (Oxford's trapezoids); P@1: first "
        "result right; +QE: query expansion by 2, alpha 3; +DBA: and the\ndatabase augmented by 2."
    )


def _table(found: dict[str, Scores]) -> Table:
    table = number_table("numbers", "mAP", "P@1", "mAP +QE", "mAP +QE +DBA")
    for name, row in found.items():
        shares = (row.mean_ap, row.first, row.expanded, row.augmented)
        table.add_row(name, str(row.dim), *(f"{100 * share:.1f}" for share in shares))
    return table
