"""Weights of point-cloud descriptors by name."""

from pathlib import Path
from typing import TypeAlias, cast

import torch
from torch import nn

from flowmatch.registration.networks import MODELS, FieldDescriptor
from flowmatch.zoo import WeightStore, check_float32

STORE = WeightStore("registration", MODELS)
load, available, save_weights = STORE.load, STORE.available, STORE.save

Descriptor: TypeAlias = FieldDescriptor | str
"""A descriptor network, or ``"fpfh"``, the classical descriptor."""


def load_descriptor(
    model: str | Path | nn.Module = "default",
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
) -> Descriptor:
    """Return a trained descriptor network in eval mode, or ``"fpfh"``.

    Args:
        model: ``"fpfh"``; the name of shipped weights; a ``.safetensors`` file; or a network.
        weights: A ``.safetensors`` file, which takes precedence over a name.
        device: Device of the network. None takes a GPU where torch can use one, and leaves a
            given network on its device.

    Raises:
        ValueError: The name or the device is unknown, the file does not fit its network, or the
            network is not a `FieldDescriptor` or not float32.
        FileNotFoundError: The file does not exist.

    Example:
        >>> load_descriptor("fpfh")
        'fpfh'
    """
    if isinstance(model, nn.Module):
        if not isinstance(model, FieldDescriptor):
            raise ValueError(f"model must be a FieldDescriptor, got {type(model).__name__}")
        check_float32(model)
        return model.eval() if device is None else cast(FieldDescriptor, load(model, device=device))
    if weights is None and model == "fpfh":
        return "fpfh"
    return cast(FieldDescriptor, load(model, weights=weights, device=device))


def load_descriptors(
    model: str | Path | nn.Module = "auto",
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
) -> tuple[Descriptor, ...]:
    """Return the descriptors that a registration tries in turn until its result is trusted.

    Args:
        model: As for `load_descriptor`; or ``"auto"``: ``"fpfh"``, then the default network.
        weights: A ``.safetensors`` file, which takes precedence over a name.
        device: Device of the network, see `load_descriptor`.

    Raises:
        ValueError: See `load_descriptor`.
        FileNotFoundError: The file does not exist.

    Example:
        >>> load_descriptors("fpfh")
        ('fpfh',)
    """
    if weights is None and isinstance(model, str) and model == "auto":
        return "fpfh", load_descriptor("default", device=device)
    if isinstance(model, str) and model == "auto":
        model = "default"
    return (load_descriptor(model, weights=weights, device=device),)
