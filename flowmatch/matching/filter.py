"""Filtering of matches by a network that compares patches, before a geometric model is fitted."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from flowmatch.devices import choose_device
from flowmatch.matching.compare import compare_patches
from flowmatch.matching.describe import device_of, is_file_name, on_device
from flowmatch.matching.external import load_external
from flowmatch.matching.keypoints import Keypoints
from flowmatch.matching.networks import COMPARATORS, PatchComparator
from flowmatch.matching.patches import extract_patches, magnification_of
from flowmatch.matching.store import available, load

_CHUNK = 4096  # matches whose patches are extracted together, 2 x 64 MB


def score_matches(
    images: tuple[ArrayLike, ArrayLike],
    keypoints: tuple[Keypoints, Keypoints],
    matches: NDArray[np.int64],
    *,
    model: PatchComparator | nn.Module | str | Path = "siam",
    device: str | torch.device | None = None,
    magnification: float | None = None,
    batch: int = 512,
) -> NDArray[np.float32]:
    """Compare the patches of matches by a network.

    Args:
        images: Both images, uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        keypoints: Keypoints of each image.
        matches: ``[K, 2]`` indices into them.
        model: Network of `flowmatch.matching.networks.COMPARATORS`, run in eval mode; or the name
            of shipped weights, or a file of weights.
        device: Device of the network; None takes a GPU if torch can use one. A module stays on its
            device then.
        magnification: Half the side of a patch, in keypoint scales; None takes the value that the
            network was trained with.
        batch: Number of pairs compared at once.

    Returns:
        Similarities ``[K]``; higher is more similar.

    Raises:
        ValueError: An image, `batch` or `model` is invalid.

    Example:
        >>> from flowmatch.matching.keypoints import detect_keypoints
        >>> from flowmatch.matching.networks import Siam
        >>> image = np.tile(np.arange(96, dtype=np.uint8), (64, 1))
        >>> points = detect_keypoints(image, "grid", keypoints=6)
        >>> matches = np.array([[0, 0], [1, 2]])
        >>> score_matches((image, image), (points, points), matches, model=Siam(l2=True)).shape
        (2,)
    """
    if batch < 1:
        raise ValueError(f"batch must be positive, got {batch}")
    network = load_comparator(model, device)
    target = device_of(network)
    if magnification is None:
        magnification = magnification_of(network)
    parts = []
    for start in range(0, len(matches), _CHUNK):
        first, second = (
            extract_patches(
                image,
                points.select(index),
                network.patch_size,
                magnification=magnification,
                device=target,
            )
            for image, points, index in zip(
                images, keypoints, matches[start : start + _CHUNK].T, strict=True
            )
        )
        parts.append(compare_patches(first, second, model=network, batch=batch))
    return torch.cat(parts).float().cpu().numpy() if parts else np.empty(0, np.float32)


def filter_matches(
    images: tuple[ArrayLike, ArrayLike],
    keypoints: tuple[Keypoints, Keypoints],
    matches: NDArray[np.int64],
    distances: NDArray[np.float32],
    *,
    model: PatchComparator | nn.Module | str | Path = "siam",
    device: str | torch.device | None = None,
    min_score: float = 0.0,
    magnification: float | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Keep the matches whose patches a network finds similar.

    Args:
        images: Both images, uint8.
        keypoints: Keypoints of each image.
        matches: ``[K, 2]`` indices into them.
        distances: ``[K]`` descriptor distances.
        model: Network, name or file, see `score_matches`.
        device: Device of the network, see `score_matches`.
        min_score: Similarity that a match must exceed.
        magnification: Half the side of a patch, in keypoint scales; None takes the network's own.

    Returns:
        Matches, distances and similarities of the kept matches, by decreasing similarity.

    Raises:
        ValueError: An image or `model` is invalid.
    """
    scores = score_matches(
        images, keypoints, matches, model=model, device=device, magnification=magnification
    )
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > min_score]
    return matches[order], distances[order], scores[order]


def load_comparator(
    model: PatchComparator | nn.Module | str | Path, device: str | torch.device | None = None
) -> PatchComparator:
    """Return a network that compares patches, by name, file or module.

    Args:
        model: Name of shipped weights, such as ``"siam"`` or ``"2ch"``; a ``.safetensors`` file; a
            file that `load_external` reads; or a network, returned as it is.
        device: Device of the network; None takes a GPU if torch can use one, and leaves a given
            network where it is.

    Raises:
        ValueError: The name is unknown, or the weights do not compare patches.
        FileNotFoundError: The file does not exist.
    """
    if not isinstance(model, str | Path):
        return on_device(model, device)  # type: ignore[return-value]
    target = choose_device(device)
    if not is_file_name(model):
        return _shipped(str(model), target)
    is_external = Path(model).suffix not in ("", ".safetensors")
    network: Any = load_external(model) if is_external else load(model)
    if hasattr(network, "dim"):
        raise ValueError(f"{model} describes patches, it does not compare them")
    return network.to(target)  # type: ignore[no-any-return]


@lru_cache(2)
def _shipped(name: str, device: torch.device) -> PatchComparator:
    known = [key for key, entry in available().items() if entry["model"] in COMPARATORS]
    if name not in known:
        raise ValueError(f"a filter must be one of {', '.join(known)}, or a file, got {name!r}")
    return load(name, device=device)  # type: ignore[return-value]
