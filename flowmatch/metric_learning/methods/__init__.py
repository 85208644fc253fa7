"""Methods that are more than a loss: the class tree and the ensembles, trained by the protocol."""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from flowmatch.metric_learning.data.crops import Squares
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.fit import Recipe, load_trunk
from flowmatch.metric_learning.methods._base import Method, Numbered
from flowmatch.metric_learning.methods.clustered import Divided, Hierarchical
from flowmatch.metric_learning.methods.ensembles import (
    AdversariallyBoosted,
    Attentive,
    Boosted,
    Cascaded,
)
from flowmatch.training import StepReport, TrainingDiverged

METHODS: dict[str, type[Method]] = {
    "htl": Hierarchical,
    "divide-conquer": Divided,
    "bier": Boosted,
    "a-bier": AdversariallyBoosted,
    "hdc": Cascaded,
    "abe": Attentive,
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
    """Train by a method that is more than a loss; otherwise as `train_embedding` does.

    Args:
        name: In `METHODS`.
        recipe: How; its loss and miner are the method's own.
        images: What with.
        seed: Of first weights, batches and draws.
        start: Weights of the trunk.
        device: Where.
        workers: Processes that read pictures.
        on_step: Function called after each step.

    Returns:
        What embeds, in eval mode.

    Raises:
        ImportError: A library is missing.
        TrainingDiverged: The loss is no longer finite.
        ValueError: There is no such method, or weights do not fit.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    torch.manual_seed(seed)
    method = METHODS[name](recipe, images, seed)
    if start is not None:
        load_trunk(method.network, start)
    method.to(device).train()
    trunk = list(method.network.trunk.parameters())
    others = [p for p in method.parameters() if all(p is not known for known in trunk)]
    optimizer = torch.optim.Adam(
        [
            {"params": trunk, "lr": recipe.rate},
            {"params": others, "lr": recipe.rate * method.head_rate},
        ]
    )
    squares = Numbered(Squares(images, recipe.size, recipe.augment))
    step, epoch, began = 0, 0, time.monotonic()
    while step < recipe.steps:
        method.begin(epoch, step / recipe.steps)
        loader = DataLoader(squares, batch_sampler=method.batches, num_workers=workers)
        if not len(loader):
            raise ValueError(f"method {name}: there is no batch of {len(images)} pictures")
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
            pace = (time.monotonic() - began) / step
            if on_step is not None:
                on_step(StepReport(step, recipe.steps, {"loss": value.item()}, pace))
            if step == recipe.steps:
                break
        epoch += 1
    return method.eval()


__all__ = ["METHODS", "Method", "train_method"]
