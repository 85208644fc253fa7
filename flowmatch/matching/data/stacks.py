"""Description and comparison of stacks of patches, such as those of Brown and HPatches."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmatch._opencv import cv2
from flowmatch.imaging import resize
from flowmatch.matching.classical import CLASSICAL
from flowmatch.matching.compare import compare_patches, evaluating
from flowmatch.matching.describe import describe_keypoints, device_of
from flowmatch.matching.keypoints import Keypoints
from flowmatch.matching.networks import DescriptorNetwork, PatchComparator

_SIFT_RADIUS = 5.303  # half the side of a patch in SIFT scales, as in HPatches' baseline


def describe_patches(
    network: DescriptorNetwork | str, patches: NDArray[np.uint8], *, batch: int = 512
) -> Tensor:
    """Describe a stack of patches.

    Args:
        network: Descriptor network, run in eval mode on its own device, on patches resized to its
            `patch_size`; or ``"rootsift"``, ``"sift"``, ``"orb"``, with one keypoint per patch.
        patches: Gray patches, uint8, ``[N, S, S]``.
        batch: Number of patches described at once.

    Returns:
        Descriptors ``[N, D]``, see `describe_keypoints`.

    Raises:
        ValueError: `patches` or `network` is invalid.

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
        middle = _centre_keypoint(patches.shape[1])
        return torch.cat([describe_keypoints(patch, middle, model=network) for patch in patches])
    tensor = _tensor(patches, network.patch_size, device_of(network))
    with evaluating(network):
        parts = [network(tensor[k : k + batch]) for k in range(0, len(tensor), batch)]
    return torch.cat(parts)


def compare_stacks(
    network: PatchComparator,
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    *,
    batch: int = 512,
) -> NDArray[np.float32]:
    """Compare each patch of a stack with the patch at the same index of another.

    Args:
        network: Network that compares patches, run in eval mode on its own device.
        first: Gray patches, uint8, ``[N, S, S]``.
        second: As many patches.
        batch: Number of pairs compared at once.

    Returns:
        Similarities ``[N]``; higher is more similar.

    Raises:
        ValueError: The stacks are invalid or differ in number.
    """
    a, b = (
        _tensor(check_stack(p), network.patch_size, device_of(network)) for p in (first, second)
    )
    return compare_patches(a, b, model=network, batch=batch).float().cpu().numpy()


def descriptor_distances(
    first: Tensor, second: Tensor, i: NDArray[np.int64], j: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the distances ``[K]`` of pairs of descriptors: l2, or hamming for uint8.

    Args:
        first: Descriptors ``[N, D]``, on the CPU.
        second: Descriptors ``[M, D]``.
        i: Indices into `first`, ``[K]``.
        j: Indices into `second`, ``[K]``.

    Example:
        >>> bits = torch.tensor([[7], [0]], dtype=torch.uint8)
        >>> descriptor_distances(bits, bits, np.array([0]), np.array([1])).tolist()
        [3.0]
    """
    queries, references = first[i], second[j]
    if queries.dtype == torch.uint8:
        bits = np.unpackbits((queries ^ references).numpy(), axis=1)
        return np.asarray(bits.sum(axis=1), np.float32)
    return np.asarray(torch.linalg.vector_norm(queries - references, dim=1).numpy(), np.float32)


def check_stack(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a stack of patches; raise ValueError unless it is uint8 ``[N, S, S]``, not empty."""
    shape = patches.shape
    if patches.dtype != np.uint8 or len(shape) != 3 or shape[1] != shape[2] or not patches.size:
        raise ValueError(
            f"patches must be gray, uint8 [N, S, S], got {patches.dtype} {list(shape)}"
        )
    return patches


@lru_cache(4)
def _centre_keypoint(side: int) -> Keypoints:
    scale = side / 2 / _SIFT_RADIUS
    arrays = [[(side - 1) / 2] * 2], [scale], [0.0], [1.0]
    return Keypoints(*(np.array(values, np.float32) for values in arrays))


def _tensor(patches: NDArray[np.uint8], size: int, device: torch.device) -> Tensor:
    return torch.from_numpy(resize_patches(patches, size))[:, None].to(device).float() / 255


def resize_patches(patches: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize patches ``[N, S, S]``; reduced ones are averaged.

    Example:
        >>> resize_patches(np.full((3, 64, 64), 7, np.uint8), 32).shape
        (3, 32, 32)
    """
    if patches.shape[1:] == (size, size):
        return patches
    interpolation = cv2.INTER_AREA if size < patches.shape[1] else cv2.INTER_LINEAR
    resized = [resize(patch, (size, size), interpolation) for patch in patches]
    return np.array(resized, np.uint8).reshape(-1, size, size)
