"""``flowmatch eval retrieval``: descriptors of whole pictures, on views of photographs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flowmatch.cli._messages import progress_bar
from flowmatch.cli._options import (
    DATA,
    DeviceName,
    JsonFile,
    Seed,
    WeightsFile,
    WhiteLevel,
    check_target,
)
from flowmatch.cli._tables import number_table, percent, print_table, write_json
from flowmatch.devices import choose_device
from flowmatch.io import list_images
from flowmatch.retrieval.backbone_describer import BackboneDescriber
from flowmatch.retrieval.describe import Describer, load_describer
from flowmatch.retrieval.evaluation.evaluate import Scores, evaluate, make_gallery
from flowmatch.retrieval.network import RetrievalNet, initial_network
from flowmatch.retrieval.store import STORE

EXAMPLES = (
    "flowmatch eval retrieval photos",
    "flowmatch eval retrieval photos --weights runs/retrieval-small.safetensors --views 3",
)
_VLAD = ("rootsift", "hardnet-half")


def command(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Folder of photographs.", show_default=False),
    ],
    json: JsonFile = None,
    weights: WeightsFile = None,
    white: WhiteLevel = None,
    device: DeviceName = None,
    views: Annotated[
        int,
        typer.Option(
            min=2,
            help="Number of views of each photograph; one of them is the query.",
            rich_help_panel=DATA,
        ),
    ] = 5,
    seed: Seed = 1000,
) -> None:
    """Measure the retrieval of views of the same photograph.

    The views of all photographs form one gallery. Networks are compared with VLAD.
    """
    check_target(json)
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
        scores = evaluate(
            describers,
            gallery,
            progress=lambda stage, done, total: bar.update(task, completed=done),
        )
    content = {
        "folder": str(folder),
        "weights": str(weights) if weights else None,
        "views": views,
        "seed": seed,
        "methods": {name: row._asdict() for name, row in scores.items()},
    }
    if json is None or not write_json(json, content):
        print_table(_table(scores), _legend(len(gallery.queries), len(gallery.images)))


def _table(scores: dict[str, Scores]) -> Table:
    table = number_table("dim", "mAP", "P@1", "mAP +QE", "mAP +QE +DBA")
    for name, row in scores.items():
        shares = (row.mean_ap, row.first, row.expanded, row.augmented)
        table.add_row(name, str(row.dim), *(percent(share) for share in shares))
    return table


def _legend(queries: int, images: int) -> str:
    return (
        f"{queries} queries, {images} gray views of 320 x 240 of as many photographs. dim: numbers "
        "per picture.\nmAP: mean average precision, percent (Oxford's trapezoids); P@1: first "
        "result right; +QE: query expansion\nby 2, alpha 3; +DBA: and the database augmented by 2."
    )
