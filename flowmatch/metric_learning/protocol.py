"""Evaluation protocol that compares losses: repeated training and tests on held-out data."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.metric_learning.data.images import LabelledImages, square_crop
from flowmatch.metric_learning.fit import Recipe, embed, train_embedding, with_loss
from flowmatch.metric_learning.losses import LOSSES
from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.methods import METHODS, train_method
from flowmatch.metric_learning.metrics import clustering_scores, retrieval_scores
from flowmatch.metric_learning.tuples import check_batch
from flowmatch.metric_learning.verification import pair_distances, roc, verify_pairs
from flowmatch.training import StepReport

KS = (1, 2, 4, 8)
COLUMNS = (*(f"R@{k}" for k in KS), "NMI", "AMI", "RP", "MAP@R")


def score(embeddings: Tensor, labels: Tensor, metric: str, seed: int = 0) -> dict[str, float]:
    """Measure embeddings by all metrics of `COLUMNS`, in 0..1.

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]``.
        metric: Distance between embeddings, ``"cosine"`` or ``"l2"``, see `EmbeddingLoss.metric`.
        seed: Random seed of k-means.

    Returns:
        A score for each column.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: Shapes or types do not fit, or there are no embeddings.

    Example:
        >>> score(torch.eye(4)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]), "cosine")["R@1"]
        1.0
    """
    check_batch(embeddings, labels)
    if metric == "cosine":  # the order by l2 of unit vectors is that by cosine
        embeddings = F.normalize(embeddings, dim=1)
    retrieval = retrieval_scores(embeddings, labels, KS)
    clustering = clustering_scores(embeddings, labels, seed)
    scores = (*retrieval.recall.values(), clustering.nmi, clustering.ami)
    scores = (*scores, retrieval.r_precision, retrieval.map_at_r)
    return dict(zip(COLUMNS, scores, strict=True))


def split_unseen(images: LabelledImages, unseen: str) -> tuple[LabelledImages, LabelledImages]:
    """Split a dataset into a training and a test set.

    Args:
        images: The dataset.
        unseen: Novelty of the test set: ``"classes"`` has other classes than the training set,
            ``"pictures"`` other pictures of the same classes, by the official split of that kind
            or in halves; with ``"nothing"`` both sets are the whole dataset.

    Returns:
        The training and the test set.

    Raises:
        ValueError: `unseen` is something else, or there are too few classes.
    """
    if unseen not in ("classes", "pictures", "nothing"):
        raise ValueError(f"unseen must be classes, pictures or nothing, got {unseen!r}")
    if unseen == "nothing":
        return images, images
    return images.split_classes() if unseen == "classes" else images.split_pictures()


def verification_scores(
    embeddings: Tensor, labels: Tensor, metric: str, false_accept_rate: float
) -> dict[str, float]:
    """Measure verification by a threshold chosen on one half of the items, on the other half.

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]``.
        metric: Distance between embeddings, ``"cosine"`` or ``"l2"``.
        false_accept_rate: Largest share of negative pairs that the threshold accepts.

    Returns:
        ``EER`` and ``FPR95`` of the second half, ``threshold``, and its ``false accepts`` and
        ``false rejects`` there. A score is NaN where its half lacks the pairs that it needs: two
        classes for negative pairs, two items of one class for positive ones.

    Raises:
        ValueError: Shapes or types do not fit, or the rate is not in 0..1.

    Example:
        >>> x, y = torch.eye(2).repeat(4, 1), torch.tensor([0, 1]).repeat(4)
        >>> verification_scores(x, y, "l2", 0.1)["EER"]
        0.0
    """
    check_batch(embeddings, labels)
    if not 0 <= false_accept_rate <= 1:
        raise ValueError(f"false_accept_rate must be in 0..1, got {false_accept_rate}")
    # Alternating items in the order of classes, so that each half has half of every class.
    order = torch.argsort(labels, stable=True)
    halves = order[::2], order[1::2]
    parts = [pair_distances(embeddings[half], labels[half], metric) for half in halves]
    curves = [roc(*part) if part[1].any() and not part[1].all() else None for part in parts]
    names = ("EER", "FPR95", "threshold", "false accepts", "false rejects")
    scores = dict.fromkeys(names, math.nan)
    if curves[1] is not None:
        scores["EER"] = curves[1].equal_error_rate
        scores["FPR95"] = curves[1].false_accept_rate_at(0.95)
    if curves[0] is not None:
        scores["threshold"] = curves[0].threshold_for(false_accept_rate)
        verification = verify_pairs(*parts[1], scores["threshold"])
        scores["false accepts"] = verification.false_accept_rate
        scores["false rejects"] = verification.false_reject_rate
    return scores


def class_folds(count: int, folds: int) -> list[tuple[list[int], list[int]]]:
    """Split classes for cross-validation into contiguous folds.

    Args:
        count: Number of classes.
        folds: Number of folds.

    Returns:
        The training classes and the left-out classes of each fold.

    Raises:
        ValueError: There are fewer classes than folds, or fewer than two folds.

    Example:
        >>> class_folds(4, 2)
        [([2, 3], [0, 1]), ([0, 1], [2, 3])]
    """
    at_least(2, folds=folds)
    at_least(folds, classes=count)
    parts = torch.arange(count).tensor_split(folds)
    classes = set(range(count))
    return [(sorted(classes - set(part.tolist())), part.tolist()) for part in parts]


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
        recipe: Training recipe.
        train: Training set.
        test: Test set.
        seed: Random seed of training and of k-means.
        folds: Number of networks: 1 trains with all classes; more train one network for each
            fold, without the classes of that fold.
        together: Whether to test the concatenated embeddings of all folds; otherwise scores are
            means over the folds.
        start: Initial weights of the backbone, with torchvision's names for ResNets.
        device: Training device.
        workers: Number of processes that read pictures.
        on_step: Function called after each training step.
        method: Name in `METHODS` of a method with losses of its own; None uses the recipe's loss.

    Returns:
        A score for each of `COLUMNS`.

    Raises:
        ImportError: A library of the loss, miner or metrics is missing.
        ValueError: Training diverged, or arguments do not fit each other.

    Reference:
        Cross-validation with concatenated or separate embeddings: Musgrave, Belongie & Lim, A
        Metric Learning Reality Check, ECCV 2020.
    """
    parts = [train]
    if folds > 1:
        parts = [train.select_classes(kept) for kept, _ in class_folds(len(train.classes), folds)]
    tested = []
    for number, part in enumerate(parts):
        trainer = train_embedding if method is None else partial(train_method, method)
        network: nn.Module = trainer(
            recipe,
            part,
            seed=seed * 1009 + number,
            start=start,
            device=device,
            workers=workers,
            on_step=on_step,
        )
        embeddings = embed(network, test, recipe.size, workers=workers)
        tested.append(F.normalize(embeddings, dim=1) if recipe.metric == "cosine" else embeddings)
    if together:
        tested = [torch.cat(tested, 1)]
    labels = torch.from_numpy(test.labels)
    rows = [score(embeddings, labels, recipe.metric, seed) for embeddings in tested]
    return {name: sum(row[name] for row in rows) / len(rows) for name in COLUMNS}


