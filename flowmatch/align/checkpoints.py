"""Weights of alignment networks by name: those that ship, and files of one's own."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from flowmatch.align.networks import MODELS
from flowmatch.devices import choose_device
from flowmatch.io import replace_when_done

WEIGHTS = Path(__file__).parent.parent / "weights"
TASK = "align"  # its key in the index of weights


def shipped() -> dict[str, dict[str, Any]]:
    """Return the index of the weights that ship: name -> file, model, how they were made."""
    index: dict[str, dict[str, dict[str, Any]]] = json.loads((WEIGHTS / "index.json").read_text())
    return index.get(TASK, {})


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
    """
    target = choose_device(device)
    return _read(find_weights(name, weights), name).to(target).eval()


def find_weights(name: str = "default", weights: str | Path | None = None) -> Path:
    """Return the file that `load` reads for these arguments.

    Raises:
        ValueError: No weights of that name ship.
        FileNotFoundError: There is no such file.
    """
    if weights is None:
        known = shipped()
        if name == "default":
            name = next((n for n, entry in known.items() if entry.get("default")), name)
        if name not in known:
            there = ", ".join(known) or "none"
            raise ValueError(f"no alignment weights named {name!r} ship; there are: {there}")
        weights = WEIGHTS / known[name]["file"]
    if not Path(weights).is_file():
        raise FileNotFoundError(f"there is no file of weights at {weights}")
    return Path(weights)


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
    if name not in MODELS:
        raise ValueError(f"name must be one of {', '.join(MODELS)}, got {name!r}")
    tensors = {
        key: t.detach().cpu().to(dtype if t.is_floating_point() else t.dtype).contiguous()
        for key, t in model.state_dict().items()
    }
    _check_finite(tensors, path)
    metadata = {"model": name, "arguments": json.dumps(arguments or {})}
    with replace_when_done(Path(path)) as beside:
        beside.write_bytes(save(tensors, metadata))


def _read(path: Path, name: str) -> nn.Module:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        arguments = json.loads(metadata.get("arguments", "{}"))
    except (SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a whole .safetensors file: {error}") from error
    _check_finite(tensors, path)
    name = metadata.get("model", name)
    if name not in MODELS:
        raise ValueError(f"{path} is not of a network in {', '.join(MODELS)}, got {name!r}")
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
    return network


def _check_finite(tensors: dict[str, Tensor], path: str | Path) -> None:
    broken = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"{path}: weights must be finite, these are not: {', '.join(broken[:8])}")
