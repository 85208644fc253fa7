"""The training loop: a model, samples, a loss, a schedule; stops and resumes without a trace."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from flowmatch.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

PRECISIONS = ("bfloat16", "float32")  # float16 would need its loss scaled

Batch = Any
Loss = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, float]]]


class Samples(Protocol):
    """An indexed collection; the loop asks for item ``step * batch + k``, so a run repeats."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class TrainingDiverged(ValueError):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        steps: Optimiser steps in all.
        batch: Samples in a step.
        learning_rate: The peak of the one-cycle schedule (Smith & Topin 2018).
        weight_decay: Of AdamW.
        warmup: Share of the steps that lead up to the peak.
        clip: Largest norm of the gradient.
    """

    steps: int
    batch: int
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: float = 0.04
    clip: float = 1.0


@dataclass(frozen=True)
class Progress:
    """What the loop reports after a step."""

    step: int
    steps: int
    metrics: dict[str, float]
    seconds_per_step: float

    @property
    def seconds_left(self) -> float:
        """At the pace so far."""
        return (self.steps - self.step) * self.seconds_per_step


@dataclass(frozen=True)
class _Order:
    """The indices of the batches from `start` on: what a resumed run has left."""

    start: int
    steps: int
    batch: int
    length: int

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            yield [(step * self.batch + k) % self.length for k in range(self.batch)]


def train(
    model: nn.Module,
    samples: Samples,
    collate: Callable[[Sequence[Any]], Batch],
    loss: Loss,
    schedule: Schedule,
    *,
    checkpoint: Path,
    run: dict[str, Any],
    resume: bool = False,
    every: int = 250,
    workers: int = 1,
    device: str = "cpu",
    precision: str = "bfloat16",
    report: Callable[[Progress], None] = lambda progress: None,
) -> nn.Module:
    """Train `model` in place and return it, in eval mode.

    Samples come in the order of their indices, so a run that was stopped and resumed ends with the
    same bits as one that was not (on the same machine and number of threads).

    Args:
        model: What is trained.
        samples: What it is trained on; rendered or read by `workers` other processes.
        collate: Makes a batch of tensors from a list of samples.
        loss: Gives the loss of a batch, and numbers worth reporting.
        schedule: Steps, batch size, learning rate.
        checkpoint: File that the state is written to every `every` steps and at the end.
        run: What identifies the run; a checkpoint of another one is not continued.
        resume: Continue from `checkpoint` if it exists.
        every: Steps between checkpoints.
        workers: Processes that make samples; 0 makes them in this one.
        device: Where to train.
        precision: ``"bfloat16"`` or ``"float32"``: the type of the convolutions.
        report: Called after every step.

    Raises:
        TrainingDiverged: The loss became NaN or infinite; the batch is saved beside `checkpoint`.
        ValueError: `checkpoint` belongs to another run, or `precision` is something else.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    checkpoint.parent.mkdir(
        parents=True, exist_ok=True
    )  # found out now, not at the first checkpoint
    model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    start = _restore(model, optimizer, checkpoint, run) if resume and checkpoint.exists() else 0
    order = _Order(start, schedule.steps, schedule.batch, len(samples))
    dataset: Dataset[Any] = samples  # type: ignore[assignment]  # it has what DataLoader needs
    loader = DataLoader(dataset, batch_sampler=order, collate_fn=collate, num_workers=workers)
    began = time.monotonic()
    for step, batch in enumerate(loader, start):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(schedule, step)
        batch = [part.to(device, non_blocking=True) for part in batch]
        with torch.autocast(
            torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16"
        ):
            value, metrics = loss(model, batch)
        if not torch.isfinite(value):
            culprit = checkpoint.with_suffix(".batch.pt")
            torch.save(batch, culprit)
            raise TrainingDiverged(
                f"the loss is {value.item()} at step {step}; its batch is in {culprit}"
            )
        _descend(model, optimizer, value, schedule.clip)
        done = step + 1
        if done % every == 0 or done == schedule.steps:
            _keep(model, optimizer, checkpoint, run, done)
        pace = (time.monotonic() - began) / (done - start)
        report(Progress(done, schedule.steps, {"loss": value.item(), **metrics}, pace))
    return model.eval()


def _descend(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, clip: float) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()


def _learning_rate(schedule: Schedule, step: int) -> float:
    """One cycle: up along a cosine during the warm-up, then down along one to nearly nothing."""
    peak, warm = schedule.learning_rate, schedule.warmup * schedule.steps
    if step < warm:
        return peak * (0.04 + 0.96 * _cosine(step / warm))
    return peak * (1e-4 + (1 - _cosine((step - warm) / max(schedule.steps - warm, 1))))


def _cosine(share: float) -> float:
    """Rise smoothly from 0 to 1."""
    return 0.5 - 0.5 * float(torch.cos(torch.tensor(torch.pi * share)))


def _keep(
    model: nn.Module, optimizer: torch.optim.Optimizer, path: Path, run: dict[str, Any], step: int
) -> None:
    state = Checkpoint(
        step=step, run=run, model=model.state_dict(), optimizer=optimizer.state_dict()
    )
    save_checkpoint(path, state)


def _restore(
    model: nn.Module, optimizer: torch.optim.Optimizer, path: Path, run: dict[str, Any]
) -> int:
    found = load_checkpoint(path)
    if found["run"] != run:
        raise ValueError(f"{path} belongs to another run: {found['run']}, not {run}")
    model.load_state_dict(found["model"])
    optimizer.load_state_dict(found["optimizer"])
    return found["step"]
