"""Networks of kornia, with weights that kornia downloads or that a file holds."""

import contextlib
import importlib
import io
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flowmatch.io._files import existing_file
from flowmatch.tensor_files import read_safetensors, read_saved
from flowmatch.zoo import check_finite, check_fit, unwrapped

_CONTAINERS = ("state_dict", "extractor", "model")  # of dictionaries that hold the weights
_MATCHER = "matcher."  # prefix in files that hold a matcher with its detector or its loss
_DERIVED = ("confidence_thresholds", "hw_grid")  # buffers that constructors compute


class Source(NamedTuple):
    """Constructors of a network.

    Attributes:
        name: Name in messages.
        empty: Constructor of the network with random weights.
        downloaded: Constructor of the network with the weights that kornia downloads.
        inner: Name of the submodule that a file of weights holds; empty for the whole network.
    """

    name: str
    empty: Callable[[], nn.Module]
    downloaded: Callable[[], nn.Module]
    inner: str = ""


def kornia_features(purpose: str) -> Any:
    """Import ``kornia.feature``.

    Args:
        purpose: Name of what needs it, for the message.

    Raises:
        ImportError: Kornia is not installed, or too old; the message says how to install it.
    """
    try:
        module = importlib.import_module("kornia.feature")
    except ModuleNotFoundError as error:
        # Only the package itself may be missing: a missing dependency is an installation error.
        if error.name not in ("kornia", "kornia.feature"):
            raise
        module = None
    if module is None or not all(hasattr(module, name) for name in ("ALIKED", "XFeat")):
        state = "is not installed" if module is None else "is too old"
        raise ImportError(
            f"{purpose} needs kornia 0.9 or newer, which {state}: pip install 'flowmatch[matchers]'"
        )
    return module


def load_network(source: Source, weights: str | Path | None, device: torch.device) -> nn.Module:
    """Build a network of kornia.

    Args:
        source: Its constructors.
        weights: File of weights as their authors published them, or ``.safetensors``; None lets
            kornia download them, unless they are in torch's cache.
        device: Device of the network.

    Returns:
        The network, in eval mode.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, or holds another network.
        ConnectionError: The weights cannot be downloaded.
    """
    network = _download(source) if weights is None else _read(source, existing_file(weights))
    return network.eval().to(device)


def _download(source: Source) -> nn.Module:
    # Kornia reports each attempt; the last error alone is of use.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            return source.downloaded()
        except (RuntimeError, OSError, ValueError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).partition("\n")[0]
            raise ConnectionError(
                f"the weights of {source.name} cannot be downloaded; give a file of them instead: "
                f"{reason}"
            ) from error


def _read(source: Source, path: Path) -> nn.Module:
    tensors = _published(_content(path))
    check_finite(tensors, path)
    network = source.empty()
    inner = network.get_submodule(source.inner)
    if tensors and all(key.startswith(f"{source.inner}.") for key in tensors):
        tensors = {key.removeprefix(f"{source.inner}."): value for key, value in tensors.items()}
    expected = {k: v for k, v in inner.state_dict().items() if not k.endswith(_DERIVED)}
    given = {key: value for key, value in tensors.items() if not key.endswith(_DERIVED)}
    check_fit(expected, given, path, source.name)
    inner.load_state_dict(given, strict=False)
    return network


def _content(path: Path) -> Any:
    if path.suffix.lower() == ".safetensors":
        return read_safetensors(path)[0]
    try:
        return read_saved(path)
    except ValueError as error:
        raise ValueError(f"{path} is no file of weights, or is damaged: {error}") from error


def _published(content: Any) -> dict[str, Tensor]:
    """Return the weights of a published file, by the names that kornia gives them."""
    while isinstance(content, Mapping) and (
        key := next((k for k in _CONTAINERS if isinstance(content.get(k), Mapping)), None)
    ):
        content = content[key]
    named = content.items() if isinstance(content, Mapping) else ()
    tensors = unwrapped({str(k): v for k, v in named if isinstance(v, Tensor)})
    matcher = {k: value for k, value in tensors.items() if k.startswith(_MATCHER)}
    return {_current_name(k.removeprefix(_MATCHER)): v for k, v in (matcher or tensors).items()}


def _current_name(key: str) -> str:
    """Return the name of a weight of LightGlue; its authors renamed the layers after publication.

    Example:
        >>> _current_name("self_attn.3.ffn.0.weight")
        'transformers.3.self_attn.ffn.0.weight'
    """
    kind, _, rest = key.partition(".")
    if kind not in ("self_attn", "cross_attn"):
        return key
    layer, _, rest = rest.partition(".")
    return f"transformers.{layer}.{kind}.{rest}"
