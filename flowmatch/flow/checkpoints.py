"""Weights by name: those that ship, and files of one's own."""

import hashlib
from pathlib import Path

import torch
from torch import nn

from flowmatch.devices import choose_device
from flowmatch.flow.networks import MODELS
from flowmatch.training.weights import WEIGHTS, Shelf, check_finite, check_fit

__all__ = [
    "WEIGHTS",
    "check_finite",
    "check_fit",
    "default_name",
    "find_weights",
    "fingerprint",
    "load",
    "save_weights",
    "shipped",
]

_SHELF = Shelf("flow", MODELS)

shipped, find_weights, save_weights = _SHELF.shipped, _SHELF.find, _SHELF.save


def default_name() -> str:
    """Return the name of the best of the weights that ship."""
    return next(name for name, entry in shipped().items() if entry.get("default"))


def load(
    name: str = "default",
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Build a flow network with trained weights.

    Args:
        name: ``"default"``, the name of weights that ship (`shipped` lists them), or with
            `weights` any network in `flowmatch.flow.networks.MODELS`.
        weights: A ``.safetensors`` file, such as `save_weights` writes; it knows its network, and
            `name` is only needed if it does not.
        device: Where to put the network.

    Returns:
        The network, in eval mode, float32.

    Raises:
        ValueError: There is no such name or device, or the file does not fit the network.
        FileNotFoundError: There is no such file.

    Example:
        >>> model = load("default")
        >>> type(model).__name__
        'RecurrentPyramid'
    """
    target = choose_device(device)
    return _SHELF.read(find_weights(name, weights), name).to(target).eval()


def fingerprint(name: str = "default", weights: str | Path | None = None) -> str:
    """Return a word for the weights that `load` reads: it changes when the file does."""
    path = find_weights(name, weights)
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
