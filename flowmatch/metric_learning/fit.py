"""Training of an embedding network by one loss, with a recipe that all losses share."""

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from flowmatch.metric_learning.data.crops import BatchSampler, SquareCrops, unchanged_pixels
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.losses import LOSSES, EmbeddingLoss, make_loss
from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.miners import MINERS
from flowmatch.metric_learning.networks import EmbeddingNet
from flowmatch.metric_learning.samplers import ClassBatches, generator_of
from flowmatch.progress import ProgressCallback
from flowmatch.tensor_files import read_safetensors, write_saved
from flowmatch.training import Run, RunState, StepReport, TrainingDiverged
from flowmatch.training.interrupt import defer_interrupt
from flowmatch.zoo import check_finite

# Miners that the papers of losses use; the other losses take the whole batch.
PAPER_MINERS = {
    "triplet": "semi-hard",
    "bias-corrected": "semi-hard",
    "margin": "distance-weighted",
    "multi-similarity": "multi-similarity",
}


@dataclass(frozen=True)
class Recipe:
    """A training recipe of an embedding network, the same for all losses that are compared.

    Attributes:
        loss: Name in `LOSSES`.
        miner: Name in `MINERS`, ``"none"``, or ``"paper"`` for the miner of the loss's paper, see
            `PAPER_MINERS`.
        backbone: Name in `flowmatch.metric_learning.networks.BACKBONES`, or ``timm/NAME``.
        dimension: Dimension of the embedding.
        size: Side of the square pictures in pixels; arrays of this size are taken unchanged.
        steps: Number of steps of Adam.
        classes: Number of classes in a batch, at most all classes of the data.
        samples_per_class: Pictures of each class in a batch.
        rate: Learning rate of the network.
        loss_rate: Learning rate of the loss's own parameters, as a multiple of `rate`: proxies
            start at random and have few steps.
        decay: Whether the rates fall linearly to 0 over the steps; otherwise they are constant.
        frozen_norm: Whether batch normalisation keeps the statistics that were loaded.
        augment: Whether to use random crops and mirror images; not suitable for digits.
        options: Keyword arguments of the loss's constructor.
    """

    loss: str = "triplet"
    miner: str = "paper"
    backbone: str = "small"
    dimension: int = 16
    size: int = 8
    steps: int = 200
    classes: int = 5
    samples_per_class: int = 8
    rate: float = 1e-3
    loss_rate: float = 10.0
    decay: bool = False
    frozen_norm: bool = False
    augment: bool = False
    options: dict[str, float] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """Distance to compare embeddings by, the loss's `EmbeddingLoss.metric`."""
        return str(getattr(LOSSES[self.loss], "metric", "cosine"))

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.miner not in ("paper", "none", *MINERS):
            names = ", ".join(("paper", "none", *MINERS))
            raise ValueError(f"miner must be one of {names}, got {self.miner!r}")
        at_least(1, dimension=self.dimension, size=self.size, classes=self.classes)
        at_least(1, samples_per_class=self.samples_per_class)
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
    """Train an embedding network; the same call gives the same weights, resumed or not.

    The loop is not `flowmatch.training.train`: the parameters of the loss have a learning rate of
    their own, the rate is constant, and checkpoints are optional, because a comparison trains
    many networks. Nor may a batch be split among processes, because losses and miners compare all
    of its pairs.

    Args:
        recipe: Loss, miner, network and optimisation.
        images: Training pictures.
        seed: Random seed of the initial weights, the batches and the miner.
        start: Initial weights of the backbone, with torchvision's names for ResNets.
        checkpoint: File of the state, written every `every` steps and at the end.
        resume: Continue from `checkpoint` if it exists.
        every: Number of steps between checkpoints.
        device: Training device.
        workers: Number of processes that read pictures.
        on_step: Function called after each step.

    Returns:
        The network, in eval mode.

    Raises:
        ImportError: The loss or miner needs pytorch-metric-learning, which is missing.
        TrainingDiverged: The loss became NaN or infinite; with `checkpoint`, the batch is saved
            beside it.
        ValueError: Names or weights do not fit, or `checkpoint` belongs to another run.
    """
    torch.manual_seed(seed)
    network = initial_network(recipe, images.channels)
    if start is not None:
        load_backbone(network, start)
    loss = make_loss(
        recipe.loss, classes=len(images.classes), dimension=recipe.dimension, **recipe.options
    )
    miner = make_miner(recipe, loss)
    network.to(device).train()
    loss.to(device)
    optimizer = torch.optim.Adam(
        [
            {"params": network.parameters(), "lr": recipe.rate},
            {"params": loss.parameters(), "lr": recipe.rate * recipe.loss_rate},
        ]
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    run = Run(recipe, {"seed": seed, "pictures": len(images), "classes": len(images.classes)})
    modules = nn.ModuleDict({"network": network, "loss": loss})
    state = None if checkpoint is None else RunState(modules, optimizer, checkpoint, run)
    first = state.restore() if state and resume and state.path.exists() else 0
    classes = min(recipe.classes, len(set(images.labels.tolist())))
    batches = ClassBatches(images.labels.tolist(), classes, recipe.samples_per_class, seed=seed)
    loader = DataLoader(
        SquareCrops(images, recipe.size, recipe.augment, seed),
        batch_sampler=BatchSampler(batches, first),
        num_workers=workers,
        generator=generator_of(seed, 0),
    )
    start_time = time.monotonic()
    done, saved, halfway = first, first, False
    try:
        for step, batch in enumerate(itertools.islice(loader, recipe.steps - first), first + 1):
            with defer_interrupt():
                halfway = True
                pictures, labels = (part.to(device) for part in batch)
                embeddings = network(pictures.float() / 255)
                tuples = None if miner is None else miner(embeddings, labels)
                value = loss(embeddings, labels, tuples)
                if not value.isfinite():
                    raise _divergence(recipe.loss, value, step, batch, checkpoint)
                if recipe.decay:
                    for group, rate in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = rate * (1 - (step - 1) / recipe.steps)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                loss.remember(embeddings.detach(), labels)
                done, halfway = step, False
            if state and (step % every == 0 or step == recipe.steps):
                state.save(step)
                saved = step
            pace = (time.monotonic() - start_time) / (step - first)
            if on_step is not None:
                on_step(StepReport(step, recipe.steps, {"loss": value.item()}, pace))
    except BaseException:
        # Finished steps are kept whatever ends the run; a half finished step is not saved.
        if state and done > saved and not halfway:
            state.save(done)
        raise
    return network.eval()


def initial_network(recipe: Recipe, channels: int) -> EmbeddingNet:
    """Make the untrained network of a recipe.

    Args:
        recipe: Backbone, embedding dimension, picture size, metric.
        channels: Number of channels of the pictures.

    Example:
        >>> initial_network(Recipe(dimension=2), channels=1).size
        8
    """
    return EmbeddingNet(
        recipe.backbone,
        recipe.dimension,
        channels,
        size=recipe.size,
        metric=recipe.metric,
        frozen_norm=recipe.frozen_norm,
    )


def _divergence(
    name: str, value: Tensor, step: int, batch: list[Tensor], checkpoint: Path | None
) -> TrainingDiverged:
    """Save the batch beside the checkpoint, if there is one, and return the error to raise."""
    location = ""
    if checkpoint is not None:
        file = checkpoint.with_suffix(".batch.pt")
        write_saved(file, batch)
        location = f"; its batch is in {file}"
    return TrainingDiverged(f"loss {name} is {value.item()} at step {step}{location}")


def make_miner(recipe: Recipe, loss: EmbeddingLoss) -> nn.Module | None:
    """Make the miner of a recipe, None if the loss takes the whole batch.

    Args:
        recipe: Its miner is made.
        loss: Loss of the recipe.

    Raises:
        ValueError: The loss takes no tuples.
    """
    name = PAPER_MINERS.get(recipe.loss, "none") if recipe.miner == "paper" else recipe.miner
    if name == "none":
        return None
    if not loss.takes_tuples:
        raise ValueError(f"loss {recipe.loss} compares the whole batch, got miner {name}")
    return MINERS[name]()


def load_backbone(network: EmbeddingNet, start: dict[str, Tensor]) -> None:
    """Load weights into a network's backbone.

    Args:
        network: The network to change.
        start: Tensors by the backbone's parameter names, those of torchvision for ResNets and of
            timm for its models; other names are ignored.

    Raises:
        ValueError: A tensor is missing or has another shape.
    """
    prefix = getattr(network.backbone, "prefix", "")
    expected = {
        name.removeprefix(prefix): tensor for name, tensor in network.backbone.state_dict().items()
    }
    wrong = [
        name
        for name, tensor in expected.items()
        if getattr(start.get(name), "shape", None) != tensor.shape
    ]
    if wrong:
        raise ValueError(
            f"the weights to start from do not fit the backbone: {', '.join(wrong[:5])}"
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        )
    network.backbone.load_state_dict({prefix + name: start[name] for name in expected})


def read_backbone(path: str | Path) -> dict[str, Tensor]:
    """Read the initial weights of a backbone.

    Args:
        path: ``.safetensors`` file with the backbone's parameter names, torchvision's for ResNets.

    Returns:
        Tensors by name.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, or a weight is NaN or infinite.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file of weights at {path}")
    tensors, _ = read_safetensors(path)
    check_finite(tensors, path)
    return tensors


@torch.no_grad()
def embed(
    network: nn.Module,
    images: LabelledImages,
    size: int,
    *,
    batch: int = 64,
    workers: int = 0,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Embed the centre crops of all pictures of a dataset.

    Args:
        network: Network in eval mode.
        images: Dataset of ``N`` pictures.
        size: Side of the crops in pixels.
        batch: Number of pictures in a batch.
        workers: Number of processes that read pictures.
        progress: Function called after each batch with the number of embedded pictures.

    Returns:
        ``[N, dimension]`` float32, on the CPU.
    """
    device = next(network.parameters()).device
    pixels = unchanged_pixels(images, size)
    batches: Iterable[Tensor]
    if pixels is not None:
        batches = torch.split(pixels, batch) if len(pixels) else ()
    else:
        loader = DataLoader(SquareCrops(images, size), batch_size=batch, num_workers=workers)
        batches = (pictures for pictures, _ in loader)
    parts: list[Tensor] = []
    for pictures in batches:
        parts.append(network(pictures.to(device).float() / 255).cpu())
        if progress is not None:
            progress("embedding", min(batch * len(parts), len(images)), len(images))
    return torch.cat(parts) if parts else torch.empty(0, 0)


def with_loss(recipe: Recipe, loss: str) -> Recipe:
    """Return the recipe with another loss, and with the miner and the options of its paper.

    Args:
        recipe: Recipe to copy.
        loss: Name in `LOSSES`.

    Raises:
        ValueError: The loss is unknown.

    Example:
        >>> with_loss(Recipe(steps=3), "fastap").steps
        3
    """
    return replace(recipe, loss=loss, miner="paper", options={})
