"""Training of an embedding, by a recipe that is the same for all losses."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from flowmatch.metric_learning.data.crops import Draws, Squares
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.losses import LOSSES, SimilarityLoss, make_loss
from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.miners import MINERS
from flowmatch.metric_learning.networks import EmbeddingNet
from flowmatch.metric_learning.samplers import ClassBatches, generator_of
from flowmatch.training import StepReport, Run, RunState, TrainingDiverged

# What a loss's own paper mines with; the others take the whole batch.
PAPER_MINERS = {
    "triplet": "semi-hard",
    "bias-corrected": "semi-hard",
    "margin": "distance-weighted",
    "multi-similarity": "multi-similarity",
}


@dataclass(frozen=True)
class Recipe:
    """How an embedding is trained; all losses are compared on the same.

    Attributes:
        loss: Name in `LOSSES`.
        miner: Name in `MINERS`, ``"none"``, or ``"paper"`` for what `PAPER_MINERS` says.
        trunk: Name in `flowmatch.metric_learning.networks.TRUNKS`.
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

    @property
    def metric(self) -> str:
        """What embeddings are compared by: the loss's `SimilarityLoss.metric`."""
        return str(getattr(LOSSES[self.loss], "metric", "cosine"))

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.miner not in ("paper", "none", *MINERS):
            names = ", ".join(("paper", "none", *MINERS))
            raise ValueError(f"miner must be one of {names}, got {self.miner!r}")
        at_least(1, dimension=self.dimension, size=self.size, classes=self.classes, each=self.each)
        at_least(0, steps=self.steps, rate=self.rate, loss_rate=self.loss_rate)


def train_embedding(
    recipe: Recipe,
    images: LabelledImages,
    *,
    seed: int = 0,
    start: dict[str, Tensor] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    every: int = 100,
    device: str | torch.device = "cpu",
    workers: int = 0,
    on_step: Callable[[StepReport], None] | None = None,
) -> EmbeddingNet:
    """Train an embedding; the same call gives the same network, also one that goes on.

    Args:
        recipe: How.
        images: What with.
        seed: Of first weights, batches and draws.
        start: Weights of the trunk, with torchvision's names for ResNets.
        checkpoint: File that the state is written to every `every` steps and at the end.
        resume: Continue from `checkpoint` if it exists.
        every: Steps between checkpoints.
        device: Where.
        workers: Processes that read pictures.
        on_step: Function called after each step.

    Returns:
        The network, in eval mode.

    Raises:
        ImportError: The loss or miner is pytorch-metric-learning's, and that is missing.
        TrainingDiverged: The loss is no longer finite; with `checkpoint`, the batch is saved beside
            it.
        ValueError: Names or weights do not fit, or `checkpoint` belongs to another run.
    """
    torch.manual_seed(seed)
    network = EmbeddingNet(recipe.trunk, recipe.dimension, images.channels, recipe.frozen_norm)
    if start is not None:
        load_trunk(network, start)
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
    about = {"seed": seed, "pictures": len(images), "classes": len(images.classes)}
    run = Run(recipe, about)
    both = nn.ModuleDict({"network": network, "loss": loss})
    kept = None if checkpoint is None else RunState(both, optimizer, checkpoint, run)
    first = kept.restore() if kept and resume and kept.path.exists() else 0
    classes = min(recipe.classes, len(set(images.labels.tolist())))
    batches = ClassBatches(images.labels.tolist(), classes, recipe.each, seed=seed)
    loader = DataLoader(
        Squares(images, recipe.size, recipe.augment, seed),
        batch_sampler=Draws(batches, first),
        num_workers=workers,
        generator=generator_of(seed, 0),
    )
    began = time.monotonic()
    for step, parts in enumerate(itertools.islice(loader, recipe.steps - first), first + 1):
        pictures, labels = (part.to(device) for part in parts)
        embeddings = network(pictures.float() / 255)
        tuples = None if miner is None else miner(embeddings, labels)
        value = loss(embeddings, labels, tuples)
        if not value.isfinite():
            raise _diverged(recipe.loss, value, step, parts, checkpoint)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if kept and (step % every == 0 or step == recipe.steps):
            kept.save(step)
        pace = (time.monotonic() - began) / (step - first)
        if on_step is not None:
            on_step(StepReport(step, recipe.steps, {"loss": value.item()}, pace))
    return network.eval()


def _diverged(
    name: str, value: Tensor, step: int, batch: list[Tensor], checkpoint: Path | None
) -> TrainingDiverged:
    where = ""
    if checkpoint is not None:
        culprit = checkpoint.with_suffix(".batch.pt")
        torch.save(batch, culprit)
        where = f"; its batch is in {culprit}"
    return TrainingDiverged(f"loss {name} is {value.item()} at step {step}{where}")


def _miner(recipe: Recipe, loss: SimilarityLoss) -> nn.Module | None:
    name = PAPER_MINERS.get(recipe.loss, "none") if recipe.miner == "paper" else recipe.miner
    if name == "none":
        return None
    if not loss.takes_tuples:
        raise ValueError(f"loss {recipe.loss} compares the whole batch, got miner {name}")
    return MINERS[name]()


def load_trunk(network: EmbeddingNet, start: dict[str, Tensor]) -> None:
    """Load weights into a network's trunk.

    Args:
        network: Whose.
        start: Tensors by the trunk's names; others are left over.

    Raises:
        ValueError: They do not fit.
    """
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


def read_trunk(path: str | Path) -> dict[str, Tensor]:
    """Read weights to start from.

    Args:
        path: ``.safetensors`` with the trunk's names of parameters, torchvision's for ResNets.

    Returns:
        Tensors by name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file of weights at {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole .safetensors file: {error}") from error


@torch.no_grad()
def embed(
    network: nn.Module,
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
    loader = DataLoader(Squares(images, size), batch_size=batch, num_workers=workers)
    found = [network(pictures.to(device).float() / 255).cpu() for pictures, _ in loader]
    return torch.cat(found) if found else torch.empty(0, 0)


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
