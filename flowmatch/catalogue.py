"""Weights of all tasks under one name, ``task/name``."""

from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from flowmatch.tensor_files import read_metadata
from flowmatch.zoo import PUBLISHED_SUFFIXES

TASKS = (
    "flow",
    "matching",
    "registration",
    "align",
    "tracking",
    "retrieval",
    "metric_learning",
)
"""Packages that have networks; each has `load`, `available`, `save_weights` and `MODELS`."""


def available() -> dict[str, dict[str, Any]]:
    """Return the weights that ship: ``"task/name"`` -> file, model, how it was made.

    Example:
        >>> "matching/hardnet-half" in available()
        True
    """
    return {
        f"{task}/{name}": entry for task in TASKS for name, entry in _room(task).available().items()
    }


def load(name: str | Path, *, device: str | torch.device | None = "cpu") -> nn.Module:
    """Build a network with trained weights.

    Args:
        name: ``"task/name"`` or ``"task/default"`` for weights that ship (`available` lists them);
            a ``.safetensors`` file that `save_weights` of a task wrote; or a file that others
            published and `load_external` of flow or matching reads.
        device: Device of the network; None takes a GPU where torch can use one.

    Returns:
        The network, in eval mode, float32.

    Raises:
        ValueError: The name or the device is unknown, or the file is damaged or does not fit.
        FileNotFoundError: The file does not exist.

    Example:
        >>> type(load("flow/default")).__name__
        'RecurrentPyramid'
    """
    task, slash, rest = str(name).partition("/")
    if slash and task in TASKS and not Path(name).suffix:
        return cast(nn.Module, _room(task).load(rest, device=device))
    path = Path(name)
    if path.suffix.lower() in PUBLISHED_SUFFIXES:
        return _load_published(path, device)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"name must be TASK/NAME with a task of {', '.join(TASKS)}, or a file: .safetensors "
            f"or published, {', '.join(PUBLISHED_SUFFIXES)}; got {str(name)!r}"
        )
    return cast(nn.Module, _room(_task_of(path)).load(path, device=device))


def _load_published(path: Path, device: str | torch.device | None) -> nn.Module:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of weights at {path}")
    reasons = []
    for task in ("flow", "matching"):
        try:
            return cast(nn.Module, _room(task).load(weights=path, device=device))
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError("; ".join(dict.fromkeys(reasons)))


def _task_of(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of weights at {path}")
    model = read_metadata(path).get("model", "")
    for task in TASKS:
        if model in _room(task).MODELS:
            return task
    raise ValueError(f"{path} does not say its network; load it by its task, with weights=")


def _room(task: str) -> Any:
    return import_module(f"flowmatch.{task}")
