"""The protocol that compares losses: train, test on what was not seen, several times."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.metric_learning.data.images import LabelledImages, as_square
from flowmatch.metric_learning.fit import Recipe, embed, train_embedding, with_loss
from flowmatch.metric_learning.losses import LOSSES
from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.methods import METHODS, train_method
from flowmatch.metric_learning.metrics import clustering_scores, retrieval_scores
from flowmatch.metric_learning.verification import distances_of_pairs, roc, verify
from flowmatch.training import StepReport

KS = (1, 2, 4, 8)
COLUMNS = (*(f"R@{k}" for k in KS), "NMI", "AMI", "RP", "MAP@R")


def score(embeddings: Tensor, labels: Tensor, metric: str, seed: int = 0) -> dict[str, float]:
    """Measure an embedding in all `COLUMNS`, shares in 0..1.

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]``.
        metric: ``"cosine"`` or ``"l2"``, a loss's `SimilarityLoss.metric`.
        seed: Of k-means.

    Returns:
        A figure for each column.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: Shapes do not fit.

    Example:
        >>> score(torch.eye(4)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]), "cosine")["R@1"]
        1.0
    """
    if metric == "cosine":  # which is what l2 compares, of directions
        embeddings = F.normalize(embeddings, dim=1)
    retrieved = retrieval_scores(embeddings, labels, KS)
    clustered = clustering_scores(embeddings, labels, seed)
    figures = (*retrieved.recall.values(), clustered.nmi, clustered.ami)
    figures = (*figures, retrieved.r_precision, retrieved.map_at_r)
    return dict(zip(COLUMNS, figures, strict=True))


def unseen_parts(images: LabelledImages, unseen: str) -> tuple[LabelledImages, LabelledImages]:
    """Split into training and test by what the test has not seen.

    Args:
        images: All.
        unseen: ``"classes"``, ``"pictures"``, or ``"nothing"``: both parts are all.

    Returns:
        The parts for training and for the test.

    Raises:
        ValueError: `unseen` is something else, or there are too few classes.
    """
    if unseen not in ("classes", "pictures", "nothing"):
        raise ValueError(f"unseen must be classes, pictures or nothing, got {unseen!r}")
    if unseen == "nothing":
        return images, images
    return images.split_classes() if unseen == "classes" else images.split_pictures()


def verified(
    embeddings: Tensor, labels: Tensor, metric: str, false_accepts: float
) -> dict[str, float]:
    """Verify by a threshold that is chosen on one half of the items and used on the other.

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]``.
        metric: ``"cosine"`` or ``"l2"``.
        false_accepts: The share of different pairs that may be accepted.

    Returns:
        ``EER`` and ``FPR95`` of the second half, ``threshold``, and its ``false accepts`` and
        ``false rejects`` there.

    Raises:
        ValueError: A half has not both kinds of pairs, or something does not fit.

    Example:
        >>> x, y = torch.eye(2).repeat(4, 1), torch.tensor([0, 1]).repeat(4)
        >>> verified(x, y, "l2", 0.1)["EER"]
        0.0
    """
    # Every other item of those sorted by class: each half has half of every class.
    order = torch.argsort(labels, stable=True)
    halves = order[::2], order[1::2]
    curves = []
    for half in halves:
        distances, same = distances_of_pairs(embeddings[half], labels[half], metric)
        curves.append((distances, same, roc(distances, same)))
    threshold = curves[0][2].threshold_for(false_accepts)
    distances, same, curve = curves[1]
    judged = verify(distances, same, threshold)
    return {
        "EER": curve.equal_error_rate,
        "FPR95": curve.false_accepts_at(0.95),
        "threshold": threshold,
        "false accepts": judged.false_accepts,
        "false rejects": judged.false_rejects,
    }


def class_folds(count: int, folds: int) -> list[tuple[list[int], list[int]]]:
    """Split classes for cross-validation: contiguous parts, each left out once.

    Args:
        count: Of the classes.
        folds: Parts.

    Returns:
        For each fold, the classes to train with and those that are left out.

    Raises:
        ValueError: There are not as many classes as folds, or fewer than two folds.

    Example:
        >>> class_folds(4, 2)
        [([2, 3], [0, 1]), ([0, 1], [2, 3])]
    """
    at_least(2, folds=folds)
    at_least(folds, classes=count)
    parts = torch.arange(count).tensor_split(folds)
    every = set(range(count))
    return [(sorted(every - set(part.tolist())), part.tolist()) for part in parts]


def evaluate_recipe(
    recipe: Recipe,
    train: LabelledImages,
    test: LabelledImages,
    *,
    seed: int = 0,
    folds: int = 1,
    together: bool = False,
    start: dict[str, Tensor] | None = None,
    device: str | torch.device = "cpu",
    workers: int = 0,
    on_step: Callable[[StepReport], None] | None = None,
    method: str | None = None,
) -> dict[str, float]:
    """Train and test once: one network, or one for each fold of the training classes.

    Args:
        recipe: How to train.
        train: Classes to train with.
        test: Other classes.
        seed: Of everything.
        folds: 1 trains one network with all classes; more train one for each fold, without the
            classes of that fold.
        together: Test the folds' embeddings side by side as one, not each alone (and the mean).
        start: As in `train_embedding`.
        device: Where.
        workers: Processes that read pictures.
        on_step: Function called after each step of training.
        method: Name in `METHODS`, which trains by losses of its own; None by the recipe's loss.

    Returns:
        A figure for each of `COLUMNS`.

    Raises:
        ImportError: A library of the loss, miner or metrics is missing.
        ValueError: Training failed, or something does not fit.

    Reference:
        Folds, and both ways to test them: Musgrave, Belongie & Lim, A Metric Learning Reality
        Check, ECCV 2020.
    """
    parts = [train]
    if folds > 1:
        parts = [train.of_classes(kept) for kept, _ in class_folds(len(train.classes), folds)]
    found = []
    for number, part in enumerate(parts):
        train_one = train_embedding if method is None else partial(train_method, method)
        network: nn.Module = train_one(
            recipe,
            part,
            seed=seed * 1009 + number,
            start=start,
            device=device,
            workers=workers,
            on_step=on_step,
        )
        embeddings = embed(network, test, recipe.size, workers=workers)
        found.append(F.normalize(embeddings, dim=1) if recipe.metric == "cosine" else embeddings)
    if together:
        found = [torch.cat(found, 1)]
    labels = torch.from_numpy(test.labels)
    rows = [score(embeddings, labels, recipe.metric, seed) for embeddings in found]
    return {name: sum(row[name] for row in rows) / len(rows) for name in COLUMNS}


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: Of the figures.
        margin: Half the 95 % confidence interval of the mean, by Student's t; NaN for one figure.
    """

    mean: float
    margin: float


