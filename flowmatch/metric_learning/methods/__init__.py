"""Methods with a training procedure of their own: the class tree and the ensembles."""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from flowmatch.metric_learning.data.crops import SquareCrops
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.fit import Recipe, load_backbone
from flowmatch.metric_learning.methods._base import IndexedDataset, Method
from flowmatch.metric_learning.methods.clustered import (
    DivideAndConquerMethod,
    HierarchicalTripletMethod,
)
from flowmatch.metric_learning.methods.ensembles import (
    AdversarialBierMethod,
    AttentionEnsembleMethod,
    BierMethod,
    CascadeMethod,
)
from flowmatch.training import StepReport, TrainingDiverged

METHODS: dict[str, type[Method]] = {
    "htl": HierarchicalTripletMethod,
    "divide-conquer": DivideAndConquerMethod,
    "bier": BierMethod,
    "a-bier": AdversarialBierMethod,
    "hdc": CascadeMethod,
    "abe": AttentionEnsembleMethod,
}


def train_method(
    name: str,
    recipe: Recipe,
    images: LabelledImages,
    *,
    seed: int = 0,
    start: dict[str, Tensor] | None = None,
    device: str | torch.device = "cpu",
    workers: int = 0,
    on_step: Callable[[StepReport], None] | None = None,
) -> Method:
    """Train a network by a method with losses, batches and heads of its own.

    The loop is not `flowmatch.training.train`: before an epoch a method may embed the whole
    training set and choose a new batch sampler from the result, which a checkpoint of weights
    could not resume. It writes no checkpoints.

    Args:
        name: Name in `METHODS`.
        recipe: Network and optimisation; its loss and miner are ignored.
        images: Training pictures.
        seed: Random seed of the initial weights and the batches.
        start: Initial weights of the backbone.
        device: Training device.
        workers: Number of processes that read pictures.
        on_step: Function called after each step.

    Returns:
        The method's network, which embeds pictures, in eval mode.

    Raises:
        ImportError: A library is missing.
        TrainingDiverged: The loss became NaN or infinite.
        ValueError: The method is unknown, or weights do not fit.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    torch.manual_seed(seed)
    method = METHODS[name](recipe, images, seed)
    if start is not None:
        load_backbone(method.network, start)
    method.to(device).train()
    backbone = list(method.network.backbone.parameters())
    others = [p for p in method.parameters() if all(p is not shared for shared in backbone)]
    optimizer = torch.optim.Adam(
        [
            {"params": backbone, "lr": recipe.rate},
            {"params": others, "lr": recipe.rate * method.head_rate},
        ]
    )
    dataset = IndexedDataset(SquareCrops(images, recipe.size, recipe.augment))
    step, epoch, start_time = 0, 0, time.monotonic()
    while step < recipe.steps:
        method.begin_epoch(epoch, step / recipe.steps)
        loader = DataLoader(dataset, batch_sampler=method.batches, num_workers=workers)
        if not len(loader):
            raise ValueError(f"method {name} needs more pictures for a batch, got {len(images)}")
        for pictures, labels, items in loader:
            value = method.loss(pictures.to(device).float() / 255, labels.to(device), items)
            if not value.isfinite():
                raise TrainingDiverged(
                    f"method {name}: the loss is {value.item()} at step {step + 1}"
                )
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            pace = (time.monotonic() - start_time) / step
            if on_step is not None:
                on_step(StepReport(step, recipe.steps, {"loss": value.item()}, pace))
            if step == recipe.steps:
                break
        epoch += 1
    return method.eval()


__all__ = ["METHODS", "Method", "train_method"]
