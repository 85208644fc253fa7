"""One training loop for every task."""

from flowmatch.training.checkpoint import Checkpoint, RunState, load_checkpoint, save_checkpoint
from flowmatch.training.loop import (
    Progress,
    RunOptions,
    Samples,
    TrainingDiverged,
    is_first_process,
    to_device,
    train,
)
from flowmatch.training.run import Run, learnt_from
from flowmatch.training.schedule import Schedule

__all__ = [
    "Checkpoint",
    "Progress",
    "Run",
    "RunOptions",
    "RunState",
    "Samples",
    "Schedule",
    "TrainingDiverged",
    "is_first_process",
    "learnt_from",
    "load_checkpoint",
    "save_checkpoint",
    "to_device",
    "train",
]
