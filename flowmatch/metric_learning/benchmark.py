"""A table of all methods under equal conditions, with hyper-parameters chosen on validation classes.

Every method gets the same network, batches, number of steps and number of tried configurations. The
test classes are seen once per run, after all choices. Results of runs are files, so that a
comparison may be stopped and continued, and extended by methods and seeds.
"""

import copy
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.io._files import replace_when_done
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.fit import Recipe, embed, with_loss
from flowmatch.metric_learning.losses import LOSSES
from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.methods import METHODS, Method, train_method
from flowmatch.metric_learning.metrics import retrieval_scores
from flowmatch.metric_learning.protocol import Estimate, class_folds, estimate, raw_pixels

COLUMNS = ("P@1", "RP", "MAP@R")
BASELINES = ("pixels", "untrained")

# Three configurations of each method: the option in SEARCHED at both of its values with the first
# rate, and at the first value with the second rate; without an option, three rates.
RATES = (3e-3, 1e-2)
RATES_ALONE = (1e-3, 3e-3, 1e-2)
# For each loss, the option that its paper tunes: the paper's value, and one for small embeddings.
SEARCHED: dict[str, tuple[str, float, float]] = {
    "contrastive": ("margin", 1.0, 0.5),
    "hadsell": ("margin", 1.0, 2.0),
    "triplet": ("margin", 0.2, 0.1),
    "lifted": ("margin", 1.0, 0.5),
    "npairs": ("weight", 0.005, 0.05),
    "angular": ("degrees", 45.0, 36.0),
    "npairs-angular": ("degrees", 45.0, 36.0),
    "margin": ("beta", 1.2, 0.8),
    "multi-similarity": ("beta", 50.0, 20.0),
    "snr": ("margin", 1.0, 0.5),
    "bias-corrected": ("margin", 0.2, 0.1),
    "circle": ("scale", 80.0, 20.0),
    "supcon": ("temperature", 0.1, 0.3),
    "nt-xent": ("temperature", 0.1, 0.3),
    "cross-batch-memory": ("size", 512, 128),
    "ranked-list": ("margin", 0.4, 0.2),
    "fastap": ("bins", 10, 20),
    "facility-location": ("gamma", 1.0, 0.2),
    "proxynca": ("scale", 9.0, 18.0),
    "proxynca++": ("temperature", 1 / 9, 1 / 18),
    "proxy-anchor": ("scale", 32.0, 16.0),
    "softtriple": ("scale", 20.0, 10.0),
    "normalised-softmax": ("temperature", 0.05, 0.1),
    "cosface": ("scale", 64.0, 16.0),
    "arcface": ("scale", 64.0, 16.0),
    "sub-centre-arcface": ("scale", 64.0, 16.0),
    "group": ("temperature", 24.0, 8.0),
}


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
class Configuration:
    """Hyper-parameters of a method.

    Attributes:
        rate: Learning rate.
        options: Arguments of the loss's constructor.
    """

    rate: float
    options: Mapping[str, float]

    def __str__(self) -> str:
        words = [f"{name} {value:.3g}" for name, value in self.options.items()]
        return ", ".join([*words, f"rate {self.rate:g}"])


def configurations(name: str) -> list[Configuration]:
    """Return the configurations that the search tries, the same number for every method.

    Args:
        name: Name in `LOSSES` or `METHODS`.

    Example:
        >>> print(configurations("triplet")[0])
        margin 0.2, rate 0.003
    """
    if name not in SEARCHED:
        return [Configuration(rate, {}) for rate in RATES_ALONE]
    option, first, second = SEARCHED[name]
    return [
        Configuration(RATES[0], {option: first}),
        Configuration(RATES[0], {option: second}),
        Configuration(RATES[1], {option: first}),
    ]


