"""Descriptors of keypoints, by networks and by OpenCV."""

from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from flowmatch.devices import autocast, check_precision, choose_device
from flowmatch.matching.classical import CLASSICAL, describe_classically
from flowmatch.matching.compare import evaluating
from flowmatch.matching.external import load_external
from flowmatch.matching.keypoints import Keypoints
from flowmatch.matching.networks import DESCRIPTORS, DescriptorNetwork
from flowmatch.matching.patches import extract_patches, magnification_of
from flowmatch.matching.store import available, load
from flowmatch.zoo import check_float32

_BATCH = 512
_CPU_BATCH = 64  # patches whose features fit into the cache of a core

_Network = TypeVar("_Network")


def describe_keypoints(
    image: ArrayLike,
    keypoints: Keypoints,
    *,
    model: DescriptorNetwork | nn.Module | str | Path = "default",
    device: str | torch.device | None = None,
    magnification: float | None = None,
    batch: int | None = None,
    precision: str = "float32",
) -> Tensor:
    """Describe the keypoints of an image.

    Args:
        image: uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        keypoints: N keypoints of this image, by any detector.
        model: ``"default"`` or another name of shipped weights; ``"rootsift"``, ``"sift"``,
            ``"orb"`` for OpenCV's descriptors; a file of weights; or a network, run in eval mode.
        device: Device of the network; None takes a GPU if torch can use one. A network given as a
            module stays on its device then.
        magnification: Half the side of a patch, in keypoint scales, for networks; None takes the
            value that each network was trained with.
        batch: Number of patches described at once; None chooses it by device.
        precision: Precision of a network's convolutions: ``"float32"``, ``"bfloat16"`` or
            ``"float16"``. The latter are about 1.6 times as fast on processors that have them and
            change descriptors by about a hundredth.

    Returns:
        Float32 ``[N, D]``, compared by l2; for ``"orb"`` uint8 ``[N, 32]``, compared by hamming.
        Without gradients.

    Raises:
        ValueError: `model`, `image`, `batch` or `precision` is invalid.
        FileNotFoundError: The file of weights does not exist.

    Example:
        >>> import numpy as np
        >>> from flowmatch.matching.keypoints import detect_keypoints
        >>> image = np.tile(np.arange(96, dtype=np.uint8), (64, 1))
        >>> keypoints = detect_keypoints(image, "grid", keypoints=6)
        >>> describe_keypoints(image, keypoints, model="rootsift").shape
        torch.Size([6, 128])

    Reference:
        RootSIFT: Arandjelovic and Zisserman, Three Things Everyone Should Know to Improve Object
        Retrieval, CVPR 2012.
    """
    check_precision(precision)
    network = load_descriptor(model, device)
    if isinstance(network, str):
        return torch.from_numpy(describe_classically(image, keypoints, network))
    target = device_of(network)
    if batch is None:
        batch = _CPU_BATCH if target.type == "cpu" else _BATCH
    if batch < 1:
        raise ValueError(f"batch must be positive, got {batch}")
    if magnification is None:
        magnification = magnification_of(network)
    patches = extract_patches(
        image, keypoints, network.patch_size, magnification=magnification, device=target
    )
    if len(patches) == 0:
        return torch.empty(0, network.dim, device=target)
    with evaluating(network), autocast(target, precision):
        parts = [network(patches[k : k + batch]) for k in range(0, len(patches), batch)]
    return torch.cat(parts).float()


def load_descriptor(
    model: DescriptorNetwork | nn.Module | str | Path, device: str | torch.device | None = None
) -> DescriptorNetwork | str:
    """Return a descriptor network by name, file or module.

    Args:
        model: ``"default"`` or another name of shipped weights; a ``.safetensors`` file; a file
            that `load_external` reads; or ``"rootsift"``, ``"sift"``, ``"orb"`` or a network,
            which are returned as they are.
        device: Device of the network; None takes a GPU if torch can use one, and leaves a given
            network where it is.

    Raises:
        ValueError: The name is unknown, the weights do not describe patches, or a given network is
            not float32.
        FileNotFoundError: The file does not exist.
    """
    if not isinstance(model, str | Path):
        if isinstance(model, nn.Module):
            check_float32(model)
        return on_device(model, device)  # type: ignore[return-value]
    if model in CLASSICAL:
        return str(model)
    target = choose_device(device)
    if is_file_name(model):
        is_external = Path(model).suffix not in ("", ".safetensors")
        network: Any = load_external(model) if is_external else load(model)
    else:
        network = _shipped(str(model), target)
    if not hasattr(network, "dim"):
        raise ValueError(f"{model} compares patches, it does not describe them")
    return network.to(target)  # type: ignore[no-any-return]


@lru_cache(4)
def _shipped(name: str, device: torch.device) -> nn.Module:
    if name != "default" and name not in available():
        known = ", ".join((*CLASSICAL, "default", *descriptors()))
        raise ValueError(f"a descriptor must be one of {known}, or a file, got {name!r}")
    return load(name, device=device)


def descriptors() -> list[str]:
    """Return the names of the shipped weights that describe patches."""
    return [name for name, entry in available().items() if entry["model"] in DESCRIPTORS]


def is_file_name(model: str | Path) -> bool:
    """Tell whether a model is given by a file rather than by the name of shipped weights."""
    return isinstance(model, Path) or bool(Path(model).suffix) or "/" in model


def on_device(network: _Network, device: str | torch.device | None) -> _Network:
    """Return a network on a device; None leaves it where it is."""
    if device is not None and isinstance(network, nn.Module):
        network.to(choose_device(device))
    return network


def device_of(network: Any) -> torch.device:
    """Return the device of a network's weights; the CPU if it has none."""
    weights = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return torch.device("cpu") if weights is None else weights.device
