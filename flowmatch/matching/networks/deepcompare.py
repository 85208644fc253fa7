"""DeepCompare: networks that return the similarity of two patches.

Reference:
    Zagoruyko and Komodakis, Learning to Compare Image Patches via Convolutional Neural Networks,
    CVPR 2015, sections 3.1 and 3.2; layers as in the authors' released models.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.matching.networks.branches import (
    PATCH_SIZE,
    SINGLE,
    Convolution,
    SiamBranch,
    SPPBranch,
    TwoStreamBranch,
    central,
    convolutions,
    halve,
)
from flowmatch.matching.networks.preparation import (
    centre,
    check_magnification,
    check_pairs,
    check_patches,
)
from flowmatch.ops import pairwise_distance
from flowmatch.units import unit_vectors

Branch = SiamBranch | TwoStreamBranch | SPPBranch

_MAX_HIDDEN = 2**24  # hidden values of the pairs that are computed at once, 64 MB


def decision(inputs: int, hidden: Sequence[int]) -> nn.Sequential:
    """Return fully connected layers fc0, fc1, ... with ReLU between them and one output."""
    chain: OrderedDict[str, nn.Module] = OrderedDict()
    widths = [inputs, *hidden, 1]
    for k, (width, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        if k:
            chain[f"relu{k - 1}"] = nn.ReLU(inplace=True)
        chain[f"fc{k}"] = nn.Linear(width, outputs)
    return nn.Sequential(chain)


class _Siamese(nn.Module):
    """Siamese network: two branches, and decision layers, or a distance in the l2 form."""

    patch_size = PATCH_SIZE

    def __init__(self, branch: Branch, second: Branch | None, hidden: Sequence[int], l2: bool):
        super().__init__()
        self.branch = branch
        self.second: Branch | None = second
        if not l2 and not hidden:
            raise ValueError("hidden must name at least one width, or l2 be set; got neither")
        self.decision = None if l2 else decision(2 * branch.dim, hidden)

    def features(self, patches: Tensor, *, second: bool = False) -> Tensor:
        """Return the features ``[N, D]`` of the first or the second patches of pairs."""
        branch = self.second if second and self.second is not None else self.branch
        return branch.features(patches)

    def compare(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the similarities ``[N]`` of features ``[N, D]`` and ``[N, D]``."""
        if self.decision is None:
            difference = unit_vectors(first, dim=1) - unit_vectors(second, dim=1)
            distance: Tensor = torch.linalg.vector_norm(difference, dim=1)
            return -distance
        similarity: Tensor = self.decision(torch.cat([first, second], dim=1))
        return similarity[:, 0]

    def compare_all(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the similarities ``[N, M]`` of features ``[N, D]`` and ``[M, D]``."""
        if self.decision is None:
            return -pairwise_distance(
                unit_vectors(first, dim=1)[None], unit_vectors(second, dim=1)[None]
            )[0]
        fc0, *rest = self.decision
        # The first layer is linear in both halves of its input, so it runs once per patch.
        assert isinstance(fc0, nn.Linear)
        weight, D = fc0.weight, first.shape[1]
        rows, columns = F.linear(first, weight[:, :D], fc0.bias), F.linear(second, weight[:, D:])
        result = first.new_empty(len(first), len(second))
        step = max(1, _MAX_HIDDEN // max(1, weight.shape[0] * len(second)))
        for start in range(0, len(first), step):
            similarity = rows[start : start + step, None] + columns
            for layer in rest:
                similarity = layer(similarity)
            result[start : start + step] = similarity[..., 0]
        return result

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compare pairs of patches.

        Args:
            first: First patches, gray in [0, 1], ``[B, 1, 64, 64]``.
            second: Second patches, same shape.

        Returns:
            Similarities ``[B]``; above 0 for the same point. In the l2 form, minus the distance of
            the unit vectors, from -2 to 0.

        Raises:
            ValueError: The shapes are wrong or differ.
        """
        check_pairs(first, second)
        return self.compare(self.features(first), self.features(second, second=True))


class Siam(_Siamese):
    """siam: one branch for both patches; 908,416 + 263,169 parameters.

    Args:
        hidden: Widths of the hidden decision layers.
        l2: Compare by distance, without decision layers.
        magnification: Half the side of the training patches, in keypoint scales.

    Example:
        >>> Siam()(torch.rand(3, 1, 64, 64), torch.rand(3, 1, 64, 64)).shape
        torch.Size([3])
    """

    def __init__(
        self, *, hidden: Sequence[int] = (512,), l2: bool = False, magnification: float = 6.0
    ) -> None:
        super().__init__(SiamBranch(), None, hidden, l2)
        self.magnification = check_magnification(magnification)


class PseudoSiam(_Siamese):
    """pseudo-siam: one branch for each patch, for patches of different kinds.

    Args:
        hidden: Widths of the hidden decision layers.
        l2: Compare by distance, without decision layers.

    Example:
        >>> PseudoSiam(l2=True)(torch.rand(3, 1, 64, 64), torch.rand(3, 1, 64, 64)).shape
        torch.Size([3])
    """

    def __init__(self, *, hidden: Sequence[int] = (512,), l2: bool = False) -> None:
        super().__init__(SiamBranch(), SiamBranch(), hidden, l2)


class SiamTwoStream(_Siamese):
    """siam-2stream: central and surround streams; 2 x 1,200,416 + 1,050,625 parameters.

    Args:
        hidden: Widths of the hidden decision layers; the released weights have one of 1024.
        l2: Compare by distance, without decision layers.

    Example:
        >>> SiamTwoStream()(torch.rand(3, 1, 64, 64), torch.rand(3, 1, 64, 64)).shape
        torch.Size([3])
    """

    def __init__(self, *, hidden: Sequence[int] = (1024,), l2: bool = False) -> None:
        super().__init__(TwoStreamBranch(), None, hidden, l2)


class SiamSPP(_Siamese):
    """siam-SPP: siam for patches of any size, with features pooled on a grid.

    Args:
        hidden: Widths of the hidden decision layers.
        l2: Compare by distance, without decision layers.
        grid: Number of pooling cells along each side.

    Example:
        >>> SiamSPP(l2=True)(torch.rand(2, 1, 90, 120), torch.rand(2, 1, 70, 70)).shape
        torch.Size([2])
    """

    def __init__(self, *, hidden: Sequence[int] = (512,), l2: bool = False, grid: int = 4) -> None:
        super().__init__(SPPBranch(grid=grid), None, hidden, l2)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compare patches ``[B, 1, H, W]``; the second patches may have another size."""
        if len(first) != len(second):
            raise ValueError(
                f"expected equal numbers of patches, got {len(first)} and {len(second)}"
            )
        return self.compare(self.features(first), self.features(second))


# ---- Two channels ------------------------------------------------------------------------------

_DEEP = (
    Convolution(96, 4, 3),
    Convolution(96, 3),
    Convolution(96, 3),
    Convolution(96, 3, pool=True, ceil=True),
    Convolution(192, 3),
    Convolution(192, 3),
    Convolution(192, 3),
)

_STREAM = (
    Convolution(96, 5, pool=True),
    Convolution(96, 3, pool=True),
    Convolution(192, 3),
    Convolution(192, 3),
)


class _TwoChannel(nn.Module):
    """Two-channel network: both patches are channels of one image."""

    patch_size = PATCH_SIZE
    decision: nn.Sequential

    def extract(self, pairs: Tensor) -> Tensor:
        """Return the features ``[B, D]`` of pairs ``[B, 2, 64, 64]``."""
        raise NotImplementedError

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compare pairs of patches.

        Args:
            first: First patches, gray in [0, 1], ``[B, 1, 64, 64]``.
            second: Second patches, same shape.

        Returns:
            Similarities ``[B]``; above 0 for the same point.

        Raises:
            ValueError: The shapes are wrong or differ.
        """
        check_pairs(first, second)
        check_patches(first, PATCH_SIZE)
        similarity: Tensor = self.decision(
            self.extract(torch.cat([centre(first), centre(second)], dim=1))
        )
        return similarity[:, 0]


class TwoChannel(_TwoChannel):
    """2ch: 979,169 parameters as in the paper, 913,377 as released.

    Args:
        hidden: Widths of the hidden decision layers; the released weights have none.
        magnification: Half the side of the training patches, in keypoint scales.

    Example:
        >>> TwoChannel()(torch.rand(3, 1, 64, 64), torch.rand(3, 1, 64, 64)).shape
        torch.Size([3])
    """

    def __init__(self, *, hidden: Sequence[int] = (256,), magnification: float = 6.0) -> None:
        super().__init__()
        self.magnification = check_magnification(magnification)
        self.layers = convolutions(2, SINGLE)
        self.decision = decision(256, hidden)

    def extract(self, pairs: Tensor) -> Tensor:
        """Return the features ``[B, 256]`` of pairs ``[B, 2, 64, 64]``."""
        features: Tensor = self.layers(pairs)
        return features.flatten(1)


class TwoChannelDeep(_TwoChannel):
    """2ch-deep: small kernels and seven layers; 1,673,665 parameters.

    Args:
        hidden: Widths of the hidden decision layers; the paper's text has none.

    Example:
        >>> TwoChannelDeep()(torch.rand(3, 1, 64, 64), torch.rand(3, 1, 64, 64)).shape
        torch.Size([3])
    """

    def __init__(self, *, hidden: Sequence[int] = (768,)) -> None:
        super().__init__()
        self.layers = convolutions(2, _DEEP)
        self.decision = decision(768, hidden)

    def extract(self, pairs: Tensor) -> Tensor:
        """Return the features ``[B, 768]`` of pairs ``[B, 2, 64, 64]``."""
        features: Tensor = self.layers(pairs)
        return features.flatten(1)


class TwoChannelTwoStream(_TwoChannel):
    """2ch-2stream: central and surround streams of the pair; 2,353,153 parameters.

    Args:
        hidden: Widths of the hidden decision layers.

    Example:
        >>> TwoChannelTwoStream()(torch.rand(3, 1, 64, 64), torch.rand(3, 1, 64, 64)).shape
        torch.Size([3])
    """

    def __init__(self, *, hidden: Sequence[int] = (768,)) -> None:
        super().__init__()
        self.fovea = convolutions(2, _STREAM)
        self.retina = convolutions(2, _STREAM)
        self.decision = decision(1536, hidden)

    def extract(self, pairs: Tensor) -> Tensor:
        """Return the features ``[B, 1536]`` of pairs ``[B, 2, 64, 64]``."""
        streams = self.fovea(halve(pairs)), self.retina(central(pairs))
        return torch.cat([stream.flatten(1) for stream in streams], dim=1)
