"""Weights by name: those that ship, and files of one's own."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from flowmatch.devices import choose_device
from flowmatch.flow.networks import MODELS
from flowmatch.io import replace_when_done

WEIGHTS = Path(__file__).parent.parent / "weights"


def shipped() -> dict[str, dict[str, Any]]:
    """Return the index of the flow weights that ship: name -> file, model, how they were made."""
    index: dict[str, dict[str, Any]] = json.loads((WEIGHTS / "index.json").read_text())["flow"]
    return index


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
        'PyramidNet'
    """
    target = choose_device(device)
    return _read_weights(find_weights(name, weights), name).to(target).eval()


def find_weights(name: str = "default", weights: str | Path | None = None) -> Path:
    """Return the file that `load` reads for these arguments.

    Raises:
        ValueError: No weights of that name ship.
        FileNotFoundError: There is no such file.
    """
    if weights is None:
        known = shipped()
        name = default_name() if name == "default" else name
        if name not in known:
            raise ValueError(
                f"no weights named {name!r} ship with flowmatch; there are: {', '.join(known)}"
            )
        weights = WEIGHTS / known[name]["file"]
    if not Path(weights).is_file():
        raise FileNotFoundError(f"there is no file of weights at {weights}")
    return Path(weights)


def fingerprint(name: str = "default", weights: str | Path | None = None) -> str:
    """Return a word for the weights that `load` reads: it changes when the file does."""
    path = find_weights(name, weights)
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


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
    check_finite(tensors, path)
    metadata = {"model": name, "arguments": json.dumps(arguments or {})}
    with replace_when_done(Path(path)) as beside:
        beside.write_bytes(save(tensors, metadata))


def _read_weights(path: Path, name: str) -> nn.Module:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        arguments = json.loads(metadata.get("arguments", "{}"))
    except (SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a whole .safetensors file: {error}") from error
    check_finite(tensors, path)
    name = metadata.get("model", name)
    if name not in MODELS:
        raise ValueError(
            f"{path} does not say its network; give one of {', '.join(MODELS)}, got {name!r}"
        )
    try:
        # First without memory: a stranger's file may ask for a network that does not fit any.
        with torch.device("meta"):
            check_fit(MODELS[name](**arguments).state_dict(), tensors, path, MODELS[name].__name__)
    except (TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path}: {name} cannot be built with {arguments}: {error}") from error
    model = MODELS[name](**arguments)
    model.load_state_dict(tensors)
    return model


def check_fit(
    expected: Mapping[str, torch.Tensor],
    tensors: Mapping[str, torch.Tensor],
    path: str | Path,
    name: str,
) -> None:
    """Refuse `tensors` whose keys and shapes are not those `expected`, naming each difference."""
    wrong = [
        *(f"{key} is missing" for key in expected.keys() - tensors.keys()),
        *(f"{key} is unexpected" for key in tensors.keys() - expected.keys()),
        *(
            f"{key} is {list(tensors[key].shape)}, not {list(expected[key].shape)}"
            for key in expected.keys() & tensors.keys()
            if tensors[key].shape != expected[key].shape
        ),
    ]
    if wrong:
        shown = "; ".join(sorted(wrong)[:8]) + ("; ..." if len(wrong) > 8 else "")
        raise ValueError(f"{path} does not fit {name}: {shown}")


def check_finite(tensors: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Refuse weights that are infinite or no numbers."""
    broken = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"{path}: weights must be finite, these are not: {', '.join(broken[:8])}")
