"""Weights of descriptors: files of one's own."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from flowmatch.fragments.networks import MODELS, Descriptor3D
from flowmatch.io import replace_when_done


def save_weights(
    path: str | Path,
    network: Descriptor3D,
    name: str,
    arguments: dict[str, Any] | None = None,
) -> None:
    """Write a network's weights as float16 safetensors, with what is needed to rebuild it.

    Args:
        path: File to write, ``.safetensors``.
        network: The network.
        name: Its name in `MODELS`.
        arguments: Its constructor's.

    Raises:
        ValueError: There is no such network, or a weight is not finite in float16.
    """
    if name not in MODELS:
        raise ValueError(f"name must be one of {', '.join(MODELS)}, got {name!r}")
    tensors = {key: t.detach().cpu().half().contiguous() for key, t in network.state_dict().items()}
    _check_finite(tensors, path)
    metadata = {"model": name, "arguments": json.dumps(arguments or {})}
    with replace_when_done(Path(path)) as beside:
        beside.write_bytes(save(tensors, metadata))


def load_weights(path: str | Path, device: str | torch.device = "cpu") -> Descriptor3D:
    """Build the network that `save_weights` wrote.

    Args:
        path: A ``.safetensors`` file.
        device: Where to put the network.

    Returns:
        The network, in eval mode, float32.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or not of a network in `MODELS`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        arguments = json.loads(metadata.get("arguments", "{}"))
    except (SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a whole .safetensors file: {error}") from error
    _check_finite(tensors, path)
    name = metadata.get("model")
    if name not in MODELS:
        raise ValueError(f"{path} must say one of {', '.join(MODELS)}, got {name!r}")
    try:
        # First without memory: a stranger's file may ask for a network that does not fit any.
        with torch.device("meta"):
            expected = {k: t.shape for k, t in MODELS[name](**arguments).state_dict().items()}
        if expected != {key: tensor.shape for key, tensor in tensors.items()}:
            raise ValueError(f"{path} does not fit {name} with {arguments}")
        network = MODELS[name](**arguments)
    except (TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path}: {name} cannot be built with {arguments}: {error}") from error
    network.load_state_dict(tensors)
    return network.to(device).eval()


def _check_finite(tensors: dict[str, torch.Tensor], path: str | Path) -> None:
    broken = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"{path}: weights must be finite, these are not: {', '.join(broken[:8])}")
