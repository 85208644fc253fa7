"""``flowmatch eval metric-learning``: one embedding, or the table of all losses and ensembles."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from flowmatch.cli._messages import (
    messages,
    progress_bar,
)
from flowmatch.cli._options import (
    DeviceName,
)
from flowmatch.cli.train.metric_learning import (
    Augment,
    Backbone,
    Classes,
    Dimension,
    Each,
    FrozenNorm,
    Photos,
    Size,
    Start,
    Steps,
    Unseen,
    Workers,
    read_parts,
)
from flowmatch.devices import choose_device
from flowmatch.draw import bar_chart
from flowmatch.draw.scatter import scatter
from flowmatch.imaging import Image
from flowmatch.io import write_image
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.fit import Recipe, embed, read_backbone
from flowmatch.metric_learning.losses import LOSSES
from flowmatch.metric_learning.methods import METHODS
from flowmatch.metric_learning.networks import EmbeddingNet
from flowmatch.metric_learning.protocol import (
    COLUMNS,
    ComparisonRow,
    compare,
    score,
    verification_scores,
)
from flowmatch.metric_learning.store import load

Sets = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA...",
        help="As in train metric-learning; with --compare several, for one table. --photos is for "
        "those that are neither digits nor folders of classes.",
        show_default=False,
    ),
]


def command(
    data: Sets,
    weights: Annotated[Path | None, typer.Option(help="What train metric-learning wrote.")] = None,
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
    backbone: Backbone = "small",
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
        Path | None,
        typer.Option(
            help="File for a picture: of the embedding; with --compare, bars of MAP@R.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    device: DeviceName = None,
    workers: Workers = 0,
) -> None:
    """Measure an embedding on the part of DATA it has not seen, or compare all losses."""
    if compare_losses == (weights is not None):
        raise ValueError("give either --weights or --compare")
    where = choose_device(device)
    if weights is not None:
        if len(data) > 1:
            raise ValueError(f"--weights are measured on one DATA, got {len(data)}")
        _, test = read_parts(data[0], photos, unseen, size)
        _one(load(weights, device=where), test, far, picture, as_json, workers)
        return
    if picture is not None and not picture.parent.is_dir():
        raise FileNotFoundError(f"there is no folder for {picture}")
    names = (*LOSSES, *METHODS) if losses == "all" else tuple(losses.split(","))
    found: dict[str, list[ComparisonRow]] = {}
    notes = []
    for one in data:
        train, test = read_parts(one, photos, unseen, size)
        recipe = Recipe(
            backbone=backbone,
            dimension=dimension,
            size=size or train.natural_size(backbone),
            steps=steps,
            classes=classes,
            samples_per_class=each,
            frozen_norm=frozen_norm,
            augment=augment,
        )
        rows = compare(
            recipe,
            train,
            test,
            losses=names,
            seeds=seeds,
            folds=folds,
            together=together,
            start=read_backbone(start) if start else None,
            device=where,
            workers=workers,
        )
        label = Path(one).name or one
        found[label] = _watched(rows, label, len(names) + 2)
        notes.append(
            f"{label}: {len(train)} pictures of {len(train.classes)} classes for training, "
            f"{len(test)} of {len(test.classes)} for the test, {recipe.size} pixels."
        )
    if picture is not None:
        write_image(picture, _chart(found, seeds))
    if as_json:
        plain = {label: _plain(rows) for label, rows in found.items()}
        typer.echo(json.dumps(plain, indent=2, allow_nan=False))
        return
    paper = _paper()
    paper.print(_table(found))
    paper.print(
        "\n".join(notes) + f"\n{backbone}, {dimension} dimensions, {steps} steps, {seeds} seeds: "
        "mean ± half a 95 % interval, percent.\n"
        "Bars: MAP@R. pixels: the pictures themselves; untrained: the network as it starts."
    )


def _watched(rows: Iterator[ComparisonRow], label: str, total: int) -> list[ComparisonRow]:
    """Collect rows, each with a line when it is done, and the time left."""
    found = []
    with progress_bar(transient=True) as bar:
        for row in bar.track(rows, total=total, description=label):
            found.append(row)
            told = row.problem or f"MAP@R {100 * row.scores['MAP@R'].mean:.1f}"
            messages.print(f"{label}  {row.name}  {told}")
    return found


def _chart(found: dict[str, list[ComparisonRow]], seeds: int) -> Image:
    bars = {
        label: [(row.scores["MAP@R"].mean, row.scores["MAP@R"].margin) for row in rows]
        for label, rows in found.items()
    }
    names = [row.name for row in next(iter(found.values()))]
    return bar_chart(bars, names, title=f"MAP@R, percent: {seeds} seeds, 95 % intervals")


def _one(
    network: EmbeddingNet,
    test: LabelledImages,
    far: float,
    picture: Path | None,
    as_json: bool,
    workers: int,
) -> None:
    found = embed(network, test, network.size, workers=workers)
    labels = torch.from_numpy(test.labels)
    figures = score(found, labels, network.metric) | verification_scores(
        found, labels, network.metric, far
    )
    if picture is not None:
        write_image(picture, scatter(found.cpu().numpy(), labels.cpu().numpy(), test.classes))
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


def _table(found: dict[str, list[ComparisonRow]]) -> Table:
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("loss", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for label, rows in found.items():
        if len(found) > 1:
            table.add_section()
            table.add_row(label)
        for row in rows:
            texts = []
            for figure in row.scores.values():
                sure = "" if math.isnan(figure.margin) else f"±{100 * figure.margin:.1f}"
                texts.append("-" if math.isnan(figure.mean) else f"{100 * figure.mean:.1f}{sure}")
            table.add_row(row.name, *texts, _bar(row.scores["MAP@R"].mean))
    return table


def _bar(share: float, width: int = 24) -> str:
    """A bar in eighths of a character."""
    eighths = 0 if math.isnan(share) else round(8 * width * share)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _plain(rows: list[ComparisonRow]) -> list[dict[str, object]]:
    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    return [
        {"name": row.name, "problem": row.problem}
        | {
            column: {"mean": number(found.mean), "margin": number(found.margin)}
            for column, found in row.scores.items()
        }
        for row in rows
    ]
