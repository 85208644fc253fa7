"""Networks that describe patches, ``network(patches)``, or compare them, ``network(a, b)``."""

from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from flowmatch.matching.networks.branches import SiamBranch, SPPBranch, TwoStreamBranch
from flowmatch.matching.networks.deepcompare import (
    PseudoSiam,
    Siam,
    SiamSPP,
    SiamTwoStream,
    TwoChannel,
    TwoChannelDeep,
    TwoChannelTwoStream,
)
from flowmatch.matching.networks.descriptors import HardNet, HyNet, SOSNet, TFeat


class DescriptorNetwork(Protocol):
    """Interface of networks that describe patches.

    Attributes:
        patch_size: Side of the patches in pixels.
        dim: Length of a descriptor.
    """

    patch_size: int
    dim: int

    def __call__(self, patches: Tensor) -> Tensor:
        """Describe gray patches in [0, 1], ``[B, 1, S, S]``, by ``[B, dim]``, compared by l2."""


@runtime_checkable
class DenseNetwork(Protocol):
    """Interface of descriptor networks that describe a whole image in one pass.

    Attributes:
        patch_size: Side of the patches in pixels.
        stride: Distance between neighbouring patches of `dense`, pixels.
    """

    patch_size: int
    stride: int

    def dense(self, images: Tensor) -> Tensor:
        """Describe gray images in [0, 1], ``[B, 1, H, W]``, by ``[B, dim, h, w]``."""


class PatchComparator(Protocol):
    """Interface of networks that compare patches.

    Attributes:
        patch_size: Side of the patches in pixels.
    """

    patch_size: int

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Compare gray patches in [0, 1], ``[B, 1, S, S]`` twice: similarities ``[B]``."""


@runtime_checkable
class SiameseNetwork(Protocol):
    """Interface of networks that compare features, computed once per patch.

    Attributes:
        patch_size: Side of the patches in pixels.
    """

    patch_size: int

    def features(self, patches: Tensor, *, second: bool = False) -> Tensor:
        """Return the features ``[N, D]`` of patches; `second` selects the second branch."""

    def compare(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the similarities ``[N]`` of features ``[N, D]`` and ``[N, D]``."""

    def compare_all(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the similarities ``[N, M]`` of features ``[N, D]`` and ``[M, D]``."""


DESCRIPTORS: dict[str, Callable[..., nn.Module]] = {
    "siam-desc": SiamBranch,
    "siam-2stream-desc": TwoStreamBranch,
    "siam-spp-desc": SPPBranch,
    "hardnet": HardNet,
    "sosnet": SOSNet,
    "tfeat": TFeat,
    "hynet": HyNet,
}

COMPARATORS: dict[str, Callable[..., nn.Module]] = {
    "2ch": TwoChannel,
    "2ch-deep": TwoChannelDeep,
    "2ch-2stream": TwoChannelTwoStream,
    "siam": Siam,
    "siam-l2": partial(Siam, l2=True),
    "pseudo-siam": PseudoSiam,
    "pseudo-siam-l2": partial(PseudoSiam, l2=True),
    "siam-2stream": SiamTwoStream,
    "siam-2stream-l2": partial(SiamTwoStream, l2=True),
    "siam-spp": SiamSPP,
    "siam-spp-l2": partial(SiamSPP, l2=True),
}

MODELS = DESCRIPTORS | COMPARATORS

__all__ = [
    "DESCRIPTORS",
    "MODELS",
    "COMPARATORS",
    "DenseNetwork",
    "DescriptorNetwork",
    "HardNet",
    "HyNet",
    "PseudoSiam",
    "SOSNet",
    "SPPBranch",
    "Siam",
    "SiamBranch",
    "SiamSPP",
    "SiamTwoStream",
    "SiameseNetwork",
    "PatchComparator",
    "TFeat",
    "TwoChannel",
    "TwoChannelDeep",
    "TwoChannelTwoStream",
    "TwoStreamBranch",
]