@dataclass(frozen=True)
class Estimate:
    """A mean with its confidence interval.

    Attributes:
        mean: Mean of the values.
        margin: Half the 95 % confidence interval of the mean, by Student's t; NaN for one value.
    """

    mean: float
    margin: float


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of values and its confidence interval.

    Args:
        values: Independent measurements, such as one for each seed.

    Raises:
        ValueError: `values` is empty.

    Example:
        >>> result = estimate([0.5, 0.6, 0.7])
        >>> round(result.mean, 3), round(result.margin, 3)
        (0.6, 0.248)
    """
    from scipy.stats import t  # type: ignore[import-untyped]  # slow to import

    count = len(values)
    at_least(1, values=count)
    mean = sum(values) / count
    if count == 1:
        return Estimate(mean, math.nan)
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    return Estimate(mean, float(t.ppf(0.975, count - 1)) * math.sqrt(variance / count))


@dataclass(frozen=True)
class ComparisonRow:
    """One row of the comparison table.

    Attributes:
        name: Name in `LOSSES` or `METHODS`, or ``"untrained"`` or ``"pixels"``.
        scores: An estimate for each of `COLUMNS`; NaN if training failed.
        problem: Reason of the failure.
    """

    name: str
    scores: dict[str, Estimate]
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
) -> Iterator[ComparisonRow]:
    """Compare losses under equal conditions: the same network, batches and steps for each.

    Args:
        recipe: Training recipe; each loss is used with the miner and the options of its paper.
        train: Training set.
        test: Test set.
        losses: Names in `LOSSES` or `METHODS`.
        seeds: Number of runs of each loss.
        folds: Number of networks in a run, see `evaluate_recipe`.
        together: Whether to concatenate the embeddings of all folds, see `evaluate_recipe`.
        start: Initial weights of the backbone, with torchvision's names for ResNets.
        device: Training device.
        workers: Number of processes that read pictures.

    Yields:
        Each row as soon as it is complete; the first two are baselines, raw pixels and the
        untrained network.

    Raises:
        ImportError: A library of a loss, miner or metrics is missing.
        ValueError: A loss is unknown, or arguments do not fit each other.
    """
    at_least(1, seeds=seeds)
    known = (*LOSSES, *METHODS)
    for loss in losses:  # before any training
        if loss not in known:
            raise ValueError(f"loss must be one of {', '.join(known)}, got {loss!r}")
    labels = torch.from_numpy(test.labels)
    pixels = score(raw_pixels(test, recipe.size), labels, "l2")
    yield ComparisonRow("pixels", {name: estimate([value]) for name, value in pixels.items()})
    base = with_loss(recipe, "proxynca")  # it needs no library, and compares cosines as methods do
    runs: list[tuple[str, Recipe, str | None]] = [("untrained", replace(base, steps=0), None)]
    for loss in losses:
        is_loss = loss in LOSSES
        runs.append((loss, with_loss(recipe, loss) if is_loss else base, None if is_loss else loss))
    for name, run_recipe, method in runs:
        run = partial(
            evaluate_recipe,
            run_recipe,
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
            results = [run(seed=seed) for seed in range(seeds)]
        except ValueError as error:  # a loss that does not fit the recipe must not stop the others
            missing = {column: Estimate(math.nan, math.nan) for column in COLUMNS}
            yield ComparisonRow(name, missing, str(error))
        else:
            scores = {
                column: estimate([result[column] for result in results]) for column in COLUMNS
            }
            yield ComparisonRow(name, scores)


def raw_pixels(images: LabelledImages, size: int) -> Tensor:
    """Return raw pixels as embeddings, a baseline.

    Args:
        images: Dataset of ``N`` pictures.
        size: Side of the square crops in pixels.

    Returns:
        ``[N, size * size * C]`` in 0..1.
    """
    crops = (square_crop(images.picture(i), size) for i in range(len(images)))
    return torch.stack([crop.flatten().float() / 255 for crop in crops])
