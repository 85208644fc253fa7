"""Everything a training run needs to go on where it was stopped, in one file."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from flowmatch.training.average import Average
from flowmatch.training.run import Run


class Checkpoint(TypedDict):
    """What a checkpoint holds."""

    step: int  # steps already done
    run: dict[str, Any]  # what must be the same when the run goes on: recipe, seed, network
    model: dict[str, Any]
    optimizer: dict[str, Any]
    average: dict[str, Any]  # the moving average of the model's state; empty without one
    random: Any  # the state of torch's generator, a tensor


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; a crash at any moment leaves the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing in the file is executed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not one of our checkpoints.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken or hostile file
        raise ValueError(f"{path} is not a readable checkpoint: {error}") from error
    missing = set(Checkpoint.__annotations__) - set(found if isinstance(found, dict) else ())
    if missing:
        raise ValueError(f"{path} is not a checkpoint of flowmatch: {sorted(missing)} missing")
    checkpoint: Checkpoint = found
    return checkpoint


@dataclass(frozen=True)
class RunState:
    """Everything a checkpoint holds, alive.

    Attributes:
        model: Everything with parameters.
        optimizer: What trains it.
        path: Of the checkpoint.
        run: What must be the same when the run goes on.
        average: The moving average of the model's state, where there is one.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    path: Path
    run: Run
    average: Average | None = None

    def save(self, step: int) -> None:
        """Write the checkpoint after so many steps."""
        save_checkpoint(
            self.path,
            Checkpoint(
                step=step,
                run=self.run.record(),
                model=self.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                average={} if self.average is None else self.average.weights,
                random=torch.get_rng_state(),
            ),
        )

    def restore(self) -> int:
        """Take everything from the checkpoint, and return the steps that are done.

        Raises:
            ValueError: It belongs to another run, or what it holds does not fit.
        """
        found = load_checkpoint(self.path)
        if differences := self.run.differences(found["run"]):
            raise ValueError(f"{self.path} belongs to another run: {'; '.join(differences)}")
        try:
            self.model.load_state_dict(found["model"])
            self.optimizer.load_state_dict(found["optimizer"])
            if self.average is not None:
                self.average.restore(found["average"], found["step"])
            torch.set_rng_state(found["random"])
            return int(found["step"])
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{self.path} does not fit the run that it names: {error}") from error
