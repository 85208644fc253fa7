"""The comparison of metric learning methods whose runs are files: progress, table, chart."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import typer

from flowmatch.cli._messages import messages
from flowmatch.cli._tables import number_table, print_table, write_json
from flowmatch.draw import bar_chart
from flowmatch.io import write_image
from flowmatch.metric_learning.benchmark import (
    COLUMNS,
    BenchmarkRow,
    Protocol,
    benchmark_rows,
    run_benchmark,
)
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.protocol import Estimate


def run_and_print(
    protocol: Protocol,
    train: LabelledImages,
    test: LabelledImages,
    folder: Path,
    label: str,
    methods: Sequence[str],
    seeds: int,
    device: torch.device,
    json: Path | None,
    picture: Path | None,
) -> None:
    """Run what is missing in a folder of results, and print its table.

    Args:
        protocol: Conditions of all runs.
        train: Pictures of the training classes.
        test: Pictures of the test classes.
        folder: Folder of results.
        label: Name of the data.
        methods: Names of losses and methods.
        seeds: Number of runs of each method.
        device: Training device.
        json: File for the table, ``-`` for the output.
        picture: File for bars of MAP@R.
    """
    done = 0
    try:
        for done, total, run in run_benchmark(
            protocol, train, test, folder, methods=methods, seeds=seeds, device=device
        ):
            messages.print(f"{label}  {done}/{total}  {run}")
    except KeyboardInterrupt:
        messages.print(f"stopped after {done} runs; the same command continues")
        raise typer.Exit(130) from None
    rows = benchmark_rows(folder, protocol, train, test, methods, seeds)
    if picture is not None:
        bars = {
            name: [
                (s["MAP@R"].mean, s["MAP@R"].margin) if s else (math.nan, math.nan)
                for s in (getattr(row, name) for row in rows)
            ]
            for name in ("separate", "concatenated")
        }
        names = [row.name for row in rows]
        title = f"MAP@R on {label}, percent: {seeds} seeds, 95 % intervals"
        write_image(picture, bar_chart(bars, names, title=title))
    if json is None or not write_json(json, [_plain(row) for row in rows]):
        _print(rows, protocol, train, test, label, seeds)


def _print(
    rows: list[BenchmarkRow],
    protocol: Protocol,
    train: LabelledImages,
    test: LabelledImages,
    label: str,
    seeds: int,
) -> None:
    table = number_table(*COLUMNS, *COLUMNS, title="method")
    table.add_column("chosen", no_wrap=True)
    for row in rows:
        cells = [
            _cell(scores[column]) if scores else "-"
            for scores in (row.separate, row.concatenated)
            for column in COLUMNS
        ]
        table.add_row(row.name, *cells, row.chosen)
    recipe = protocol.recipe
    left = f"{protocol.folds}th" if protocol.folds > 3 else ("half", "third")[protocol.folds - 2]
    legend = (
        f"{label}: {len(train)} pictures of {len(train.classes)} classes for training and "
        f"validation, {len(test)} of {len(test.classes)} other classes for the test, "
        f"{recipe.size} pixels.\n"
        f"{recipe.backbone}, {recipe.dimension} dimensions, {recipe.steps} steps of "
        f"{recipe.classes} x {recipe.samples_per_class} pictures; percent, mean ± half a 95 % "
        f"interval of {seeds} seeds.\n"
        f"The first three columns: single networks, each trained without a {left} of the classes, "
        f"for validation;\nthe next three: the embeddings of {protocol.networks} such networks, "
        "concatenated. chosen: of three configurations, on validation classes."
    )
    problems = [f"{row.name} failed: {row.problem}" for row in rows if row.problem]
    print_table(table, "\n".join([legend, *problems]), width=140)


def _cell(value: Estimate) -> str:
    margin = "" if math.isnan(value.margin) else f"±{100 * value.margin:.1f}"
    return f"{100 * value.mean:.1f}{margin}"


def _plain(row: BenchmarkRow) -> dict[str, Any]:
    scores = {
        name: {
            column: {"mean": value.mean, "margin": value.margin} for column, value in part.items()
        }
        for name, part in (("separate", row.separate), ("concatenated", row.concatenated))
    }
    return {
        "name": row.name,
        "chosen": row.chosen,
        "seeds": row.seeds,
        "problem": row.problem,
        **scores,
    }
