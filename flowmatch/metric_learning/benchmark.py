"""A table of all methods under equal conditions, by hyper-parameters chosen in validation.

Every method gets the same network, batches, number of steps and number of tried configurations. The
test classes are seen once per run, after all choices. Results of runs are files, so that a
comparison may be stopped and continued, and extended by methods and seeds.
"""

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.metric_learning.configurations import Configuration, configurations
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.fit import Recipe, embed, with_loss
from flowmatch.metric_learning.losses import LOSSES
from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.methods import METHODS, Method, train_method
from flowmatch.metric_learning.metrics import retrieval_scores
from flowmatch.metric_learning.miners import MINERS
from flowmatch.metric_learning.protocol import Estimate, class_folds, estimate, raw_pixels
from flowmatch.metric_learning.run_files import RunFiles

COLUMNS = ("P@1", "RP", "MAP@R")
BASELINES = ("pixels", "untrained")


@dataclass(frozen=True)
class Protocol:
    """Conditions that all methods of a table share.

    Attributes:
        recipe: Network, batches and number of steps; the loss, its options and the rate are those
            of each method.
        every: Number of steps between measurements on the validation classes. The state of the
            network with the highest MAP@R there is the one that is tested.
        folds: Number of parts of the training classes. Each network leaves one out for validation.
        networks: Number of networks of a run, which leave out different parts; they are tested
            separately, and with their embeddings concatenated.
    """

    recipe: Recipe
    every: int = 100
    folds: int = 4
    networks: int = 2

    def __post_init__(self) -> None:
        at_least(1, every=self.every, networks=self.networks)
        at_least(self.every, steps=self.recipe.steps)
        at_least(max(2, self.networks), folds=self.folds)


@dataclass(frozen=True)
class BenchmarkRow:
    """One row of the table.

    Attributes:
        name: Name of the method, or one of `BASELINES`.
        chosen: Configuration that the search has chosen; empty for baselines.
        separate: Scores of single networks, by name of `COLUMNS`.
        concatenated: Scores of the concatenated embeddings of the networks of a run.
        seeds: Number of runs; 0 if the method has failed.
        problem: Reason of the failure.
    """

    name: str
    chosen: str
    separate: dict[str, Estimate]
    concatenated: dict[str, Estimate]
    seeds: int
    problem: str | None = None


def run_benchmark(
    protocol: Protocol,
    train: LabelledImages,
    test: LabelledImages,
    folder: Path,
    *,
    methods: Sequence[str] = (*LOSSES, *METHODS),
    seeds: int = 5,
    device: str | torch.device = "cpu",
) -> Iterator[tuple[int, int, str]]:
    """Run what is missing in a folder of results: the search of each method, then its seeds.

    Args:
        protocol: Conditions of all runs.
        train: Pictures of the training classes, of which each network leaves out a part.
        test: Pictures of the test classes.
        folder: Folder of results, a JSON file for each run.
        methods: Names in `LOSSES` or `METHODS`, or ``LOSS@MINER`` for a loss with another miner
            than that of its paper, ``none`` for the whole batch.
        seeds: Number of runs of each method.
        device: Training device.

    Yields:
        Number of finished runs, number of all, and the last one in words. A run of a method that
        fails is recorded as such, and the others continue.

    Raises:
        ImportError: A library of a loss or miner is missing.
        ValueError: A method is unknown, or a file in the folder belongs to other conditions.
    """
    at_least(1, seeds=seeds)
    store = RunFiles(folder, _conditions(protocol), train, test)
    for name in methods:
        _check_method(name)
    jobs = [(name, "search", n) for name in methods for n in range(len(configurations(name)))]
    jobs += [("pixels", "seed", 0)]
    jobs += [(name, "seed", n) for n in range(seeds) for name in ("untrained", *methods)]
    for done, (name, kind, n) in enumerate(jobs, 1):
        if store.read(name, kind, n) is None:
            store.write(name, kind, n, _run(protocol, train, test, store, name, kind, n, device))
        yield done, len(jobs), f"{name} {kind} {n}"


def _check_method(name: str) -> None:
    loss, at, miner = name.partition("@")
    if loss not in LOSSES and (at or loss not in METHODS):
        raise ValueError(f"method must be one of {', '.join((*LOSSES, *METHODS))}, got {loss!r}")
    if at and miner not in ("none", *MINERS):
        raise ValueError(f"miner must be one of none, {', '.join(MINERS)}, got {miner!r}")
    if at and miner != "none" and not getattr(LOSSES[loss], "takes_tuples", False):
        raise ValueError(f"loss {loss} compares the whole batch, got miner {miner}")


def _run(
    protocol: Protocol,
    train: LabelledImages,
    test: LabelledImages,
    store: RunFiles,
    name: str,
    kind: str,
    number: int,
    device: str | torch.device,
) -> dict[str, Any]:
    """Run one job; the result is what its file contains."""
    start = time.process_time()
    if name == "pixels":
        scores = _scores(raw_pixels(test, protocol.recipe.size), test, "l2")
        return {"separate": scores, "concatenated": scores}
    if kind == "search":
        chosen = configurations(name)[number]
    elif name == "untrained":
        chosen = Configuration(0.0, {})
    else:
        best = store.chosen(name)
        if best is None:
            reason = (store.read(name, "search", 0) or {}).get("problem")
            return {"problem": f"no configuration could be trained: {reason}"}
        chosen = best
    try:
        if kind == "search":
            histories = [_train(protocol, name, chosen, train, 0, 0, device)[1]]
            result: dict[str, Any] = {"validation": max(value for _, value in histories[0])}
        else:
            result, histories = _test(protocol, name, chosen, train, test, number, device)
    except ValueError as error:  # a method that does not fit must not stop the others
        return {"problem": str(error)}
    return {
        **result,
        "rate": chosen.rate,
        "options": dict(chosen.options),
        "histories": histories,
        "seconds": round(time.process_time() - start, 2),
    }


