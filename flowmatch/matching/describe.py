"""Descriptors of keypoints, by networks and by OpenCV."""

from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from flowmatch._opencv import SIFT_SHIFT, cv2
from flowmatch.devices import autocast, check_precision, choose_device
from flowmatch.imaging import as_gray
from flowmatch.matching.compare import evaluating
from flowmatch.matching.external import load_external
from flowmatch.matching.keypoints import MAGNIFICATION, ORB_FACTOR, Keypoints, level_scales
from flowmatch.matching.networks import DESCRIPTORS, DescriptorNetwork
from flowmatch.matching.patches import extract_patches, magnification_of
from flowmatch.matching.store import available, load

CLASSICAL = ("rootsift", "sift", "orb")

_BATCH = 512
_CPU_BATCH = 64  # patches whose features fit into the cache of a core

# OpenCV's constants: blur of SIFT's first layer and layers per octave; side of ORB's patch and
# number of its levels.
_SIFT_SIGMA, _SIFT_LAYERS = 1.6, 3
_ORB_SIDE, _ORB_LEVELS = 31, 8

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
        return _describe_classically(as_gray(image), keypoints, network)
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
        ValueError: The name is unknown, or the weights do not describe patches.
        FileNotFoundError: The file does not exist.
    """
    if not isinstance(model, str | Path):
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


def _describe_classically(gray: NDArray[np.uint8], keypoints: Keypoints, name: str) -> Tensor:
    if name == "orb":
        return torch.from_numpy(_orb(gray, keypoints))
    sift = _sift(gray, keypoints)
    return torch.from_numpy(root_sift(sift) if name == "rootsift" else sift)


def root_sift(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return SIFT's descriptors ``[N, 128]`` as RootSIFT's.

    The l2 distance of the square roots of l1-normalised vectors is the Hellinger distance.
    """
    total = np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-7)
    return np.asarray(np.sqrt(descriptors / total), np.float32)


def _sift(gray: NDArray[np.uint8], keypoints: Keypoints) -> NDArray[np.float32]:
    # OpenCV's SIFT needs the octave and layer of its pyramid; they follow from the scale.
    steps = np.rint(_SIFT_LAYERS * np.log2(np.maximum(keypoints.scale, 0.5) / _SIFT_SIGMA))
    octave, layer = np.divmod(steps.astype(np.int64) - 1, _SIFT_LAYERS)
    # From the image enlarged twice to the last level that is not empty.
    octave = np.clip(octave, -1, max(-1, min(gray.shape).bit_length() - 3))
    packed = (octave & 255) | (layer + 1) << 8
    xy = keypoints.xy + SIFT_SHIFT
    points = _opencv_keypoints(keypoints, xy, 2 * keypoints.scale, packed)
    if not points:
        return np.empty((0, 128), np.float32)
    _, descriptors = cv2.SIFT.create().compute(gray, points)
    return np.asarray(descriptors, np.float32)


def _orb(gray: NDArray[np.uint8], keypoints: Keypoints) -> NDArray[np.uint8]:
    side = 2 * MAGNIFICATION * keypoints.scale
    level = np.rint(np.log(np.maximum(side, 1) / _ORB_SIDE) / np.log(ORB_FACTOR))
    level = np.clip(level, 0, _ORB_LEVELS - 1).astype(np.int64)
    # ORB skips keypoints close to the border; their descriptors stay zero.
    result = np.zeros((len(level), 32), np.uint8)
    scales, factors = level_scales(gray.shape, level)
    xy = ((keypoints.xy + 0.5) / factors - 0.5) * scales[:, None]
    points = _opencv_keypoints(keypoints, xy, side, level)
    if not points:
        return result
    kept, descriptors = cv2.ORB.create(nlevels=_ORB_LEVELS).compute(gray, points)
    if descriptors is not None:
        result[[point.class_id for point in kept]] = descriptors
    return result


def _opencv_keypoints(
    keypoints: Keypoints, xy: NDArray[Any], size: NDArray[Any], octave: NDArray[np.int64]
) -> list[Any]:
    degrees = np.rad2deg(keypoints.angle) % 360
    columns = (*xy.T, size, degrees, keypoints.score, octave, np.arange(len(octave)))
    return [cv2.KeyPoint(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]
