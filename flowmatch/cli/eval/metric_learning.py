"""``flowmatch eval metric-learning``: one embedding, or a table of all losses and ensembles."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.table import Table

from flowmatch.cli._benchmark import run_and_print
from flowmatch.cli._embedding import (
    DATA_HELP,
    Augment,
    Backbone,
    Classes,
    Dimension,
    FrozenNorm,
    Hard,
    Parts,
    Photos,
    ReadingWorkers,
    SamplesPerClass,
    Size,
    Start,
    Steps,
    Unseen,
    read_parts,
)
from flowmatch.cli._messages import messages, progress_bar
from flowmatch.cli._options import (
    MODEL,
    OUTPUT,
    DeviceName,
    JsonFile,
    WhiteLevel,
    check_output_folder,
    check_target,
    check_weights_file,
)
from flowmatch.cli._tables import (
    number,
    number_table,
    percent,
    print_table,
    stdout_console,
    write_json,
)
from flowmatch.devices import choose_device
from flowmatch.draw import bar_chart
from flowmatch.draw.scatter import scatter
from flowmatch.imaging import Image
from flowmatch.io import IMAGE_SUFFIXES, write_image
from flowmatch.metric_learning.benchmark import Protocol
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

EXAMPLES = (
    "flowmatch eval metric-learning digits --weights runs/triplet.safetensors --picture map.png",
    "flowmatch eval metric-learning numbers --compare --runs runs/numbers --seeds 5",
)
COMPARISON = "Comparison of losses"


def command(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA",
            help=f"Data: {DATA_HELP}; with --compare, several for one table.",
            show_default=False,
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            callback=check_weights_file,
            help="File that flowmatch train metric-learning wrote, .safetensors.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    false_accept_rate: Annotated[
        float,
        typer.Option(help="False accept rate of verification.", rich_help_panel=MODEL),
    ] = 0.01,
    white: WhiteLevel = None,
    device: DeviceName = None,
    json: JsonFile = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Picture to write: the embedding; with --compare, bars of MAP@R.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    compare_losses: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Training by all losses and ensembles, and one table of them, instead of "
            "--weights.",
            rich_help_panel=COMPARISON,
        ),
    ] = False,
    losses: Annotated[
        str,
        typer.Option(
            help=f"Losses and ensembles to compare, with commas; ensembles: {', '.join(METHODS)}; "
            "with --runs, LOSS@MINER for another miner than the paper's.",
            rich_help_panel=COMPARISON,
        ),
    ] = "all",
    seeds: Annotated[
        int,
        typer.Option(min=1, help="Number of runs of each loss.", rich_help_panel=COMPARISON),
    ] = 3,
    folds: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of networks per run, each trained without a part of the classes.",
            rich_help_panel=COMPARISON,
        ),
    ] = 1,
    together: Annotated[
        bool,
        typer.Option(
            "--together",
            help="Test of the embeddings of all folds as one, concatenated.",
            rich_help_panel=COMPARISON,
        ),
    ] = False,
    runs: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of results, one file for each run: hyper-parameters of each method are "
            "chosen on validation classes, and runs that the folder has are not repeated.",
            show_default=False,
            rich_help_panel=COMPARISON,
        ),
    ] = None,
    backbone: Backbone = "small",
    dimension: Dimension = 16,
    steps: Steps = 100,
    classes: Classes = 5,
    samples_per_class: SamplesPerClass = 8,
    start: Start = None,
    frozen_norm: FrozenNorm = False,
    size: Size = None,
    photos: Photos = None,
    parts: Parts = 0,
    hard: Hard = False,
    unseen: Unseen = None,
    augment: Augment = False,
    workers: ReadingWorkers = 0,
) -> None:
    """Measure one embedding, or compare all losses.

    The scores are those of the test part of the data, which training does not see.
    """
    if compare_losses == (weights is not None):
        raise ValueError("give either --weights or --compare")
    check_target(json)
    check_target(picture, IMAGE_SUFFIXES)
    target = choose_device(device)
    if weights is not None:
        if len(data) > 1:
            raise ValueError(f"--weights are measured on one DATA, got {len(data)}")
        _, test = _read_parts(data[0], photos, unseen, size, parts, hard)
        network = load(weights, device=target)
        _eval_weights(network, test, false_accept_rate, picture, json, workers)
        return
    names = (*LOSSES, *METHODS) if losses == "all" else tuple(losses.split(","))
    if runs is not None:
        if len(data) > 1 or together or start is not None:
            raise ValueError("--runs takes one DATA, and neither --together nor --start")
        check_output_folder(runs, (".json",))
        train, test = _read_parts(data[0], photos, unseen, size, parts, hard)
        recipe = Recipe(
            backbone=backbone,
            dimension=dimension,
            size=size or train.natural_size(backbone),
            steps=steps,
            classes=classes,
            samples_per_class=samples_per_class,
            decay=True,
            frozen_norm=frozen_norm,
            augment=augment,
        )
        protocol = Protocol(recipe, max(1, steps // 3), max(folds, 4), max(folds, 2))
        label = Path(data[0]).name or data[0]
        run_and_print(protocol, train, test, runs, label, names, seeds, target, json, picture)
        return
    tables: dict[str, list[ComparisonRow]] = {}
    notes = []
    for source in data:
        train, test = _read_parts(source, photos, unseen, size, parts, hard)
        recipe = Recipe(
            backbone=backbone,
            dimension=dimension,
            size=size or train.natural_size(backbone),
            steps=steps,
            classes=classes,
            samples_per_class=samples_per_class,
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
            device=target,
            workers=workers,
        )
        label = Path(source).name or source
        tables[label] = _collect(rows, label, len(names) + 2)
        notes.append(
            f"{label}: {len(train)} pictures of {len(train.classes)} classes for training, "
            f"{len(test)} of {len(test.classes)} for the test, {recipe.size} pixels."
        )
    if picture is not None:
        write_image(picture, _chart(tables, seeds))
    content = {label: [_plain(row) for row in rows] for label, rows in tables.items()}
    if json is None or not write_json(json, content):
        legend = (
            "\n".join(notes)
            + f"\n{backbone}, {dimension} dimensions, {steps} steps, {seeds} seeds: mean ± half a "
            "95 % interval, percent.\n"
            "Bars: MAP@R. pixels: raw pixels as embeddings; untrained: the network before training."
        )
        print_table(_table(tables), legend, width=140)


def _read_parts(
    data: str, photos: Path | None, unseen: str | None, size: int | None, parts: int, hard: bool
) -> tuple[LabelledImages, LabelledImages]:
    """Read data as `read_parts` does; the test part must have pictures."""
    train, test = read_parts(data, photos, unseen, size, parts, hard)
    if not len(test):
        raise ValueError(
            f"{data}: no pictures are left for the test: --unseen nothing takes all of them"
        )
    return train, test


def _collect(rows: Iterator[ComparisonRow], label: str, total: int) -> list[ComparisonRow]:
    """Collect rows; print a line for each one, and the time left."""
    collected = []
    with progress_bar(transient=True) as bar:
        for row in bar.track(rows, total=total, description=label):
            collected.append(row)
            result = row.problem or f"MAP@R {percent(row.scores['MAP@R'].mean)}"
            messages.print(f"{label}  {row.name}  {result}")
    return collected


def _chart(tables: dict[str, list[ComparisonRow]], seeds: int) -> Image:
    bars = {
        label: [(row.scores["MAP@R"].mean, row.scores["MAP@R"].margin) for row in rows]
        for label, rows in tables.items()
    }
    names = [row.name for row in next(iter(tables.values()))]
    return bar_chart(bars, names, title=f"MAP@R, percent: {seeds} seeds, 95 % intervals")


def _eval_weights(
    network: EmbeddingNet,
    test: LabelledImages,
    false_accept_rate: float,
    picture: Path | None,
    json: Path | None,
    workers: int,
) -> None:
    embeddings = embed(network, test, network.size, workers=workers)
    labels = torch.from_numpy(test.labels)
    scores = score(embeddings, labels, network.metric) | verification_scores(
        embeddings, labels, network.metric, false_accept_rate
    )
    if picture is not None:
        points = embeddings.cpu().numpy()
        write_image(picture, scatter(points, labels.cpu().numpy(), test.classes))
    if json is not None and write_json(json, scores):
        return
    table = Table(box=box.SIMPLE, show_edge=False, show_header=False)
    for name, value in scores.items():
        text = number(value, 4) if name == "threshold" else percent(value)
        table.add_row(name, text if name == "threshold" or math.isnan(value) else f"{text} %")
    if any(map(math.isnan, scores.values())):
        count = f"{len(test)} test pictures of {len(test.classes)} classes"
        print_table(table, f"-: {count} have too few pairs for this score")
    else:
        stdout_console().print(table)


def _table(tables: dict[str, list[ComparisonRow]]) -> Table:
    table = number_table(*COLUMNS, title="loss")
    table.add_column("", no_wrap=True)
    for label, rows in tables.items():
        if len(tables) > 1:
            table.add_section()
            table.add_row(label)
        for row in rows:
            cells = []
            for value in row.scores.values():
                margin = "" if math.isnan(value.margin) else f"±{100 * value.margin:.1f}"
                cells.append("-" if math.isnan(value.mean) else f"{100 * value.mean:.1f}{margin}")
            table.add_row(row.name, *cells, _bar(row.scores["MAP@R"].mean))
    return table


def _bar(share: float, width: int = 24) -> str:
    """Return a bar in steps of an eighth of a character."""
    eighths = 0 if math.isnan(share) else round(8 * width * share)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _plain(row: ComparisonRow) -> dict[str, Any]:
    return {"name": row.name, "problem": row.problem} | {
        column: {"mean": value.mean, "margin": value.margin} for column, value in row.scores.items()
    }
