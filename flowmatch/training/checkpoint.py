"""Checkpoints: the state of a training run in one file."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from flowmatch.io._files import reason_of
from flowmatch.tensor_files import read_saved, write_saved
from flowmatch.training.average import Average
from flowmatch.training.run import Run


class Checkpoint(TypedDict):
    """Content of a checkpoint file."""

    step: int  # steps already done
    run: dict[str, Any]  # what must be the same when the run goes on: recipe, seed, network
    model: dict[str, Any]
    optimizer: dict[str, Any]
    average: dict[str, Any]  # the moving average of the model's state; empty without one
    random: Any  # the state of torch's generator, a tensor


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; a crash at any moment leaves either the old or the new file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_saved(path, checkpoint)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without executing anything in the file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not one of our checkpoints.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    content = read_saved(path)
    missing = set(Checkpoint.__annotations__) - set(content if isinstance(content, dict) else ())
    if missing:
        raise ValueError(f"{path} is not a checkpoint of flowmatch: {sorted(missing)} missing")
    checkpoint: Checkpoint = content
    return checkpoint


@dataclass(frozen=True)
class RunState:
    """The objects whose state a checkpoint holds.

    Attributes:
        model: Module with all parameters.
        optimizer: Optimizer of the model.
        path: Path of the checkpoint.
        run: Identity of the run.
        average: Moving average of the model's state; None without one.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    path: Path
    run: Run
    average: Average | None = None

    def save(self, step: int) -> None:
        """Write the checkpoint after `step` finished steps."""
        save_checkpoint(
            self.path,
            Checkpoint(
                step=step,
                run=self.run.record(),
                model=self.model.state_dict(),
                optimizer=_interned(self.optimizer.state_dict()),
                average={} if self.average is None else self.average.weights,
                random=torch.get_rng_state(),
            ),
        )

    def restore(self) -> int:
        """Load the state from the checkpoint and return the number of finished steps.

        Raises:
            ValueError: The checkpoint belongs to another run, or does not fit the objects.
        """
        checkpoint = load_checkpoint(self.path)
        if differences := self.run.differences(checkpoint["run"]):
            raise ValueError(f"{self.path} belongs to another run: {'; '.join(differences)}")
        try:
            self.model.load_state_dict(checkpoint["model"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            if self.average is not None:
                self.average.restore(checkpoint["average"], checkpoint["step"])
            torch.set_rng_state(checkpoint["random"])
            return int(checkpoint["step"])
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{self.path} does not fit the run that it names: {reason_of(error)}"
            ) from error


def _interned(value: Any) -> Any:
    """Return a copy whose equal texts are one object, as in an optimizer that was not restored.

    Pickle writes an object once and then refers to it, so the bytes of a checkpoint depend on it.
    """
    if isinstance(value, dict):
        return {_interned(key): _interned(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_interned, value))
    return sys.intern(value) if isinstance(value, str) else value
