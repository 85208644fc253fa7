"""``flowmatch eval matching --hpatches``, ``--brown``: patches without their images."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.table import Table

from flowmatch.cli._messages import (
    progress_bar,
)
from flowmatch.cli._tables import (
    number_table,
    stdout_console,
)
from flowmatch.matching.data.brown import BrownPatches, similarities_of_pairs
from flowmatch.matching.data.hpatches import draw_tasks, find_patch_sequences, read_tasks
from flowmatch.matching.data.stacks import describe_patches
from flowmatch.matching.evaluation.patch_scores import PatchScores, evaluate_patches
from flowmatch.metrics import fpr_at_recall


def eval_hpatches(
    folder: Path, lists: Path | None, split: str, methods: Mapping[str, Any], as_json: bool
) -> None:
    """Print what descriptors score on HPatches' three tasks."""
    sequences = find_patch_sequences(folder)
    if lists is None:
        tasks = draw_tasks(sequences)
        source = "pairs drawn by the benchmark's rules (--lists takes its own)"
    else:
        tasks = read_tasks(lists, split, sequences)
        named = {int(n) for table in tasks for n in np.unique(table[:, 0])}
        source = f"the benchmark's lists of split {split}, {len(named)} sequences named"
    scores: dict[str, PatchScores] = {}
    with progress_bar(transient=True) as bar:
        task = bar.add_task("eval", total=len(sequences) * len(methods))
        for name, network in methods.items():
            scores[name] = evaluate_patches(
                sequences,
                tasks,
                partial(describe_patches, network),
                report=lambda *_: bar.advance(task),
            )
    if as_json:
        about = {"folder": str(folder), "sequences": len(sequences), "tasks": source}
        tables = {name: one._asdict() for name, one in scores.items()}
        typer.echo(json.dumps(about | {"scores": tables}, indent=2))
        return
    table = number_table()
    for column in ("verification", "AUC", "matching", "easy", "hard", "tough", "retrieval"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, one in scores.items():
        mean = one.means()
        values = [mean["verification"], mean["balanced"], mean["matching"]]
        values += [*one.matching.values(), mean["retrieval"]]
        table.add_row(name, *(f"{100 * value:.2f}" for value in values))
    _print(
        table,
        f"{len(sequences)} sequences, {source}.",
        "verification, retrieval: mAP in percent, the mean of easy, hard and tough patches; AUC: "
        "verification, balanced.",
        "matching: mAP in percent, and of easy, hard and tough patches alone.",
    )


def eval_brown(folder: Path, pairs: Path | None, methods: Mapping[str, Any], as_json: bool) -> None:
    """Print the false positive rates of what describes or compares Brown's patches."""
    patches = BrownPatches(folder)
    listed = patches.pairs(pairs)
    rates = {}
    with progress_bar(transient=True) as bar:
        for name, network in bar.track(methods.items(), description="eval"):
            similar = similarities_of_pairs(network, patches, listed)
            rates[name] = fpr_at_recall(similar[listed.alike], similar[~listed.alike])
    if as_json:
        about = {"folder": str(folder), "pairs": len(listed.alike)}
        typer.echo(json.dumps(about | {"fpr95": rates}, indent=2))
        return
    table = number_table()
    table.add_column("FPR95", justify="right", no_wrap=True)
    for name, rate in rates.items():
        table.add_row(name, f"{100 * rate:.2f}")
    _print(
        table,
        f"{len(listed.alike)} pairs, {listed.alike.sum()} of them of one point.",
        "FPR95: percent of different patches accepted where 95 % of those of one point are.",
    )


def _print(table: Table, *legend: str) -> None:
    console = stdout_console()
    console.print(table)
    console.print()
    console.print("\n".join(legend))
