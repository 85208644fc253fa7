"""Embeddings in files: safetensors that know how to be rebuilt."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from flowmatch.io import replace_when_done
from flowmatch.metric_learning.networks import EmbeddingNet


@dataclass(frozen=True)
class Embedding:
    """A network that embeds, and how it is to be used.

    Attributes:
        network: The network.
        size: Of the square pictures it was trained on.
        metric: What its embeddings are compared by, ``"cosine"`` or ``"l2"``.
    """

    network: EmbeddingNet
    size: int
    metric: str


def save_embedding(path: str | Path, embedding: Embedding) -> None:
    """Write an embedding, float32.

    Args:
        path: File to write, ``.safetensors``.
        embedding: Of any device.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    network = embedding.network
    tensors = {key: t.detach().cpu().contiguous() for key, t in network.state_dict().items()}
    about = {
        "trunk": network.trunk_name,
        "dimension": network.embedding.out_features,
        "channels": network.channels,
        "size": embedding.size,
        "metric": embedding.metric,
    }
    with replace_when_done(path) as beside:
        beside.write_bytes(save(tensors, {"embedding": json.dumps(about)}))


def load_embedding(path: str | Path, device: str | torch.device = "cpu") -> Embedding:
    """Read what `save_embedding` wrote.

    Args:
        path: The file; a stranger's is safe to read.
        device: Where to put the network.

    Returns:
        The embedding, its network in eval mode.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or no embedding, or does not fit its network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about: Any = json.loads((file.metadata() or {}).get("embedding", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a whole .safetensors file: {error}") from error
    try:
        size, metric = int(about["size"]), str(about["metric"])
        arguments = str(about["trunk"]), int(about["dimension"]), int(about["channels"])
        # First without memory: a stranger's file may ask for a network that does not fit any.
        with torch.device("meta"):
            wanted = EmbeddingNet(*arguments).state_dict()
    except (KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path} is no embedding of flowmatch: {error!r}") from error
    if {k: t.shape for k, t in wanted.items()} != {k: t.shape for k, t in tensors.items()}:
        raise ValueError(f"{path} does not fit its network, {arguments[0]}")
    if size < 1 or metric not in ("cosine", "l2"):
        raise ValueError(f"{path} must say size and cosine or l2, got {size} and {metric!r}")
    network = EmbeddingNet(*arguments)
    network.load_state_dict(tensors)
    return Embedding(network.to(device).eval(), size, metric)
