"""``flowmatch train similarity`` and ``flowmatch eval similarity``: embeddings, and their table."""

import json
import math
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from flowmatch.cli.options import DeviceName, console
from flowmatch.devices import choose_device
from flowmatch.io import write_image
from flowmatch.similarity.datasets import find_images
from flowmatch.similarity.fit import Recipe, embed, read_trunk, train_embedding
from flowmatch.similarity.images import LabelledImages
from flowmatch.similarity.instances import render_instances
from flowmatch.similarity.losses import LOSSES
from flowmatch.similarity.methods import METHODS
from flowmatch.similarity.miners import MINERS
from flowmatch.similarity.networks import TRUNKS
from flowmatch.similarity.picture import scatter
from flowmatch.similarity.protocol import COLUMNS, Row, compare, score, unseen_parts, verified
from flowmatch.similarity.weights import Embedding, load_embedding, save_embedding

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="digits (scikit-learn's), or a folder: one sub-folder of pictures a class, or "
        "CUB-200-2011, CARS-196, Stanford Online Products, MNIST as unpacked.",
        show_default=False,
    ),
]
Trunk = Annotated[str, typer.Option(help=f"Network: {', '.join(TRUNKS)}.")]
Dimension = Annotated[int, typer.Option(min=1, help="Of the embedding.")]
Size = Annotated[
    int | None,
    typer.Option(
        min=1, help="Of the square pictures.  [default: digits' own; 64; 224 for ResNets]"
    ),
]
Steps = Annotated[int, typer.Option(min=0, help="Of training.")]
Classes = Annotated[int, typer.Option(min=1, help="In a batch.")]
Each = Annotated[int, typer.Option(min=1, help="Pictures of a class in a batch.")]
Unseen = Annotated[
    str | None,
    typer.Option(
        help="What the test has not seen: classes, or pictures of the same classes.  "
        "[default: classes; pictures for digits]"
    ),
]
Start = Annotated[Path | None, typer.Option(help="Weights of the trunk, .safetensors.")]
FrozenNorm = Annotated[bool, typer.Option("--frozen-norm", help="Leave batch-norms as loaded.")]
Augment = Annotated[bool, typer.Option("--augment", help="Random crops and mirror images.")]
Photos = Annotated[
    Path | None,
    typer.Option(
        help="Folder of photographs: DATA is then a folder of cut-outs, PNG with alpha, each of "
        "them a class, shown in random views over the photographs.",
        show_default=False,
    ),
]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read pictures.")]


def _read(
    data: str, photos: Path | None, unseen: str | None, size: int | None
) -> tuple[LabelledImages, LabelledImages]:
    if photos is None:
        images = find_images(data)
    else:
        images = render_instances(data, photos, size=size or 48)
    return unseen_parts(images, unseen or ("pictures" if data == "digits" else "classes"))


def train_similarity(
    data: Data,
    out: Annotated[Path, typer.Option(help="File to write, .safetensors.")],
    loss: Annotated[str, typer.Option(help=f"One of {', '.join(LOSSES)}.")] = "multi-similarity",
    miner: Annotated[
        str, typer.Option(help=f"paper (the loss's own), none, {', '.join(MINERS)}.")
    ] = "paper",
    trunk: Trunk = "small",
    dimension: Dimension = 16,
    size: Size = None,
    steps: Steps = 200,
    classes: Classes = 5,
    each: Each = 8,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    photos: Photos = None,
    unseen: Unseen = None,
    start: Start = None,
    frozen_norm: FrozenNorm = False,
    augment: Augment = False,
    seed: Annotated[int, typer.Option(help="Of weights, batches and draws.")] = 0,
    device: DeviceName = None,
    workers: Workers = 0,
) -> None:
    """Train an embedding of pictures on the part of DATA that is for training."""
    train, _ = _read(data, photos, unseen, size)
    recipe = Recipe(
        loss=loss,
        miner=miner,
        trunk=trunk,
        dimension=dimension,
        size=size or train.natural_size(trunk),
        steps=steps,
        classes=classes,
        each=each,
        rate=rate,
        frozen_norm=frozen_norm,
        augment=augment,
    )
    if not out.parent.is_dir():
        raise FileNotFoundError(f"there is no folder for {out}")

    def report(step: int, value: float) -> None:
        if step % 50 == 0 or step == steps:
            console.print(f"step {step}/{steps}  loss {value:.4f}")

    network = train_embedding(
        recipe,
        train,
        seed=seed,
        start=read_trunk(start) if start else None,
        device=choose_device(device),
        workers=workers,
        report=report,
    )
    save_embedding(out, Embedding(network, recipe.size, recipe.metric))
    console.print(f"weights in {out}")


