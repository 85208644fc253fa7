"""Weights of embedding networks, in the one file format of the package; none ship."""

from pathlib import Path

import torch
from torch import nn

from flowmatch.metric_learning.networks import MODELS, EmbeddingNet
from flowmatch.zoo import WeightStore

STORE = WeightStore("metric_learning", MODELS)
available = STORE.available


def load(
    model: str | Path | nn.Module = "default",
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = "cpu",
) -> EmbeddingNet:
    """Build an embedding network with trained weights.

    Args:
        model: File that `save_weights` wrote, or a network, which is only moved to the device.
            No weights ship, so that a name, ``"default"`` included, is an error.
        weights: File of weights, which takes precedence over `model`.
        device: Device of the network; None takes a GPU where torch can use one.

    Returns:
        The network, float32 and in eval mode; it knows its `size` and its `metric`.

    Raises:
        ValueError: The name or the device is unknown, the file is damaged or does not fit its
            network, or `model` is another kind of network.
        FileNotFoundError: The file does not exist.
    """
    network = STORE.load(model, weights=weights, device=device)
    if not isinstance(network, EmbeddingNet):
        raise ValueError(f"model must be an EmbeddingNet, got {type(network).__name__}")
    return network


def save_weights(path: str | Path, model: EmbeddingNet) -> None:
    """Write an embedding network as safetensors, float32.

    Args:
        path: File to write, ``.safetensors``.
        model: The network, on any device.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: A weight is not finite.
    """
    STORE.save(path, model, "embedding", model.arguments, torch.float32)
