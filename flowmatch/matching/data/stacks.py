"""Stacks of patches from files, as Brown's and HPatches' are: no image around them."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmatch._opencv import cv2
from flowmatch.matching.compare import compare_patches, evaluating
from flowmatch.matching.describe import CLASSICAL, describe_keypoints, device_of
from flowmatch.matching.keypoints import Keypoints
from flowmatch.matching.networks import DescriptorNetwork, PatchComparator

_SIFT_REACH = 5.303  # half a patch's side in scales of the SIFT in it, as HPatches measures SIFT


def describe_patches(
    network: DescriptorNetwork | str, patches: NDArray[np.uint8], *, batch: int = 512
) -> Tensor:
    """Describe patches that were cut before.

    Args:
        network: A descriptor network, used in eval mode where its weights are, on patches of its
            own size; or ``"rootsift"``, ``"sift"``, ``"orb"``, of one keypoint that fills a patch.
        patches: Gray, uint8, ``[N, S, S]``.
        batch: How many to describe at once.

    Returns:
        Descriptors ``[N, D]``, as those of `describe_keypoints`.

    Raises:
        ValueError: They are no patches, or there is no such descriptor.

    Example:
        >>> patches = np.random.default_rng(0).integers(0, 255, (3, 65, 65), np.uint8)
        >>> describe_patches("rootsift", patches).shape
        torch.Size([3, 128])
    """
    check_stack(patches)
    if isinstance(network, str):
        if network not in CLASSICAL:
            raise ValueError(
                f"expected a network or one of {', '.join(CLASSICAL)}, got {network!r}"
            )
        middle = _middle(patches.shape[1])
        return torch.cat([describe_keypoints(patch, middle, model=network) for patch in patches])
    own = _tensor(patches, network.patch_size, device_of(network))
    with evaluating(network):
        parts = [network(own[k : k + batch]) for k in range(0, len(own), batch)]
    return torch.cat(parts)


def compare_stacks(
    network: PatchComparator,
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    *,
    batch: int = 512,
) -> NDArray[np.float32]:
    """Compare patches that were cut before, one by one.

    Args:
        network: A network that compares, used in eval mode where its weights are.
        first: Gray, uint8, ``[N, S, S]``.
        second: As many.
        batch: How many pairs to compare at once.

    Returns:
        Similarities ``[N]``, more is closer.

    Raises:
        ValueError: They are no patches, or not as many.
    """
    a, b = (
        _tensor(check_stack(p), network.patch_size, device_of(network)) for p in (first, second)
    )
    return compare_patches(a, b, model=network, batch=batch).float().cpu().numpy()


def descriptor_distances(
    first: Tensor, second: Tensor, i: NDArray[np.int64], j: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the distances ``[K]`` of descriptors with descriptors: l2, of bits hamming.

    Args:
        first: ``[N, D]``, on the CPU.
        second: ``[M, D]``.
        i: ``[K]``, which of the first.
        j: ``[K]``, which of the second.

    Example:
        >>> bits = torch.tensor([[7], [0]], dtype=torch.uint8)
        >>> descriptor_distances(bits, bits, np.array([0]), np.array([1])).tolist()
        [3.0]
    """
    q, r = first[i], second[j]
    if q.dtype == torch.uint8:
        bits = np.unpackbits((q ^ r).numpy(), axis=1)
        return np.asarray(bits.sum(axis=1), np.float32)
    return np.asarray(torch.linalg.vector_norm(q - r, dim=1).numpy(), np.float32)


def check_stack(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a stack of patches, or refuse what is none.

    Raises:
        ValueError: It is not uint8 ``[N, S, S]``, or has none.
    """
    shape = patches.shape
    if patches.dtype != np.uint8 or len(shape) != 3 or shape[1] != shape[2] or not patches.size:
        raise ValueError(
            f"patches must be gray, uint8 [N, S, S], got {patches.dtype} {list(shape)}"
        )
    return patches


@lru_cache(4)
def _middle(side: int) -> Keypoints:
    scale = side / 2 / _SIFT_REACH
    arrays = [[(side - 1) / 2] * 2], [scale], [0.0], [1.0]
    return Keypoints(*(np.array(values, np.float32) for values in arrays))


def _tensor(patches: NDArray[np.uint8], size: int, device: torch.device) -> Tensor:
    return torch.from_numpy(resize_patches(patches, size))[:, None].to(device).float() / 255


def resize_patches(patches: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return patches ``[N, S, S]`` at another size, averaged where they shrink.

    Example:
        >>> resize_patches(np.full((3, 64, 64), 7, np.uint8), 32).shape
        (3, 32, 32)
    """
    if patches.shape[1:] == (size, size):
        return patches
    shrinks = size < patches.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = [cv2.resize(patch, (size, size), interpolation=how) for patch in patches]
    return np.array(resized, np.uint8).reshape(-1, size, size)
