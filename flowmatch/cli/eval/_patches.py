"""``flowmatch eval matching --hpatches`` and ``--brown``: patches without images."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flowmatch.cli._messages import progress_bar
from flowmatch.cli._tables import number_table, percent, print_table, write_json
from flowmatch.matching.data.brown import BrownPatches, compare_pairs
from flowmatch.matching.data.hpatches import find_patch_sequences, read_tasks, sample_tasks
from flowmatch.matching.data.stacks import describe_patches
from flowmatch.matching.evaluation.patch_scores import PatchScores, evaluate_patches
from flowmatch.metrics import fpr_at_recall


def eval_hpatches(
    folder: Path, lists: Path | None, split: str, methods: Mapping[str, Any], json: Path | None
) -> None:
    """Print the scores of descriptors in HPatches' three tasks."""
    sequences = find_patch_sequences(folder)
    if lists is None:
        tasks = sample_tasks(sequences)
        source = "pairs sampled by the benchmark's rules (--lists uses its own)"
    else:
        tasks = read_tasks(lists, split, sequences)
        names = {int(n) for table in tasks for n in np.unique(table[:, 0])}
        source = f"the benchmark's lists of split {split}, {len(names)} sequences named"
    scores: dict[str, PatchScores] = {}
    with progress_bar(transient=True) as bar:
        task = bar.add_task("eval", total=len(sequences) * len(methods))
        for name, network in methods.items():
            scores[name] = evaluate_patches(
                sequences,
                tasks,
                partial(describe_patches, network),
                progress=lambda *_: bar.advance(task),
            )
    about = {"folder": str(folder), "sequences": len(sequences), "tasks": source}
    tables = {name: score._asdict() for name, score in scores.items()}
    if json is not None and write_json(json, about | {"scores": tables}):
        return
    table = number_table("verification", "AUC", "matching", "easy", "hard", "tough", "retrieval")
    for name, score in scores.items():
        mean = score.means()
        values = [mean["verification"], mean["balanced"], mean["matching"]]
        values += [*score.matching.values(), mean["retrieval"]]
        table.add_row(name, *(percent(value, 2) for value in values))
    legend = (
        f"{len(sequences)} sequences, {source}.\n"
        "verification, retrieval: mAP in percent, the mean of easy, hard and tough patches; AUC: "
        "verification, balanced.\n"
        "matching: mAP in percent, then of easy, hard and tough patches alone."
    )
    print_table(table, legend)


def eval_brown(
    folder: Path, pairs_file: Path | None, methods: Mapping[str, Any], json: Path | None
) -> None:
    """Print the false positive rates of networks on Brown's patches."""
    patches = BrownPatches(folder)
    pairs = patches.pairs(pairs_file)
    rates = {}
    with progress_bar(transient=True) as bar:
        for name, network in bar.track(methods.items(), description="eval"):
            similarities = compare_pairs(network, patches, pairs)
            rates[name] = fpr_at_recall(similarities[pairs.same], similarities[~pairs.same])
    about = {"folder": str(folder), "pairs": len(pairs.same)}
    if json is not None and write_json(json, about | {"fpr95": rates}):
        return
    table = number_table("FPR95")
    for name, rate in rates.items():
        table.add_row(name, percent(rate, 2))
    legend = (
        f"{len(pairs.same)} pairs, {pairs.same.sum()} of them corresponding.\n"
        "FPR95: percent of non-corresponding patches accepted with 95 % of corresponding ones."
    )
    print_table(table, legend)
