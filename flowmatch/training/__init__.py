"""The training loop of every task, its checkpoints and schedules."""

from flowmatch.training.checkpoint import Checkpoint, RunState, load_checkpoint, save_checkpoint
from flowmatch.training.loop import (
    RunOptions,
    Samples,
    StepReport,
    TrainingDiverged,
    is_first_process,
    to_device,
    train,
)
from flowmatch.training.run import Run, data_digest
from flowmatch.training.schedule import Schedule
from flowmatch.training.threads import single_opencv_thread

__all__ = [
    "Checkpoint",
    "Run",
    "RunOptions",
    "RunState",
    "Samples",
    "Schedule",
    "StepReport",
    "TrainingDiverged",
    "is_first_process",
    "data_digest",
    "load_checkpoint",
    "save_checkpoint",
    "single_opencv_thread",
    "to_device",
    "train",
]
