"""Weights of patch networks by name: those that ship, and files of one's own."""

from pathlib import Path

import torch
from torch import nn

from flowmatch.devices import choose_device
from flowmatch.matching.networks import MODELS
from flowmatch.training.weights import Shelf

_SHELF = Shelf("matching", MODELS)

shipped, find_weights, save_weights = _SHELF.shipped, _SHELF.find, _SHELF.save


def load(
    name: str = "default",
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Build a patch network with trained weights.

    Args:
        name: ``"default"``, the descriptor that matching uses; the name of weights that ship
            (`shipped` lists them); or with `weights` any network in
            `flowmatch.matching.networks.MODELS`.
        weights: A ``.safetensors`` file, such as `save_weights` writes; it knows its network, and
            `name` is only needed if it does not.
        device: Where to put the network.

    Returns:
        The network, in eval mode, float32.

    Raises:
        ValueError: There is no such name or device, or the file does not fit the network.
        FileNotFoundError: There is no such file.

    Example:
        >>> network = load("default")
        >>> network(torch.rand(3, 1, 32, 32)).shape
        torch.Size([3, 128])
    """
    target = choose_device(device)
    network = _SHELF.read(find_weights(name, weights), name).eval()
    # Convolutions of small patches are faster so, on CPUs and on GPUs.
    return network.to(target, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
