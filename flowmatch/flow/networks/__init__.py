"""Flow networks: ``forward(first, second)`` returns flows, finest first, in their own pixels."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from flowmatch.flow.networks.flownet import FlowNetC, FlowNetS
from flowmatch.flow.networks.flownet2 import FlowNet2, FlowNet2CS, FlowNet2CSS, FlowNet2SD
from flowmatch.flow.networks.pyramid import PyramidNet
from flowmatch.flow.networks.raft import RAFT, RAFTSmall
from flowmatch.flow.networks.recurrent import RecurrentPyramid


class FlowNetwork(Protocol):
    """Interface of a flow network."""

    def __call__(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Return flows, finest first, in their own pixels, of RGB ``[B, 3, H, W]`` in [0, 1]."""


MODELS: dict[str, Callable[..., nn.Module]] = {
    "pyramid": PyramidNet,
    "recurrent-pyramid": RecurrentPyramid,
    "flownets": FlowNetS,
    "flownetc": FlowNetC,
    "flownet2sd": FlowNet2SD,
    "flownet2cs": FlowNet2CS,
    "flownet2css": FlowNet2CSS,
    "flownet2": FlowNet2,
    "raft": RAFT,
    "raft-small": RAFTSmall,
}

__all__ = [
    "MODELS",
    "RAFT",
    "FlowNet2",
    "FlowNet2CS",
    "FlowNet2CSS",
    "FlowNet2SD",
    "FlowNetC",
    "FlowNetS",
    "FlowNetwork",
    "PyramidNet",
    "RecurrentPyramid",
    "RAFTSmall",
]
