"""Similarities of stacks of patches, and descriptors of whole images."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flowmatch.matching.networks import DenseNetwork, SiameseNetwork, SimilarityNetwork


@contextmanager
def evaluating(network: Any) -> Iterator[None]:
    """Switch a network to eval mode, without gradients, and back."""
    training = isinstance(network, nn.Module) and network.training
    try:
        if training:
            network.eval()
        with torch.no_grad():
            yield
    finally:
        if training:
            network.train()


def _parts(patches: Tensor, batch: int) -> list[Tensor]:
    """Split a stack; one of no patches is one part, so that the answer has its type and shape."""
    return [patches[k : k + batch] for k in range(0, max(len(patches), 1), batch)]


def _check_stacks(first: Tensor, second: Tensor, batch: int) -> None:
    if first.dim() != 4 or second.dim() != 4:
        raise ValueError(
            "patches must be [N, 1, S, S] and [M, 1, S, S], "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if batch < 1:
        raise ValueError(f"batch must be positive, got {batch}")


def similarity(
    network: SimilarityNetwork, first: Tensor, second: Tensor, *, batch: int = 512
) -> Tensor:
    """Compare patches with patches, one by one.

    Args:
        network: Any of `flowmatch.matching.networks.SIMILARITIES`; used in eval mode.
        first: Gray in [0, 1], ``[N, 1, S, S]``, S being the network's `patch_size`.
        second: The others, as many.
        batch: How many pairs to compute at once.

    Returns:
        Similarities ``[N]``, more is closer; no gradients.

    Raises:
        ValueError: Shapes do not fit.

    Example:
        >>> from flowmatch.matching.networks import Siam
        >>> patches = torch.rand(5, 1, 64, 64)
        >>> bool((similarity(Siam(l2=True), patches, patches) == 0).all())
        True
    """
    _check_stacks(first, second, batch)
    if len(first) != len(second):
        raise ValueError(f"expected as many patches twice, got {len(first)} and {len(second)}")
    with evaluating(network):
        parts = [
            network(some, others)
            for some, others in zip(_parts(first, batch), _parts(second, batch), strict=True)
        ]
    return torch.cat(parts)


def similarity_of_all(
    network: SimilarityNetwork, first: Tensor, second: Tensor, *, batch: int = 512
) -> Tensor:
    """Compare all patches with all patches.

    The branches of a Siamese network run once per patch, only its decision once per pair. A
    two-channel network has to see every pair, which takes N x M times its effort.

    Args:
        network: Any of `flowmatch.matching.networks.SIMILARITIES`; used in eval mode.
        first: Gray in [0, 1], ``[N, 1, S, S]``, S being the network's `patch_size`.
        second: ``[M, 1, S, S]``.
        batch: How many patches, or pairs of them, to compute at once.

    Returns:
        Similarities ``[N, M]``, more is closer; no gradients.

    Raises:
        ValueError: Shapes do not fit.

    Example:
        >>> from flowmatch.matching.networks import Siam
        >>> similarity_of_all(Siam(), torch.rand(3, 1, 64, 64), torch.rand(5, 1, 64, 64)).shape
        torch.Size([3, 5])
    """
    _check_stacks(first, second, batch)
    with evaluating(network):
        if isinstance(network, SiameseNetwork):
            some = torch.cat([network.features(part) for part in _parts(first, batch)])
            others = torch.cat(
                [network.features(part, second=True) for part in _parts(second, batch)]
            )
            return network.decide_all(some, others)
        N, M = len(first), len(second)
        result = first.new_empty(N * M)
        for start in range(0, N * M, batch):
            pair = torch.arange(start, min(start + batch, N * M), device=first.device)
            result[pair] = network(first[pair // M], second[pair % M])
    return result.view(N, M)


def dense_descriptors(network: Any, images: Tensor) -> Tensor:
    """Describe all patches of images on a grid, in one fully convolutional pass.

    Gray values are centred once per image instead of once per patch, which is the only difference
    from describing each patch by itself.

    Args:
        network: One that has `dense`: the branches of siam and siam-2stream, and TFeat. The layers
            of L2-Net pad at the border of a patch, so that HardNet, SOSNet and HyNet cannot share
            them between patches; siam-SPP pools over the whole patch.
        images: Gray in [0, 1], ``[B, 1, H, W]``, at least a patch large.

    Returns:
        Descriptors ``[B, dim, (H - S) // stride + 1, (W - S) // stride + 1]`` for patches of side
        S; that of ``[i, j]`` has its upper left pixel at ``(i * stride, j * stride)``.

    Raises:
        ValueError: The network cannot, or the images are too small.

    Example:
        >>> from flowmatch.matching.networks import SiamBranch
        >>> dense_descriptors(SiamBranch(), torch.rand(1, 1, 100, 124)).shape
        torch.Size([1, 256, 4, 6])
    """
    if not isinstance(network, DenseNetwork):
        raise ValueError(
            "dense descriptors need a network whose layers do not see the border of a patch "
            f"(SiamBranch, TwoStreamBranch, TFeat), got {type(network).__name__}"
        )
    with evaluating(network):
        return network.dense(images)
