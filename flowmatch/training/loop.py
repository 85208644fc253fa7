"""The training loop, which stops and resumes to the same bits."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from flowmatch.io._lock import only_writer
from flowmatch.tensor_files import write_saved
from flowmatch.training.average import Average
from flowmatch.training.checkpoint import RunState
from flowmatch.training.interrupt import defer_interrupt
from flowmatch.training.run import Run
from flowmatch.training.schedule import Schedule
from flowmatch.training.threads import single_opencv_thread

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
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class StepReport:
    """Progress of a run after a training step.

    Attributes:
        step: Number of finished steps.
        steps: Number of steps in all.
        metrics: Loss and other values of the step by name.
        seconds_per_step: Mean duration of a step.
    """

    step: int
    steps: int
    metrics: dict[str, float]
    seconds_per_step: float

    @property
    def seconds_left(self) -> float:
        """Estimated time left, at the mean pace so far."""
        return (self.steps - self.step) * self.seconds_per_step


class RunOptions(TypedDict, total=False):
    """Options of a run that every trainer passes on to `train`, which documents them."""

    resume: bool
    workers: int
    device: str
    precision: str
    logs: Path | None
    on_step: Callable[[StepReport], None]


@dataclass(frozen=True)
class _Order:
    """Sample indices of one process's share of each batch, from step `start` on."""

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
    """Return the tensors of a batch on a device."""
    return [part.to(device, non_blocking=True) for part in batch]


@single_opencv_thread()
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
    on_step: Callable[[StepReport], None] | None = None,
) -> nn.Module:
    """Train `model` in place and return it, in eval mode.

    Samples come in the order of their indices, so a run that was stopped and resumed ends with the
    same bits as one that was not (on the same machine and number of threads). Started by
    ``torchrun`` or ``accelerate launch``, every process takes its share of each batch, on a device
    of its own, and the first one writes and reports.

    Args:
        model: Network to train.
        samples: Training samples, rendered or read by `workers` other processes.
        collate: Function from a list of samples to a batch of tensors, called in the worker.
        loss: Function from the network and a batch to the loss and to metrics by name.
        schedule: Steps, batch size, learning rate.
        checkpoint: File of the state, written every `every` steps, at the end, at an error, and at
            Ctrl-C once the current step is finished.
        run: Identity of the run, completed by `precision`; a checkpoint of another run is refused.
        resume: Continue from `checkpoint` if it exists.
        every: Number of steps between checkpoints.
        workers: Number of processes that make samples, per training process; 0 uses this process.
        device: Training device; with several processes, only whether it is ``"cpu"`` matters.
        precision: Type of the convolutions, ``"bfloat16"`` or ``"float32"``.
        prepare: Function that puts a batch on the device, called in the training process.
        logs: Folder of TensorBoard event files; None writes none.
        on_step: Function called after each step, by the first process.

    Raises:
        TrainingDiverged: The loss became NaN or infinite; the batch is saved beside `checkpoint`.
        ValueError: `checkpoint` belongs to another run, `precision` is unknown, or the batch cannot
            be split among the processes.
        ImportError: accelerate (or for `logs`, tensorboard) is not installed.
        BlockingIOError: Another run is writing the checkpoint.
    """
    accelerator = _accelerator(device, precision)
    processes = accelerator.num_processes
    if schedule.batch % processes:
        raise ValueError(f"a batch of {schedule.batch} cannot be split among {processes} processes")
    # Fails now rather than at the first checkpoint.
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
        # Without its own generator it would draw from the global one, once more in a resumed run.
        generator=torch.Generator(),
    )
    writer = _writer(logs, start) if accelerator.is_main_process else None
    began = time.monotonic()
    done, saved, halfway = start, start, False
    lock = ExitStack()
    if accelerator.is_main_process:
        lock.enter_context(only_writer(checkpoint))
    try:
        for step, batch in enumerate(loader, start):
            rate = schedule.rate_at(step)
            with defer_interrupt():
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
                if on_step is not None:
                    on_step(StepReport(done, schedule.steps, metrics, pace))
    except BaseException:
        # Finished steps are kept whatever ends the run; a half finished step is not saved.
        if accelerator.is_main_process and done > saved and not halfway:
            state.save(done)
        raise
    finally:
        lock.close()
        if writer:
            writer.close()
        accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)  # takes the autocast off again
    if schedule.average:
        model.load_state_dict(average.weights)
    return model.eval()


def is_first_process() -> bool:
    """Return whether this is the one training process that writes files and reports."""
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
    target = torch.device(device)
    if target.type == "cuda" and target.index is not None:
        torch.cuda.set_device(target)
    # A second run in one process may want another device or precision than the first.
    AcceleratorState._reset_state(reset_partial_state="RANK" not in os.environ)
    return Accelerator(cpu=target.type == "cpu", mixed_precision=PRECISIONS[precision])


def _writer(logs: Path | None, start: int) -> Any:
    if logs is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"logs need tensorboard: pip install 'flowmatch[train]' ({error})"
        ) from error
    # Entries that a stopped run logged after its last checkpoint are logged again.
    return SummaryWriter(str(logs), purge_step=start + 1 if start else None)


def _check_finite(
    accelerator: "Accelerator", value: Tensor, step: int, batch: Batch, checkpoint: Path
) -> None:
    """Stop all processes if the loss of one is not finite; each saves its share of the batch."""
    if torch.isfinite(accelerator.reduce(value.detach())).all():
        return
    share = f".{accelerator.process_index}" if accelerator.num_processes > 1 else ""
    batch_file = checkpoint.with_suffix(f".batch{share}.pt")
    write_saved(batch_file, batch)
    raise TrainingDiverged(
        f"the loss is {value.item()} at step {step}; its batch is in {batch_file}"
    )