def estimate(figures: Sequence[float]) -> Estimate:
    """Give the mean and how sure it is.

    Args:
        figures: One for each seed.

    Raises:
        ValueError: There are none.

    Example:
        >>> found = estimate([0.5, 0.6, 0.7])
        >>> round(found.mean, 3), round(found.margin, 3)
        (0.6, 0.248)
    """
    from scipy.stats import t  # type: ignore[import-untyped]  # slow to import

    count = len(figures)
    at_least(1, figures=count)
    mean = sum(figures) / count
    if count == 1:
        return Estimate(mean, math.nan)
    variance = sum((figure - mean) ** 2 for figure in figures) / (count - 1)
    return Estimate(mean, float(t.ppf(0.975, count - 1)) * math.sqrt(variance / count))


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: Name in `LOSSES` or `METHODS`, or ``"untrained"`` or ``"pixels"``.
        figures: An estimate for each of `COLUMNS`; NaN where training failed.
        problem: Why it failed.
    """

    name: str
    figures: dict[str, Estimate]
    problem: str | None = None


def compare(
    recipe: Recipe,
    train: LabelledImages,
    test: LabelledImages,
    *,
    losses: Sequence[str] = (*LOSSES, *METHODS),
    seeds: int = 3,
    folds: int = 1,
    together: bool = False,
    start: dict[str, Tensor] | None = None,
    device: str | torch.device = "cpu",
    workers: int = 0,
) -> Iterator[Row]:
    """Compare losses on equal terms: the same network, batches and steps for each.

    Args:
        recipe: How to train; its loss, miner and the loss's options are replaced by each loss with
            the defaults of its paper.
        train: Pictures to train with.
        test: Others.
        losses: Names in `LOSSES` or `METHODS`.
        seeds: Runs of each.
        folds: As in `evaluate_recipe`.
        together: As in `evaluate_recipe`.
        start: As in `train_embedding`.
        device: Where.
        workers: Processes that read pictures.

    Yields:
        A row when it is done: first the pixels themselves and the network untrained, for it is not
        given that training helps.

    Raises:
        ImportError: A library of a loss, miner or metrics is missing.
        ValueError: There is no such loss, or something does not fit.
    """
    at_least(1, seeds=seeds)
    known = (*LOSSES, *METHODS)
    for loss in losses:  # names are checked before hours are spent
        if loss not in known:
            raise ValueError(f"loss must be one of {', '.join(known)}, got {loss!r}")
    labels = torch.from_numpy(test.labels)
    pixels = score(raw_pixels(test, recipe.size), labels, "l2")
    yield Row("pixels", {name: estimate([figure]) for name, figure in pixels.items()})
    plain = with_loss(recipe, "proxynca")  # needs no library, and sees directions, as methods do
    ways: list[tuple[str, Recipe, str | None]] = [("untrained", replace(plain, steps=0), None)]
    for loss in losses:
        own = loss in LOSSES
        ways.append((loss, with_loss(recipe, loss) if own else plain, None if own else loss))
    for name, one, method in ways:
        run = partial(
            evaluate_recipe,
            one,
            train,
            test,
            folds=folds,
            together=together,
            start=start,
            device=device,
            workers=workers,
            method=method,
        )
        try:
            runs = [run(seed=seed) for seed in range(seeds)]
        except ValueError as error:  # one loss that does not fit the recipe costs one row
            unknown = {column: Estimate(math.nan, math.nan) for column in COLUMNS}
            yield Row(name, unknown, str(error))
        else:
            yield Row(name, {c: estimate([one_run[c] for one_run in runs]) for c in COLUMNS})


def raw_pixels(images: LabelledImages, size: int) -> Tensor:
    """Take the pictures for embeddings of themselves.

    Args:
        images: ``N`` pictures.
        size: Of the squares.

    Returns:
        ``[N, size * size * C]`` in 0..1.
    """
    squares = (as_square(images.picture(i), size) for i in range(len(images)))
    return torch.stack([s.flatten().float() / 255 for s in squares])
