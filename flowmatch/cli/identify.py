"""``flowmatch identify``: which of the enrolled classes pictures show, without training anew."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from flowmatch.cli._options import (
    DeviceName,
)
from flowmatch.devices import choose_device
from flowmatch.metric_learning.data.datasets import find_images
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.enrolment import enrol
from flowmatch.metric_learning.fit import embed
from flowmatch.metric_learning.store import load


def command(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE...", help="What to name.")],
    enrolled: Annotated[
        Path, typer.Option(help="Folder: one sub-folder of two or more examples for each class.")
    ],
    weights: Annotated[Path, typer.Option(help="What train metric-learning or train video wrote.")],
    far: Annotated[
        float, typer.Option(help="False accepts among pairs of examples that may be.")
    ] = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    device: DeviceName = None,
) -> None:
    """Name pictures by examples: the class of the closest, or unknown where none is close enough.

    How close that is, the examples decide: so that of their pairs of two classes no more than --far
    would pass for one.
    """
    network = load(weights, device=choose_device(device))
    examples = find_images(enrolled)
    asked = LabelledImages(pictures, np.zeros(len(pictures), np.int64), ("",))
    for part in (examples, asked):
        if part.channels != network.channels:
            raise ValueError(
                f"{weights} is for pictures of {network.channels} channels, got {part.channels}"
            )
    known = enrol(
        embed(network, examples, network.size),
        torch.from_numpy(examples.labels),
        examples.classes,
        network.metric,
        false_accept_rate=far,
    )
    answers = known.query(embed(network, asked, network.size))
    rows = list(zip(map(str, pictures), answers, strict=True))
    if as_json:
        plain = [{"picture": p, "name": a.name, "distance": a.distance} for p, a in rows]
        found = {"threshold": known.threshold, "pictures": plain}
        typer.echo(json.dumps(found, indent=2, allow_nan=False))
        return
    table = Table("picture", "is", "distance", box=box.SIMPLE, show_edge=False, pad_edge=False)
    for picture, answer in rows:
        table.add_row(picture, answer.name or "unknown", f"{answer.distance:.4f}")
    paper = Console(highlight=False, markup=False, emoji=False)
    paper.print(table)
    paper.print(f"accepted up to {known.threshold:.4f}")
