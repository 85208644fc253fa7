"""Describers, which turn an image into one global descriptor, by name or for an index."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from flowmatch.imaging import Image
from flowmatch.matching.describe import is_file_name, load_descriptor, on_device
from flowmatch.matching.store import STORE as MATCHING
from flowmatch.retrieval.backbone_describer import PREFIX, BackboneDescriber
from flowmatch.retrieval.network import MODELS, RetrievalNet
from flowmatch.retrieval.store import STORE
from flowmatch.retrieval.vlad_describer import CLASSICAL, VladDescriber, VladOptions, parse_about
from flowmatch.tensor_files import read_metadata
from flowmatch.zoo import check_float32, file_digest

Model: TypeAlias = str | Path | nn.Module
"""A local descriptor or a retrieval network, by name, file or module, see `load_describer`."""
_DEFAULTS = VladOptions()


class Describer(Protocol):
    """Maker of global descriptors, as an index needs it.

    Attributes:
        about: One line of text that, with `state`, determines the descriptors.
    """

    about: str

    def fit(self, images: Iterable[Image]) -> None:
        """Learn from a sample of images, before the first description."""

    def state(self) -> dict[str, Tensor]:
        """Return what `fit` learned."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned; ValueError if it does not fit."""

    def __call__(self, image: ArrayLike) -> Tensor:
        """Describe a uint8 image by ``[D]`` of unit length; zeros if nothing can be described."""


def load_describer(
    model: Model = "default",
    *,
    device: str | torch.device | None = None,
    options: VladOptions = _DEFAULTS,
) -> Describer:
    """Return the describer of a model.

    Args:
        model: A local descriptor, for VLAD: ``"rootsift"``, ``"sift"``, ``"default"`` or another
            name of weights of `flowmatch.matching`, a file of such weights, or a descriptor
            network; or a network of whole images: a file that ``flowmatch train retrieval`` wrote,
            or a `RetrievalNet`.
        device: Device of the network; None takes a GPU if torch can use one, and leaves a given
            network where it is.
        options: Options of VLAD.

    Returns:
        `VladDescriber` or `BackboneDescriber`.

    Raises:
        ValueError: The name is unknown, or the file is damaged or of another task.
        FileNotFoundError: The file does not exist.

    Example:
        >>> load_describer("rootsift").about
        'vlad rootsift words=64 keypoints=1000 side=640 seed=0'
    """
    network, name = _load(model, device)
    if isinstance(network, RetrievalNet):
        return BackboneDescriber.of_network(network, name)
    return VladDescriber(network, options, name=name)


def describer_of(
    about: str, model: Model = "default", *, device: str | torch.device | None = None
) -> Describer:
    """Return the describer that an index was made with, before its state is restored.

    Args:
        about: Text of the index, `Describer.about`.
        model: The model, as `load_describer` takes it. ``"default"`` is enough for classical
            descriptors and shipped weights, which the text names.
        device: Device of the network; None takes a GPU if torch can use one, and leaves a given
            network where it is.

    Raises:
        ValueError: The index was made with another model, or one that has to be given.
        FileNotFoundError: A file of weights does not exist.

    Example:
        >>> describer_of("vlad sift words=8 keypoints=9 side=9 seed=0").descriptor
        'sift'
    """
    if about.startswith(PREFIX):
        return _backbone_describer_of(about, model, device)
    kind, options = parse_about(about)
    if kind in CLASSICAL:
        return VladDescriber(kind, options)
    if isinstance(model, str) and model == "default":
        model = _shipped_name(kind)
    network, name = _load(model, device)
    if isinstance(network, str | RetrievalNet) or name != kind:
        raise ValueError(f"the index was made with {kind!r}, not with {name!r}")
    return VladDescriber(network, options, name=kind)


def _backbone_describer_of(
    about: str, model: Model, device: str | torch.device | None
) -> BackboneDescriber:
    if isinstance(model, str) and model == "default":
        raise ValueError(f"the index was made by {about!r}: give those weights")
    network, name = _load(model, device)
    if not isinstance(network, RetrievalNet):
        raise ValueError(f"the index was made by {about!r}, not with {name!r}")
    describer = BackboneDescriber.of_network(network, name)
    if describer.about != about:
        raise ValueError(f"the index was made by {about!r}, not by {describer.about!r}")
    return describer


def _shipped_name(digest: str) -> str:
    """Return the name of the shipped weights whose file has a digest."""
    for name in MATCHING.available():
        if MATCHING.digest(name) == digest:
            return name
    raise ValueError(f"the index was made with {digest!r}: give that network")


def _load(model: Model, device: str | torch.device | None) -> tuple[Any, str]:
    """Return a classical descriptor or a network, and a name that changes with its weights."""
    if isinstance(model, nn.Module):
        if not isinstance(model, RetrievalNet) and not hasattr(model, "dim"):
            raise ValueError(f"expected a descriptor network, got {type(model).__name__}")
        check_float32(model)
        return on_device(model, device), f"{type(model).__name__} {_module_digest(model)}"
    if model in CLASSICAL:
        return str(model), str(model)
    if not is_file_name(model):
        network = load_descriptor(model, device)
        return network, str(model) if isinstance(network, str) else MATCHING.digest(model)
    path = Path(model)
    if _is_retrieval_file(path):
        return STORE.load(path, device=device), STORE.digest(path)
    return load_descriptor(path, device), file_digest(path)


def _is_retrieval_file(path: Path) -> bool:
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    return read_metadata(path).get("model") in MODELS


def _module_digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
