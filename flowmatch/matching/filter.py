"""What a network that compares patches says of matches, between descriptors and geometry."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from flowmatch.matching.compare import similarity
from flowmatch.matching.describe import device_of
from flowmatch.matching.keypoints import Keypoints, extract_patches, magnification_of
from flowmatch.matching.networks import SIMILARITIES, SimilarityNetwork
from flowmatch.matching.store import available, load

_AT_ONCE = 4096  # matches whose patches are cut together, 2 x 64 MB


def similarity_of_matches(
    network: SimilarityNetwork | str,
    images: tuple[ArrayLike, ArrayLike],
    keypoints: tuple[Keypoints, Keypoints],
    pairs: NDArray[np.int64],
    *,
    magnification: float | None = None,
    batch: int = 512,
) -> NDArray[np.float32]:
    """Show a network the patches of matches.

    Args:
        network: Any of `flowmatch.matching.networks.SIMILARITIES`, used in eval mode, where its
            weights are; or a name of weights that ship.
        images: Both, uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        keypoints: Those of each.
        pairs: ``[K, 2]``: which of the first image's go with which of the second's.
        magnification: Half a patch's side in scales of its keypoint; None takes what the network
            was trained on.
        batch: How many pairs to compare at once.

    Returns:
        Similarities ``[K]``, more is closer.

    Raises:
        ValueError: An image is none, `batch` is not positive, or there are no such weights.

    Example:
        >>> from flowmatch.matching.keypoints import detect
        >>> from flowmatch.matching.networks import Siam
        >>> image = np.tile(np.arange(96, dtype=np.uint8), (64, 1))
        >>> points = detect(image, "grid", keypoints=6)
        >>> pairs = np.array([[0, 0], [1, 2]])
        >>> similarity_of_matches(Siam(l2=True), (image, image), (points, points), pairs).shape
        (2,)
    """
    if batch < 1:
        raise ValueError(f"batch must be positive, got {batch}")
    if isinstance(network, str):
        network = _named(network)
    device = device_of(network)
    if magnification is None:
        magnification = magnification_of(network)
    parts = []
    for start in range(0, len(pairs), _AT_ONCE):
        stacks = (
            extract_patches(
                image,
                points.select(index),
                network.patch_size,
                magnification=magnification,
                device=device,
            )
            for image, points, index in zip(
                images, keypoints, pairs[start : start + _AT_ONCE].T, strict=True
            )
        )
        parts.append(similarity(network, *stacks, batch=batch))
    return torch.cat(parts).float().cpu().numpy() if parts else np.empty(0, np.float32)


def decide_matches(
    network: SimilarityNetwork | str,
    images: tuple[ArrayLike, ArrayLike],
    keypoints: tuple[Keypoints, Keypoints],
    pairs: NDArray[np.int64],
    distance: NDArray[np.float32],
    *,
    above: float = 0.0,
    magnification: float | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Let a network judge matches by their patches, and keep what it finds similar.

    Args:
        network: As in `similarity_of_matches`, like all that follow.
        images: Both.
        keypoints: Those of each.
        pairs: ``[K, 2]``.
        distance: ``[K]``, passed on.
        above: The similarity that a match must exceed.
        magnification: As there.

    Returns:
        Pairs, distances and similarities of what is left, the most similar first.

    Raises:
        ValueError: As there.
    """
    similar = similarity_of_matches(network, images, keypoints, pairs, magnification=magnification)
    order = np.argsort(-similar, kind="stable")
    order = order[similar[order] > above]
    return pairs[order], distance[order], similar[order]


def find_similarity(name: str, device: str | torch.device = "cpu") -> SimilarityNetwork:
    """Return what a word on a command line compares patches by.

    Args:
        name: A name of weights that ship, such as ``"siam"`` or ``"2ch"``, or a ``.safetensors``
            file of one's own.
        device: Where to put the network.

    Raises:
        ValueError: There are no such weights, or they do not compare patches.
        FileNotFoundError: There is no such file.
    """
    known = [one for one, entry in available().items() if entry["model"] in SIMILARITIES]
    is_file = bool(Path(name).suffix)
    if not is_file and name not in known:
        raise ValueError(f"a decision is one of {', '.join(known)}, or a file, got {name!r}")
    network: Any = load(weights=name) if is_file else load(name)
    if hasattr(network, "dim"):
        raise ValueError(f"{name} describes patches, it does not compare them")
    return network.to(device)  # type: ignore[no-any-return]


_named = lru_cache(2)(find_similarity)
