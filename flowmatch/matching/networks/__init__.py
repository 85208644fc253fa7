"""Patch networks: ``network(patches)`` describes, ``network(first, second)`` compares."""

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
    """What every descriptor network is, as the rest of the package sees it.

    Attributes:
        patch_size: Side of the patches in pixels.
        dim: Length of a descriptor.
    """

    patch_size: int
    dim: int

    def __call__(self, patches: Tensor) -> Tensor:
        """Gray patches in [0, 1], ``[B, 1, S, S]`` -> descriptors ``[B, dim]``, compared by l2."""


@runtime_checkable
class DenseNetwork(Protocol):
    """A descriptor network that takes a whole image in one pass.

    Attributes:
        stride: Distance between the patches that `dense` describes, pixels.
    """

    patch_size: int
    stride: int

    def dense(self, images: Tensor) -> Tensor:
        """Gray images in [0, 1], ``[B, 1, H, W]`` -> descriptors ``[B, dim, h, w]``."""


class PatchComparator(Protocol):
    """What every network that compares patches is, as the rest of the package sees it.

    Attributes:
        patch_size: Side of the patches in pixels.
    """

    patch_size: int

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Gray in [0, 1], ``[B, 1, S, S]`` twice -> similarities ``[B]``, more is closer."""


@runtime_checkable
class SiameseNetwork(Protocol):
    """A similarity network that can look at each patch once, whatever it is compared with."""

    patch_size: int

    def features(self, patches: Tensor, *, second: bool = False) -> Tensor:
        """Patches -> what decides, ``[N, D]``; of a pair's `second` patch, if that differs."""

    def compare(self, first: Tensor, second: Tensor) -> Tensor:
        """Features ``[N, D]`` twice -> similarities ``[N]``."""

    def compare_all(self, first: Tensor, second: Tensor) -> Tensor:
        """Features ``[N, D]`` and ``[M, D]`` -> similarities ``[N, M]``."""


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
