"""``flowmatch identify``: classes of pictures, by examples and without training."""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich import box
from rich.table import Table

from flowmatch.cli._options import (
    INPUT,
    MODEL,
    DeviceName,
    JsonFile,
    WhiteLevel,
    check_target,
    check_weights_file,
)
from flowmatch.cli._tables import print_table, write_json
from flowmatch.devices import choose_device
from flowmatch.metric_learning.data.datasets import find_images
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.enrolment import enrol
from flowmatch.metric_learning.fit import embed
from flowmatch.metric_learning.store import load

EXAMPLES = (
    "flowmatch identify unknown.jpg --enrolled people --weights faces.safetensors",
    "flowmatch identify a.jpg b.jpg --enrolled people --weights faces.safetensors --json -",
)


def command(
    pictures: Annotated[
        list[Path],
        typer.Argument(metavar="PICTURE", help="Pictures to classify.", show_default=False),
    ],
    enrolled: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Folder of examples: a sub-folder of two or more pictures for each class.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ],
    weights: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            callback=check_weights_file,
            help="File that flowmatch train metric-learning or train video wrote, .safetensors.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ],
    false_accept_rate: Annotated[
        float,
        typer.Option(
            help="Share of pairs of different classes, of the examples, that may be accepted.",
            rich_help_panel=MODEL,
        ),
    ] = 0.01,
    json: JsonFile = None,
    white: WhiteLevel = None,
    device: DeviceName = None,
) -> None:
    """Classify pictures by a few examples of each class.

    A picture gets the class of its closest example, or is unknown if that is too far. The largest
    accepted distance follows from the examples and --false-accept-rate.
    """
    check_target(json)
    network = load(weights, device=choose_device(device))
    examples = find_images(enrolled)
    queries = LabelledImages(pictures, np.zeros(len(pictures), np.int64), ("",))
    for images in (examples, queries):
        if images.channels != network.channels:
            raise ValueError(
                f"{weights} is for pictures of {network.channels} channels, got {images.channels}"
            )
    gallery = enrol(
        embed(network, examples, network.size),
        torch.from_numpy(examples.labels),
        examples.classes,
        network.metric,
        false_accept_rate=false_accept_rate,
    )
    answers = gallery.query(embed(network, queries, network.size))
    rows = list(zip(map(str, pictures), answers, strict=True))
    content = {
        "threshold": gallery.threshold,
        "pictures": [{"picture": p, "name": a.name, "distance": a.distance} for p, a in rows],
    }
    if json is not None and write_json(json, content):
        return
    table = Table("picture", "class", "distance", box=box.SIMPLE, show_edge=False, pad_edge=False)
    for picture, answer in rows:
        table.add_row(picture, answer.name or "unknown", f"{answer.distance:.4f}")
    print_table(table, f"accepted up to a distance of {gallery.threshold:.4f}")
