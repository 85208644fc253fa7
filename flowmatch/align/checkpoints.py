"""Weights of alignment networks by name: those that ship, and files of one's own."""

from pathlib import Path

import torch
from torch import nn

from flowmatch.align.networks import MODELS
from flowmatch.devices import choose_device
from flowmatch.training.weights import Shelf

_SHELF = Shelf("align", MODELS)

shipped, find_weights, save_weights = _SHELF.shipped, _SHELF.find, _SHELF.save


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
