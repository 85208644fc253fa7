"""The training loop: a model, samples, a loss, a schedule; stops and resumes without a trace."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from flowmatch.training.average import Average
from flowmatch.training.checkpoint import RunState
from flowmatch.training.run import Run
from flowmatch.training.schedule import Schedule
from flowmatch.training.whole import whole_step

if TYPE_CHECKING:
    from accelerate import Accelerator

PRECISIONS = {"bfloat16": "bf16", "float32": "no"}  # float16 would need its loss scaled
LOG_EVERY = 10  # steps

Batch = Any
Loss = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, float]]]


class Samples(Protocol):
    """An indexed collection; the loop asks for item ``step * batch + k``, so a run repeats."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class TrainingDiverged(ValueError):
    """The loss is no longer a number."""


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


class RunOptions(TypedDict, total=False):
    """How a run goes, whatever is learnt: every trainer hands it on to `train`, which explains."""

    resume: bool
    workers: int
    device: str
    precision: str
    logs: Path | None
    report: Callable[[Progress], None]


@dataclass(frozen=True)
class _Order:
    """The indices of one process's share of the batches from `start` on."""

    start: int
    schedule: Schedule
    length: int
    process: int
    processes: int

    def __iter__(self) -> Iterator[list[int]]:
        batch = self.schedule.batch
        for step in range(self.start, self.schedule.steps):
            mine = range(self.process, batch, self.processes)
            yield [(step * batch + k) % self.length for k in mine]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Send the tensors of a batch to a device."""
    return [part.to(device, non_blocking=True) for part in batch]


def train(
    model: nn.Module,
    samples: Samples,
    collate: Callable[[Sequence[Any]], Batch],
    loss: Loss,
    schedule: Schedule,
    *,
    checkpoint: Path,
    run: Run,
    resume: bool = False,
    every: int = 250,
    workers: int = 1,
    device: str = "cpu",
    precision: str = "bfloat16",
    prepare: Callable[[Batch, torch.device], Batch] = to_device,
    logs: Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> nn.Module:
    """Train `model` in place and return it, in eval mode.

    Samples come in the order of their indices, so a run that was stopped and resumed ends with the
    same bits as one that was not (on the same machine and number of threads). Started by
    ``torchrun`` or ``accelerate launch``, every process takes its share of each batch, on a device
    of its own, and the first one writes and reports.

    Args:
        model: What is trained.
        samples: What it is trained on; rendered or read by `workers` other processes.
        collate: Makes a batch of tensors from a list of samples, in the process that made them.
        loss: Gives the loss of a batch, and numbers worth reporting.
        schedule: Steps, batch size, learning rate.
        checkpoint: File that the state is written to every `every` steps, at the end and at Ctrl-C,
            which waits for the step to be whole.
        run: What identifies the run, with `precision`; a checkpoint of another is not continued.
        resume: Continue from `checkpoint` if it exists.
        every: Steps between checkpoints.
        workers: Processes that make samples, for each that trains; 0 makes them in this one.
        device: Where to train; with several processes, only ``"cpu"`` or not matters.
        precision: ``"bfloat16"`` or ``"float32"``: the type of the convolutions.
        prepare: Makes of a batch what the loss is given, in this process and on its device.
        logs: Folder for TensorBoard's event files; None writes none.
        report: Called after every step, by the first process.

    Raises:
        TrainingDiverged: The loss became NaN or infinite; the batch is saved beside `checkpoint`.
        ValueError: `checkpoint` belongs to another run, `precision` is something else, or the
            batch cannot be split among the processes.
        ImportError: accelerate (or for `logs`, tensorboard) is not installed.
    """
    accelerator = _accelerator(device, precision)
    processes = accelerator.num_processes
    if schedule.batch % processes:
        raise ValueError(f"a batch of {schedule.batch} cannot be split among {processes} processes")
    # Found out now, not at the first checkpoint.
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    volumes = any(parameter.dim() == 5 for parameter in model.parameters())
    layout = torch.channels_last_3d if volumes else torch.channels_last
    model.to(accelerator.device, memory_format=layout).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    average = Average(model, schedule.average)
    run = replace(run, facts={**run.facts, "precision": precision})
    state = RunState(model, optimizer, checkpoint, run, average)
    start = state.restore() if resume and checkpoint.exists() else 0
    wrapped, stepper = accelerator.prepare(model, optimizer)
    order = _Order(start, schedule, len(samples), accelerator.process_index, processes)
    dataset: Dataset[Any] = samples  # type: ignore[assignment]  # it has what DataLoader needs
    loader = DataLoader(
        dataset,
        batch_sampler=order,
        collate_fn=collate,
        num_workers=workers,
        # Else it draws from the losses' generator, once more in a run that goes on.
        generator=torch.Generator(),
    )
    writer = _writer(logs, start) if accelerator.is_main_process else None
    began = time.monotonic()
    done, saved, halfway = start, start, False
    try:
        for step, batch in enumerate(loader, start):
            rate = schedule.rate_at(step)
            with whole_step():
                halfway = True
                for group in optimizer.param_groups:
                    group["lr"] = rate
                batch = prepare(batch, accelerator.device)
                value, metrics = loss(wrapped, batch)
                _check_finite(accelerator, value, step, batch, checkpoint)
                stepper.zero_grad()
                accelerator.backward(value)
                accelerator.clip_grad_norm_(model.parameters(), schedule.clip)
                stepper.step()
                average.update(model)
                done, halfway = step + 1, False
            if accelerator.is_main_process:
                if done % every == 0 or done == schedule.steps:
                    state.save(done)
                    saved = done
                metrics = {"loss": value.item(), **metrics}
                if writer and (done % LOG_EVERY == 0 or done == schedule.steps):
                    for name, number in {**metrics, "learning_rate": rate}.items():
                        writer.add_scalar(name, number, done)
                pace = (time.monotonic() - began) / (done - start)
                report(Progress(done, schedule.steps, metrics, pace))
    except KeyboardInterrupt:
        # Not what is half changed: the last file is whole.
        if accelerator.is_main_process and done > saved and not halfway:
            state.save(done)
        raise
    finally:
        if writer:
            writer.close()
        accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)  # takes the autocast off again
    if schedule.average:
        model.load_state_dict(average.weights)
    return model.eval()


def is_first_process() -> bool:
    """Return whether this process writes files and reports, among those that train together."""
    return int(os.environ.get("RANK", "0")) == 0


def _accelerator(device: str, precision: str) -> "Accelerator":
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise ImportError(
            f"training needs accelerate: pip install 'flowmatch[train]' ({error})"
        ) from error
    where = torch.device(device)
    if where.type == "cuda" and where.index is not None:
        torch.cuda.set_device(where)
    # A second run in one process may want another device or precision than the first.
    AcceleratorState._reset_state(reset_partial_state="RANK" not in os.environ)
    return Accelerator(cpu=where.type == "cpu", mixed_precision=PRECISIONS[precision])


def _writer(logs: Path | None, start: int) -> Any:
    if logs is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"logs need tensorboard: pip install 'flowmatch[train]' ({error})"
        ) from error
    # What a stopped run logged after its last checkpoint will be logged again.
    return SummaryWriter(str(logs), purge_step=start + 1 if start else None)


def _check_finite(
    accelerator: "Accelerator", value: Tensor, step: int, batch: Batch, checkpoint: Path
) -> None:
    """Stop every process if the loss of any is no number; each saves its own share of the batch."""
    if torch.isfinite(accelerator.reduce(value.detach())).all():
        return
    share = f".{accelerator.process_index}" if accelerator.num_processes > 1 else ""
    culprit = checkpoint.with_suffix(f".batch{share}.pt")
    torch.save(batch, culprit)
    raise TrainingDiverged(f"the loss is {value.item()} at step {step}; its batch is in {culprit}")