@dataclass(frozen=True)
class BenchmarkRow:
    """One row of the table.

    Attributes:
        name: Name in `LOSSES` or `METHODS`, or one of `BASELINES`.
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
        methods: Names in `LOSSES` or `METHODS`.
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
    store = _Store(folder, protocol, train, test)
    for name in methods:
        if name not in LOSSES and name not in METHODS:
            raise ValueError(
                f"method must be one of {', '.join((*LOSSES, *METHODS))}, got {name!r}"
            )
    jobs = [(name, "search", n) for name in methods for n in range(len(configurations(name)))]
    jobs += [("pixels", "seed", 0)]
    jobs += [(name, "seed", n) for n in range(seeds) for name in ("untrained", *methods)]
    for done, (name, kind, n) in enumerate(jobs, 1):
        if store.read(name, kind, n) is None:
            store.write(name, kind, n, _run(protocol, train, test, store, name, kind, n, device))
        yield done, len(jobs), f"{name} {kind} {n}"


def _run(
    protocol: Protocol,
    train: LabelledImages,
    test: LabelledImages,
    store: "_Store",
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
            return {"problem": "no configuration could be trained"}
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
    metric = "cosine" if name not in LOSSES else with_loss(protocol.recipe, name).metric
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
    # ProxyNCA needs no library, and compares cosines as the methods of METHODS do.
    recipe = with_loss(protocol.recipe, name if name in LOSSES else "proxynca")
    recipe = replace(recipe, rate=chosen.rate, options=dict(chosen.options))
    recipe = replace(recipe, steps=0) if untrained else recipe
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
        methods: Names in `LOSSES` or `METHODS`; those without results are left out.
        seeds: Highest number of runs of each method.

    Returns:
        The rows that have results; baselines first.

    Raises:
        ValueError: A file is damaged, or belongs to other conditions.
    """
    store = _Store(folder, protocol, train, test)
    rows = []
    for name in (*BASELINES, *methods):
        results = [store.read(name, "seed", seed) for seed in range(seeds)]
        finished = [result for result in results if result is not None]
        problem = next((r["problem"] for r in finished if "problem" in r), None)
        if not finished:
            continue
        chosen = store.chosen(name) if name not in BASELINES else None
        scores = [
            {
                column: estimate([result[kind][column] for result in finished])
                for column in COLUMNS
            }
            if problem is None
            else {}
            for kind in ("separate", "concatenated")
        ]
        count = len(finished) if problem is None else 0
        rows.append(BenchmarkRow(name, str(chosen or ""), *scores, count, problem))
    return rows


class _Store:
    """JSON files of runs in a folder, with the conditions that they belong to."""

    def __init__(
        self, folder: Path, protocol: Protocol, train: LabelledImages, test: LabelledImages
    ) -> None:
        self.folder = folder
        recipe = {
            key: value
            for key, value in asdict(protocol.recipe).items()
            if key not in ("loss", "miner", "rate", "options")
        }
        self.conditions = {
            **recipe,
            **{key: getattr(protocol, key) for key in ("every", "folds", "networks")},
            "train": _fingerprint(train),
            "test": _fingerprint(test),
        }

    def path(self, name: str, kind: str, number: int) -> Path:
        return self.folder / f"{name}-{kind}-{number}.json"

    def read(self, name: str, kind: str, number: int) -> dict[str, Any] | None:
        path = self.path(name, kind, number)
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text())
            conditions, result = content["conditions"], content["result"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is not the result of a run: {error}") from None
        if conditions != self.conditions:
            different = [k for k, v in self.conditions.items() if conditions.get(k) != v]
            raise ValueError(f"{path} belongs to another run, with other {', '.join(different)}")
        return dict(result)

    def write(self, name: str, kind: str, number: int, result: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with replace_when_done(self.path(name, kind, number)) as path:
            path.write_text(json.dumps({"conditions": self.conditions, "result": result}))

    def chosen(self, name: str) -> Configuration | None:
        """Return the configuration with the highest MAP@R on the validation classes."""
        candidates = [self.read(name, "search", n) for n in range(len(configurations(name)))]
        values = [r["validation"] if r and "validation" in r else -1.0 for r in candidates]
        best = int(np.argmax(values))
        return configurations(name)[best] if values[best] >= 0 else None


def _fingerprint(images: LabelledImages) -> str:
    """Return the number of pictures and classes, and a checksum of what the pictures are."""
    pictures = images.pictures
    content = (
        np.ascontiguousarray(pictures).tobytes()
        if isinstance(pictures, np.ndarray)
        else "\n".join(path.name for path in pictures).encode()
    )
    checksum = crc32(images.labels.tobytes(), crc32(content))
    return f"{len(images)} pictures of {len(images.classes)} classes, {checksum:08x}"