def _test(
    protocol: Protocol,
    name: str,
    chosen: Configuration,
    train: LabelledImages,
    test: LabelledImages,
    seed: int,
    device: str | torch.device,
) -> tuple[dict[str, Any], list[list[tuple[int, float]]]]:
    """Train the networks of a seed, and test them separately and together."""
    loss = name.partition("@")[0]
    metric = "cosine" if loss not in LOSSES else with_loss(protocol.recipe, loss).metric
    embeddings, histories = [], []
    for number in range(protocol.networks):
        method, history = _train(protocol, name, chosen, train, seed, number, device)
        part = embed(method, test, protocol.recipe.size)
        embeddings.append(F.normalize(part, dim=1) if metric == "cosine" else part)
        histories.append(history)
    rows = [_scores(part, test, "l2") for part in embeddings]
    separate = {column: sum(row[column] for row in rows) / len(rows) for column in COLUMNS}
    together = _scores(torch.cat(embeddings, 1), test, "l2")
    return {"separate": separate, "concatenated": together}, histories


def _train(
    protocol: Protocol,
    name: str,
    chosen: Configuration,
    train: LabelledImages,
    seed: int,
    number: int,
    device: str | torch.device,
) -> tuple[Method, list[tuple[int, float]]]:
    """Train a network; return its best state, and steps and MAP@R on the validation classes."""
    untrained = name == "untrained"
    name, _, miner = name.partition("@")
    # ProxyNCA needs no library, and compares cosines as the methods of METHODS do.
    recipe = with_loss(protocol.recipe, name if name in LOSSES else "proxynca")
    recipe = replace(recipe, rate=chosen.rate, options=dict(chosen.options))
    recipe = replace(recipe, steps=0) if untrained else recipe
    recipe = replace(recipe, miner=miner or recipe.miner)
    fold = (seed * protocol.networks + number) % protocol.folds
    kept, left = class_folds(len(train.classes), protocol.folds)[fold]
    part, validation = train.select_classes(kept), train.select_classes(left)
    history: list[tuple[int, float]] = []
    best: dict[str, Tensor] = {}

    def check(method: Method, step: int) -> None:
        if step % protocol.every:
            return
        embeddings = embed(method.eval(), validation, recipe.size)
        method.train()
        value = _scores(embeddings, validation, recipe.metric)["MAP@R"]
        if all(value > other for _, other in history):
            best.clear()
            best.update(copy.deepcopy(method.state_dict()))
        history.append((step, round(value, 6)))

    method = train_method(
        "proxynca" if untrained else name,
        recipe,
        part,
        seed=seed * 1009 + number,
        device=device,
        check=check,
    )
    if best:
        method.load_state_dict(best)
    return method, history


def _conditions(protocol: Protocol) -> dict[str, Any]:
    """Return what all methods share, for `RunFiles`."""
    own = ("loss", "miner", "rate", "options")
    recipe = {k: v for k, v in asdict(protocol.recipe).items() if k not in own}
    return recipe | {k: getattr(protocol, k) for k in ("every", "folds", "networks")}


def _scores(embeddings: Tensor, images: LabelledImages, metric: str) -> dict[str, float]:
    scores = retrieval_scores(embeddings, torch.from_numpy(images.labels), (1,), metric=metric)
    values = (scores.precision_at_1, scores.r_precision, scores.map_at_r)
    return dict(zip(COLUMNS, values, strict=True))


def benchmark_rows(
    folder: Path,
    protocol: Protocol,
    train: LabelledImages,
    test: LabelledImages,
    methods: Sequence[str] = (*LOSSES, *METHODS),
    seeds: int = 5,
) -> list[BenchmarkRow]:
    """Collect the table from a folder of results.

    Args:
        folder: Folder that `run_benchmark` has filled.
        protocol: Conditions of the runs.
        train: Pictures of the training classes.
        test: Pictures of the test classes.
        methods: Names as `run_benchmark` takes them; those without results are left out.
        seeds: Highest number of runs of each method.

    Returns:
        The rows that have results; baselines first.

    Raises:
        ValueError: A file is damaged, or belongs to other conditions.
    """
    store = RunFiles(folder, _conditions(protocol), train, test)
    rows = []
    for name in (*BASELINES, *methods):
        results = [store.read(name, "seed", seed) for seed in range(seeds)]
        finished = [result for result in results if result is not None]
        problem = next((r["problem"] for r in finished if "problem" in r), None)
        if not finished:
            continue
        chosen = store.chosen(name) if name not in BASELINES else None
        separate, concatenated = (
            {column: estimate([result[kind][column] for result in finished]) for column in COLUMNS}
            if problem is None
            else {}
            for kind in ("separate", "concatenated")
        )
        count = len(finished) if problem is None else 0
        row = BenchmarkRow(name, str(chosen or ""), separate, concatenated, count, problem)
        rows.append(row)
    return rows