def eval_similarity(
    data: Data,
    weights: Annotated[Path | None, typer.Option(help="What train similarity wrote.")] = None,
    compare_losses: Annotated[
        bool,
        typer.Option("--compare", help="Train by every loss and ensemble, and print one table."),
    ] = False,
    losses: Annotated[
        str, typer.Option(help=f"With --compare: some, with commas; also {', '.join(METHODS)}.")
    ] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="With --compare: runs of each.")] = 3,
    folds: Annotated[
        int, typer.Option(min=1, help="With --compare: networks, each without some classes.")
    ] = 1,
    together: Annotated[
        bool, typer.Option("--together", help="With --folds: test their embeddings as one.")
    ] = False,
    trunk: Trunk = "small",
    dimension: Dimension = 16,
    size: Size = None,
    steps: Steps = 100,
    classes: Classes = 5,
    each: Each = 8,
    photos: Photos = None,
    unseen: Unseen = None,
    start: Start = None,
    frozen_norm: FrozenNorm = False,
    augment: Augment = False,
    far: Annotated[
        float, typer.Option(help="With --weights: false accepts that verification may have.")
    ] = 0.01,
    picture: Annotated[
        Path | None, typer.Option(help="With --weights: file for a picture of the embedding.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    device: DeviceName = None,
    workers: Workers = 0,
) -> None:
    """Measure an embedding on the part of DATA it has not seen, or compare all losses."""
    if compare_losses == (weights is not None):
        raise ValueError("give either --weights or --compare")
    train, test = _read(data, photos, unseen, size)
    where = choose_device(device)
    if weights is not None:
        _one(load_embedding(weights, where), test, far, picture, as_json, workers)
        return
    recipe = Recipe(
        trunk=trunk,
        dimension=dimension,
        size=size or train.natural_size(trunk),
        steps=steps,
        classes=classes,
        each=each,
        frozen_norm=frozen_norm,
        augment=augment,
    )
    rows = []
    for row in compare(
        recipe,
        train,
        test,
        losses=(*LOSSES, *METHODS) if losses == "all" else losses.split(","),
        seeds=seeds,
        folds=folds,
        together=together,
        start=read_trunk(start) if start else None,
        device=where,
        workers=workers,
    ):
        rows.append(row)
        console.print(
            f"{row.name}  {row.problem or ''}"
            + ("" if row.problem else f"MAP@R {100 * row.figures['MAP@R'].mean:.1f}")
        )
    if as_json:
        typer.echo(json.dumps(_plain(rows), indent=2, allow_nan=False))
        return
    paper = _paper()
    paper.print(_table(rows))
    paper.print(
        f"{len(train)} pictures of {len(train.classes)} classes for training, {len(test)} of "
        f"{len(test.classes)} for the test; {recipe.trunk}, {recipe.dimension} dimensions, "
        f"{recipe.steps} steps, {seeds} seeds: mean ± half a 95 % interval, percent.\n"
        "Bars: MAP@R. pixels: the pictures themselves; untrained: the network as it starts."
    )


def _one(
    embedding: Embedding,
    test: LabelledImages,
    far: float,
    picture: Path | None,
    as_json: bool,
    workers: int,
) -> None:
    found = embed(embedding.network, test, embedding.size, workers=workers)
    labels = torch.from_numpy(test.labels)
    figures = score(found, labels, embedding.metric) | verified(
        found, labels, embedding.metric, far
    )
    if picture is not None:
        write_image(picture, scatter(found, labels, test.classes))
    if as_json:
        known = {name: None if math.isnan(v) else v for name, v in figures.items()}
        typer.echo(json.dumps(known, indent=2, allow_nan=False))
        return
    table = Table(box=box.SIMPLE, show_edge=False, show_header=False)
    for name, value in figures.items():
        table.add_row(name, f"{value:.4f}" if name == "threshold" else f"{100 * value:.1f} %")
    _paper().print(table)


def _paper() -> Console:
    paper = Console(highlight=False, markup=False, emoji=False)
    # What reads a pipe has no width of its own, and below 140 columns numbers would be cut.
    paper.width = max(paper.width, 100) if paper.is_terminal else 160
    return paper


def _table(rows: list[Row]) -> Table:
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("loss", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        texts = []
        for found in row.figures.values():
            sure = "" if math.isnan(found.margin) else f"±{100 * found.margin:.1f}"
            texts.append("-" if math.isnan(found.mean) else f"{100 * found.mean:.1f}{sure}")
        table.add_row(row.name, *texts, _bar(row.figures["MAP@R"].mean))
    return table


def _bar(share: float, width: int = 24) -> str:
    """A bar in eighths of a character."""
    eighths = 0 if math.isnan(share) else round(8 * width * share)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _plain(rows: list[Row]) -> list[dict[str, object]]:
    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    return [
        {"name": row.name, "problem": row.problem}
        | {
            column: {"mean": number(found.mean), "margin": number(found.margin)}
            for column, found in row.figures.items()
        }
        for row in rows
    ]
