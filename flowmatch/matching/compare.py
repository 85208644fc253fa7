"""Comparison of patches by networks, and dense descriptors of whole images."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flowmatch.matching.networks import DenseNetwork, PatchComparator, SiameseNetwork


@contextmanager
def evaluating(network: Any) -> Iterator[None]:
    """Put a network into eval mode, without gradients, and restore its mode afterwards."""
    training = isinstance(network, nn.Module) and network.training
    try:
        if training:
            network.eval()
        with torch.no_grad():
            yield
    finally:
        if training:
            network.train()


def _chunks(patches: Tensor, batch: int) -> list[Tensor]:
    """Split patches into batches; an empty tensor is one batch, so that results have a shape."""
    return [patches[k : k + batch] for k in range(0, max(len(patches), 1), batch)]


def _check_patches(first: Tensor, second: Tensor, batch: int) -> None:
    if first.dim() != 4 or second.dim() != 4:
        raise ValueError(
            "patches must be [N, 1, S, S] and [M, 1, S, S], "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if batch < 1:
        raise ValueError(f"batch must be positive, got {batch}")


def compare_patches(
    first: Tensor, second: Tensor, *, model: PatchComparator | nn.Module, batch: int = 512
) -> Tensor:
    """Compare each patch with the patch at the same index.

    Args:
        first: Gray patches in [0, 1], ``[N, 1, S, S]``; S is the network's `patch_size`.
        second: As many patches of the same size.
        model: Network of `flowmatch.matching.networks.COMPARATORS`, run in eval mode.
        batch: Number of pairs compared at once.

    Returns:
        Similarities ``[N]``, without gradients; higher is more similar.

    Raises:
        ValueError: The shapes do not fit.

    Example:
        >>> from flowmatch.matching.networks import Siam
        >>> patches = torch.rand(5, 1, 64, 64)
        >>> bool((compare_patches(patches, patches, model=Siam(l2=True)) == 0).all())
        True
    """
    _check_patches(first, second, batch)
    if len(first) != len(second):
        raise ValueError(f"expected equal numbers of patches, got {len(first)} and {len(second)}")
    with evaluating(model):
        parts = [
            model(a, b) for a, b in zip(_chunks(first, batch), _chunks(second, batch), strict=True)
        ]
    return torch.cat(parts)


def compare_all_patches(
    first: Tensor, second: Tensor, *, model: PatchComparator | nn.Module, batch: int = 512
) -> Tensor:
    """Compare every patch of one set with every patch of another.

    The branches of a Siamese network run once per patch and only its decision layers once per
    pair. A two-channel network runs as a whole for each of the N x M pairs.

    Args:
        first: Gray patches in [0, 1], ``[N, 1, S, S]``; S is the network's `patch_size`.
        second: Gray patches ``[M, 1, S, S]``.
        model: Network of `flowmatch.matching.networks.COMPARATORS`, run in eval mode.
        batch: Number of patches, or pairs of patches, computed at once.

    Returns:
        Similarities ``[N, M]``, without gradients; higher is more similar.

    Raises:
        ValueError: The shapes do not fit.

    Example:
        >>> from flowmatch.matching.networks import Siam
        >>> first, second = torch.rand(3, 1, 64, 64), torch.rand(5, 1, 64, 64)
        >>> compare_all_patches(first, second, model=Siam()).shape
        torch.Size([3, 5])
    """
    _check_patches(first, second, batch)
    with evaluating(model):
        if isinstance(model, SiameseNetwork):
            a = torch.cat([model.features(part) for part in _chunks(first, batch)])
            b = torch.cat([model.features(part, second=True) for part in _chunks(second, batch)])
            return model.compare_all(a, b)
        N, M = len(first), len(second)
        result = first.new_empty(N * M)
        for start in range(0, N * M, batch):
            pair = torch.arange(start, min(start + batch, N * M), device=first.device)
            result[pair] = model(first[pair // M], second[pair % M])
    return result.view(N, M)


def dense_descriptors(images: Tensor, *, model: Any) -> Tensor:
    """Describe the patches at all positions of a grid in one fully convolutional pass.

    Gray values are centred once per image instead of once per patch; otherwise the result equals
    that of describing each patch by itself.

    Args:
        images: Gray images in [0, 1], ``[B, 1, H, W]``, at least as large as a patch.
        model: Network with a method `dense`: the branches of siam and siam-2stream, and TFeat.
            HardNet, SOSNet and HyNet pad at the border of a patch, so their layers cannot be
            shared between patches; siam-SPP pools over the whole patch.

    Returns:
        Descriptors ``[B, dim, (H - S) // stride + 1, (W - S) // stride + 1]`` for patches of side
        S; the upper left pixel of patch ``[i, j]`` is ``(i * stride, j * stride)``.

    Raises:
        ValueError: The network has no dense form, or the images are too small.

    Example:
        >>> from flowmatch.matching.networks import SiamBranch
        >>> dense_descriptors(torch.rand(1, 1, 100, 124), model=SiamBranch()).shape
        torch.Size([1, 256, 4, 6])
    """
    if not isinstance(model, DenseNetwork):
        raise ValueError(
            "dense descriptors need a network whose layers do not see the border of a patch "
            f"(SiamBranch, TwoStreamBranch, TFeat), got {type(model).__name__}"
        )
    with evaluating(model):
        return model.dense(images)
