"""Weights of descriptors by name: those that ship, and files of one's own."""

from pathlib import Path
from typing import cast

import torch

from flowmatch.devices import choose_device
from flowmatch.registration.networks import MODELS, FieldDescriptor
from flowmatch.training.weights import Shelf

_SHELF = Shelf("registration", MODELS)

shipped, find_weights, save_weights = _SHELF.shipped, _SHELF.find, _SHELF.save


def load(
    name: str = "default",
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> FieldDescriptor:
    """Build a descriptor with trained weights.

    Args:
        name: ``"default"``, the name of weights that ship (`shipped` lists them), or with
            `weights` any network in `flowmatch.registration.networks.MODELS`.
        weights: A ``.safetensors`` file, such as `save_weights` writes; it knows its network, and
            `name` is only needed if it does not.
        device: Where to put the network.

    Returns:
        The network, in eval mode, float32.

    Raises:
        ValueError: There is no such name or device, or the file does not fit the network.
        FileNotFoundError: There is no such file.
    """
    target = choose_device(device)
    network = _SHELF.read(find_weights(name, weights), name)
    return cast(FieldDescriptor, network.to(target).eval())


def choose_descriptor(
    name: str = "default",
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> FieldDescriptor | str:
    """Return what describes scans: a trained network, or ``"fpfh"``.

    Args:
        name: ``"fpfh"``, or as in `load`.
        weights: As in `load`.
        device: As in `load`.

    Raises:
        ValueError: There is no such name or device, or the file does not fit the network.
        FileNotFoundError: There is no such file.

    Example:
        >>> choose_descriptor("fpfh")
        'fpfh'
    """
    if weights is None and name == "fpfh":
        return "fpfh"
    return load(name, weights=weights, device=device)
