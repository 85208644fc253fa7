"""Descriptors of keypoints: a network's, or OpenCV's own."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from flowmatch._opencv import cv2
from flowmatch.devices import autocast, check_precision
from flowmatch.matching.compare import evaluating
from flowmatch.matching.external import load_published
from flowmatch.matching.keypoints import (
    MAGNIFICATION,
    Keypoints,
    extract_patches,
    gray_image,
    magnification_of,
)
from flowmatch.matching.networks import DESCRIPTORS, DescriptorNetwork
from flowmatch.matching.store import available, load

CLASSICAL = ("rootsift", "sift", "orb")

_BATCH = 512
_CACHED = 64  # patches whose features a core's cache holds

# OpenCV's constants: the blur of SIFT's first layer, the side of ORB's patch and its levels.
_SIFT_SIGMA, _SIFT_LAYERS = 1.6, 3
_ORB_SIDE, _ORB_FACTOR, _ORB_LEVELS = 31, 1.2, 8


def describe(
    network: DescriptorNetwork | str,
    image: ArrayLike,
    keypoints: Keypoints,
    *,
    magnification: float | None = None,
    batch: int | None = None,
    precision: str = "float32",
) -> Tensor:
    """Describe the keypoints of an image.

    Args:
        network: A descriptor network, used in eval mode where its weights are; ``"default"`` or
            another name of weights that ship; or ``"rootsift"``, ``"sift"``, ``"orb"``: OpenCV's
            descriptors, at the same keypoints.
        image: uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        keypoints: Those of this image, N of them, of any detector.
        magnification: Half a patch's side in scales of its keypoint, for networks; None takes what
            each was trained on.
        batch: How many patches to describe at once; None takes what suits the device.
        precision: ``"float32"``, or ``"bfloat16"`` or ``"float16"`` for a network's convolutions:
            about 1.6 times as fast where the processor has them, descriptors a hundredth off.

    Returns:
        Float32 ``[N, D]``, to be compared by l2; for ``"orb"`` uint8 ``[N, 32]``, to be compared by
        hamming. No gradients.

    Raises:
        ValueError: There is no such descriptor, image or precision.

    Example:
        >>> from flowmatch.matching.keypoints import detect
        >>> image = np.tile(np.arange(96, dtype=np.uint8), (64, 1))
        >>> describe("rootsift", image, detect(image, "grid", keypoints=6)).shape
        torch.Size([6, 128])

    Reference:
        RootSIFT: Arandjelovic and Zisserman, Three Things Everyone Should Know to Improve Object
        Retrieval, CVPR 2012.
    """
    check_precision(precision)
    if isinstance(network, str) and network not in CLASSICAL:
        network = _shipped(network)
    if isinstance(network, str):
        gray = gray_image(image)
        found = _orb(gray, keypoints) if network == "orb" else _sift(gray, keypoints)
        if network == "rootsift":
            # Lengths of 1 by l1, then roots: l2 between roots is Hellinger's distance.
            found = np.sqrt(found / np.maximum(found.sum(axis=1, keepdims=True), 1e-7))
        return torch.from_numpy(found)
    device = device_of(network)
    if batch is None:
        batch = _CACHED if device.type == "cpu" else _BATCH
    if batch < 1:
        raise ValueError(f"batch must be positive, got {batch}")
    if magnification is None:
        magnification = magnification_of(network)
    patches = extract_patches(
        image, keypoints, network.patch_size, magnification=magnification, device=device
    )
    if len(patches) == 0:
        return torch.empty(0, network.dim, device=device)
    with evaluating(network), autocast(device, precision):
        parts = [network(patches[k : k + batch]) for k in range(0, len(patches), batch)]
    return torch.cat(parts).float()


def find_descriptor(
    name: str, device: str | torch.device = "cpu"
) -> DescriptorNetwork | Literal["rootsift", "sift", "orb"]:
    """Return what a word on a command line describes patches by.

    Args:
        name: ``"rootsift"``, ``"sift"``, ``"orb"``; ``"default"`` or another name of weights that
            ship; a ``.safetensors`` file of one's own, or a file that `load_published` reads.
        device: Where to put a network.

    Raises:
        ValueError: There are no such weights, or they do not describe patches.
        FileNotFoundError: There is no such file.
    """
    if name in CLASSICAL:
        return name  # type: ignore[return-value]
    suffix = Path(name).suffix
    if suffix and suffix != ".safetensors":
        network = load_published(name)
    else:
        if not suffix and name != "default" and name not in available():
            known = ", ".join((*CLASSICAL, "default", *descriptors()))
            raise ValueError(f"a descriptor is one of {known}, or a file, got {name!r}")
        network = load(weights=name) if suffix else load(name)
    if not hasattr(network, "dim"):
        raise ValueError(f"{name} compares patches, it does not describe them")
    return network.to(device)  # type: ignore[return-value]


def descriptors() -> list[str]:
    """Return the names of the weights that ship and describe patches."""
    return [name for name, entry in available().items() if entry["model"] in DESCRIPTORS]


@lru_cache(4)
def _shipped(name: str) -> DescriptorNetwork:
    if name != "default" and name not in descriptors():
        known = ", ".join(("default", *descriptors(), *CLASSICAL))
        raise ValueError(f"expected a descriptor network or one of {known}, got {name!r}")
    return load(name)  # type: ignore[return-value]


def device_of(network: Any) -> torch.device:
    """Return where a network's weights are; the CPU for what has none."""
    weights = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return torch.device("cpu") if weights is None else weights.device


def _sift(gray: NDArray[np.uint8], keypoints: Keypoints) -> NDArray[np.float32]:
    # SIFT looks up in which layer of its pyramid a keypoint was found. The scale tells.
    steps = np.rint(_SIFT_LAYERS * np.log2(np.maximum(keypoints.scale, 0.5) / _SIFT_SIGMA))
    octave, layer = np.divmod(steps.astype(np.int64) - 1, _SIFT_LAYERS)
    # From the image enlarged twice to its last level that is not empty.
    octave = np.clip(octave, -1, max(-1, min(gray.shape).bit_length() - 3))
    packed = (octave & 255) | (layer + 1) << 8
    points = _opencv_keypoints(keypoints, 2 * keypoints.scale, packed)
    if not points:
        return np.empty((0, 128), np.float32)
    _, descriptors = cv2.SIFT.create().compute(gray, points)
    return np.asarray(descriptors, np.float32)


def _orb(gray: NDArray[np.uint8], keypoints: Keypoints) -> NDArray[np.uint8]:
    side = 2 * MAGNIFICATION * keypoints.scale
    level = np.rint(np.log(np.maximum(side, 1) / _ORB_SIDE) / np.log(_ORB_FACTOR))
    level = np.clip(level, 0, _ORB_LEVELS - 1).astype(np.int64)
    # ORB leaves out what is close to the border; that gets bits of its own.
    result = np.zeros((len(level), 32), np.uint8)
    points = _opencv_keypoints(keypoints, side, level)
    if not points:
        return result
    kept, descriptors = cv2.ORB.create(nlevels=_ORB_LEVELS).compute(gray, points)
    if descriptors is not None:
        result[[point.class_id for point in kept]] = descriptors
    return result


def _opencv_keypoints(
    keypoints: Keypoints, size: NDArray[Any], octave: NDArray[np.int64]
) -> list[Any]:
    degrees = np.rad2deg(keypoints.angle) % 360
    columns = (*keypoints.xy.T, size, degrees, keypoints.score, octave, np.arange(len(octave)))
    return [cv2.KeyPoint(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]
