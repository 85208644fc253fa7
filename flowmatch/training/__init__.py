"""One training loop for every task."""

from flowmatch.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from flowmatch.training.loop import Progress, Schedule, TrainingDiverged, train

__all__ = [
    "Checkpoint",
    "Progress",
    "Schedule",
    "TrainingDiverged",
    "load_checkpoint",
    "save_checkpoint",
    "train",
]
