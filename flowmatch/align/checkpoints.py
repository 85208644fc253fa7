"""Weights of alignment networks by name: those that ship, and files of one's own."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowmatch.align.networks import MODELS
from flowmatch.devices import choose_device
from flowmatch.training.weights import Shelf

_SHELF = Shelf("align", MODELS)

find_weights = _SHELF.find


def shipped() -> dict[str, dict[str, Any]]:
    """Return the index of the weights that ship: name -> file, model, how they were made."""
    return _SHELF.shipped()


def load(
    name: str = "default",
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Build an alignment network with trained weights.

    Args:
        name: ``"default"`` or the name of weights that ship (`shipped` lists them); with
            `weights`, the file's network in `MODELS`, if the file does not say.
        weights: A ``.safetensors`` file, such as `save_weights` writes.
        device: Where to put the network.

    Returns:
        The network, in eval mode, float32.

    Raises:
        ValueError: No such weights ship, there is no such device, or the file does not fit.
        FileNotFoundError: There is no such file.

    Example:
        >>> [theta.shape for theta in load()(*torch.rand(2, 1, 3, 60, 80))]
        [torch.Size([1, 6]), torch.Size([1, 18])]
    """
    target = choose_device(device)
    return _SHELF.read(find_weights(name, weights), name).to(target).eval()


def save_weights(
    path: str | Path,
    model: nn.Module,
    name: str,
    arguments: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a network's weights as safetensors, with what is needed to rebuild it.

    Args:
        path: File to write, ``.safetensors``.
        model: The network.
        name: Its name in `MODELS`.
        arguments: Its constructor's.
        dtype: Of the weights in the file; counters stay whole numbers.

    Raises:
        ValueError: There is no such network, or a weight is not finite in `dtype`.
    """
    _SHELF.save(path, model, name, arguments, dtype)
