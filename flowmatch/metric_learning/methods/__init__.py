"""Methods with a training procedure of their own: the class tree and the ensembles."""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from flowmatch.metric_learning.data.crops import SquareCrops, unchanged_pixels
from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.fit import Recipe, load_backbone
from flowmatch.metric_learning.losses import LOSSES
from flowmatch.metric_learning.methods._base import IndexedDataset, LossMethod, Method
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
from flowmatch.metric_learning.methods.experimental import (
    AsymmetricStreamsMethod,
    SamplingPolicyMethod,
)
from flowmatch.training import StepReport, TrainingDiverged

METHODS: dict[str, type[Method]] = {
    "htl": HierarchicalTripletMethod,
    "divide-conquer": DivideAndConquerMethod,
    "bier": BierMethod,
    "a-bier": AdversarialBierMethod,
    "hdc": CascadeMethod,
    "abe": AttentionEnsembleMethod,
    "damlrrm": AsymmetricStreamsMethod,
    "de-dsp": SamplingPolicyMethod,
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
    check: Callable[[Method, int], None] | None = None,
) -> Method:
    """Train a network by a method with losses, batches and heads of its own, or by a loss.

    The loop is not `flowmatch.training.train`: before an epoch a method may embed the whole
    training set and choose a new batch sampler from the result, which a checkpoint of weights
    could not resume. It writes no checkpoints.

    Args:
        name: Name in `METHODS`, or the recipe's loss.
        recipe: Network and optimisation; methods of `METHODS` ignore its loss and miner.
        images: Training pictures.
        seed: Random seed of the initial weights and the batches.
        start: Initial weights of the backbone.
        device: Training device.
        workers: Number of processes that read pictures.
        on_step: Function called after each step.
        check: Function called after each step with the method and the number of the step, such as
            to measure it; it must leave the method in training mode.

    Returns:
        The method's network, which embeds pictures, in eval mode.

    Raises:
        ImportError: A library is missing.
        TrainingDiverged: The loss became NaN or infinite.
        ValueError: The method is unknown, or weights do not fit.
    """
    if name not in METHODS and name not in LOSSES:
        raise ValueError(f"method must be one of {', '.join((*METHODS, *LOSSES))}, got {name!r}")
    torch.manual_seed(seed)
    method = (
        METHODS[name](recipe, images, seed) if name in METHODS else LossMethod(recipe, images, seed)
    )
    if start is not None:
        load_backbone(method.network, start)
    # Convolutions of few channels take about two thirds of the time with the channels last.
    method.to(device).train()
    method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(
        [
            {"params": parameters, "lr": recipe.rate * factor}
            for parameters, factor in method.rates()
        ]
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    step, epoch, start_time = 0, 0, time.monotonic()
    while step < recipe.steps:
        method.begin_epoch(epoch, step / recipe.steps)
        if not len(method.batches):  # type: ignore[arg-type]
            raise ValueError(f"method {name} needs more pictures for a batch, got {len(images)}")
        for pictures, labels, items in _batches(recipe, images, method.batches, workers):
            value = method.loss(pictures.to(device).float() / 255, labels.to(device), items)
            if not value.isfinite():
                raise TrainingDiverged(
                    f"method {name}: the loss is {value.item()} at step {step + 1}"
                )
            if recipe.decay:
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * (1 - step / recipe.steps)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            method.end_step()
            step += 1
            pace = (time.monotonic() - start_time) / step
            if on_step is not None:
                on_step(StepReport(step, recipe.steps, {"loss": value.item()}, pace))
            if check is not None:
                check(method, step)
            if step == recipe.steps:
                break
        epoch += 1
    return method.eval()


def _batches(
    recipe: Recipe, images: LabelledImages, batches: Sampler[list[int]], workers: int
) -> Iterator[list[Tensor]]:
    """Yield pictures, labels and indices of each batch of an epoch."""
    pixels = None if recipe.augment else unchanged_pixels(images, recipe.size)
    if pixels is None:
        dataset = IndexedDataset(SquareCrops(images, recipe.size, recipe.augment))
        yield from DataLoader(dataset, batch_sampler=batches, num_workers=workers)
    else:
        labels = torch.from_numpy(images.labels)
        for batch in batches:
            items = torch.tensor(batch)
            yield [pixels[items], labels[items], items]


__all__ = ["METHODS", "Method", "train_method"]
