"""The protocol that compares losses: train on some classes, test on others, several times."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flowmatch.similarity.images import LabelledImages, square
from flowmatch.similarity.losses import LOSSES, SimilarityLoss, make_loss
from flowmatch.similarity.losses._base import at_least
from flowmatch.similarity.metrics import clustering_scores, retrieval_scores
from flowmatch.similarity.miners import MINERS
from flowmatch.similarity.networks import EmbeddingNet
from flowmatch.similarity.samplers import ClassBatches, generator_of

# What a loss's own paper mines with; the others take the whole batch.
PAPER_MINERS = {
    "triplet": "semi-hard",
    "bias-corrected": "semi-hard",
    "margin": "distance-weighted",
    "multi-similarity": "multi-similarity",
}
KS = (1, 2, 4, 8)
COLUMNS = (*(f"R@{k}" for k in KS), "NMI", "AMI", "RP", "MAP@R")


@dataclass(frozen=True)
class Recipe:
    """How an embedding is trained; all losses are compared on the same.

    Attributes:
        loss: Name in `LOSSES`.
        miner: Name in `MINERS`, ``"none"``, or ``"paper"`` for what `PAPER_MINERS` says.
        trunk: Name in `flowmatch.similarity.networks.TRUNKS`.
        dimension: Of the embedding.
        size: Of the pictures, square; arrays of this size are taken as they are.
        steps: Of Adam.
        classes: In a batch; fewer where there are fewer.
        each: Pictures of a class in a batch.
        rate: Learning rate of the network.
        loss_rate: How many times that for what a loss itself learns: proxies start anywhere, and
            have little time.
        frozen_norm: Leave batch-norms as they are loaded.
        augment: Random crops and mirror images; not for digits.
        options: Of the loss's constructor.
    """

    loss: str = "triplet"
    miner: str = "paper"
    trunk: str = "small"
    dimension: int = 16
    size: int = 8
    steps: int = 200
    classes: int = 5
    each: int = 8
    rate: float = 1e-3
    loss_rate: float = 10.0
    frozen_norm: bool = False
    augment: bool = False
    options: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.miner not in ("paper", "none", *MINERS):
            names = ", ".join(("paper", "none", *MINERS))
            raise ValueError(f"miner must be one of {names}, got {self.miner!r}")
        at_least(1, dimension=self.dimension, size=self.size, classes=self.classes, each=self.each)
        at_least(0, steps=self.steps, rate=self.rate, loss_rate=self.loss_rate)


class _Squares(Dataset[tuple[Tensor, int]]):
    """Pictures as squares, with the draws of an epoch."""

    def __init__(self, images: LabelledImages, recipe: Recipe, seed: int | None) -> None:
        self.images, self.recipe, self.seed = images, recipe, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = self.images.picture(index)
        size = self.recipe.size
        label = int(self.images.labels[index])
        if picture.shape[:2] == (size, size) and not self.recipe.augment:
            return torch.tensor(picture).permute(2, 0, 1), label
        # Draws come from torch's generator: loaders seed it anew for each epoch and worker.
        chance = None
        if self.seed is not None and self.recipe.augment:
            chance = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        return square(picture, size, chance), label


def _endless(loader: DataLoader[tuple[Tensor, int]]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader  # which has stacked them


def train_embedding(
    recipe: Recipe,
    images: LabelledImages,
    *,
    seed: int = 0,
    start: dict[str, Tensor] | None = None,
    device: str | torch.device = "cpu",
    workers: int = 0,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> EmbeddingNet:
    """Train an embedding; the same call gives the same network.

    Args:
        recipe: How.
        images: What with.
        seed: Of first weights, batches and draws.
        start: Weights of the trunk, with torchvision's names for ResNets.
        device: Where.
        workers: Processes that read pictures.
        report: Called after each step with its number, from 1, and the loss.

    Returns:
        The network, in eval mode.

    Raises:
        ImportError: The loss or miner is pytorch-metric-learning's, and that is missing.
        ValueError: The loss is no longer finite, or names or weights do not fit.
    """
    torch.manual_seed(seed)
    network = EmbeddingNet(recipe.trunk, recipe.dimension, images.channels, recipe.frozen_norm)
    if start is not None:
        _load_trunk(network, start)
    loss = make_loss(
        recipe.loss, classes=len(images.classes), dimension=recipe.dimension, **recipe.options
    )
    miner = _miner(recipe, loss)
    network.to(device).train()
    loss.to(device)
    optimizer = torch.optim.Adam(
        [
            {"params": network.parameters(), "lr": recipe.rate},
            {"params": loss.parameters(), "lr": recipe.rate * recipe.loss_rate},
        ]
    )
    classes = min(recipe.classes, len(set(images.labels.tolist())))
    batches = ClassBatches(images.labels.tolist(), classes, recipe.each, seed=seed)
    loader = DataLoader(
        _Squares(images, recipe, seed),
        batch_sampler=batches,
        num_workers=workers,
        generator=generator_of(seed, 0),
    )
    stream = _endless(loader)
    for step in range(1, recipe.steps + 1):
        pictures, labels = (part.to(device) for part in next(stream))
        embeddings = network(pictures.float() / 255)
        tuples = None if miner is None else miner(embeddings, labels)
        value = loss(embeddings, labels, tuples)
        if not value.isfinite():
            raise ValueError(f"loss {recipe.loss} is {value.item()} at step {step}")
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        report(step, value.item())
    return network.eval()


def _miner(recipe: Recipe, loss: SimilarityLoss) -> torch.nn.Module | None:
    name = PAPER_MINERS.get(recipe.loss, "none") if recipe.miner == "paper" else recipe.miner
    if name == "none":
        return None
    if not loss.takes_tuples:
        raise ValueError(f"loss {recipe.loss} compares the whole batch, got miner {name}")
    return MINERS[name]()


def _load_trunk(network: EmbeddingNet, start: dict[str, Tensor]) -> None:
    wanted = network.trunk.state_dict()
    wrong = [
        name
        for name, tensor in wanted.items()
        if getattr(start.get(name), "shape", None) != tensor.shape
    ]
    if wrong:
        raise ValueError(
            f"the weights to start from do not fit the trunk: {', '.join(wrong[:5])}"
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        )
    network.trunk.load_state_dict({name: start[name] for name in wanted})


@torch.no_grad()
def embed(
    network: EmbeddingNet,
    images: LabelledImages,
    size: int,
    *,
    batch: int = 64,
    workers: int = 0,
) -> Tensor:
    """Embed all pictures of a set, the middle of each.

    Args:
        network: In eval mode.
        images: ``N`` pictures.
        size: Of the squares.
        batch: How many at once.
        workers: Processes that read pictures.

    Returns:
        ``[N, dimension]`` float32, on the CPU.
    """
    device = next(network.parameters()).device
    squares = _Squares(images, Recipe(size=size), None)
    loader = DataLoader(squares, batch_size=batch, num_workers=workers)
    found = [network(pictures.to(device).float() / 255).cpu() for pictures, _ in loader]
    return torch.cat(found) if found else torch.empty(0, network.embedding.out_features)


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
    device: str | torch.device = "cpu",
    workers: int = 0,
    report: Callable[[int, float], None] = lambda step, loss: None,
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
        device: Where.
        workers: Processes that read pictures.
        report: As in `train_embedding`.

    Returns:
        A figure for each of `COLUMNS`.

    Raises:
        ImportError: A library of the loss, miner or metrics is missing.
        ValueError: Training failed, or something does not fit.

    Reference:
        Folds, and both ways to test them: Musgrave, Belongie & Lim, A Metric Learning Reality
        Check, ECCV 2020.
    """
    metric = getattr(LOSSES[recipe.loss], "metric", "cosine")
    parts = [train]
    if folds > 1:
        parts = [train.of_classes(kept) for kept, _ in class_folds(len(train.classes), folds)]
    found = []
    for number, part in enumerate(parts):
        network = train_embedding(
            recipe,
            part,
            seed=seed * 1009 + number,
            device=device,
            workers=workers,
            report=report,
        )
        embeddings = embed(network, test, recipe.size, workers=workers)
        found.append(F.normalize(embeddings, dim=1) if metric == "cosine" else embeddings)
    if together:
        found = [torch.cat(found, 1)]
    labels = torch.from_numpy(test.labels)
    rows = [score(embeddings, labels, metric, seed) for embeddings in found]
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
class Compared:
    """One row of the table.

    Attributes:
        loss: Name in `LOSSES`.
        figures: An estimate for each of `COLUMNS`.
        seconds: For all seeds.
    """

    loss: str
    figures: dict[str, Estimate]
    seconds: float


def with_loss(recipe: Recipe, loss: str) -> Recipe:
    """Give the same recipe for another loss, with the defaults of its paper.

    Args:
        recipe: Any.
        loss: Name in `LOSSES`.

    Raises:
        ValueError: There is no such loss.

    Example:
        >>> with_loss(Recipe(steps=3), "fastap").steps
        3
    """
    return replace(recipe, loss=loss, miner="paper", options={})
