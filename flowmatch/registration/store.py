"""Weights of point-cloud descriptors by name."""

from pathlib import Path
from typing import cast

import torch

from flowmatch.registration.networks import MODELS, FieldDescriptor
from flowmatch.zoo import WeightStore

STORE = WeightStore("registration", MODELS)
load, available, save_weights = STORE.load, STORE.available, STORE.save


def choose_descriptor(
    model: str | Path | FieldDescriptor = "default",
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = "cpu",
) -> FieldDescriptor | str:
    """Return a trained descriptor network, or ``"fpfh"`` for the classical descriptor.

    Args:
        model: ``"fpfh"``, or as in `load`.
        weights: As in `load`.
        device: As in `load`.

    Raises:
        ValueError: The name or the device is unknown, or the file does not fit its network.
        FileNotFoundError: The file does not exist.

    Example:
        >>> choose_descriptor("fpfh")
        'fpfh'
    """
    if weights is None and model == "fpfh":
        return "fpfh"
    return cast(FieldDescriptor, load(model, weights=weights, device=device))
