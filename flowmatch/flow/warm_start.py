"""Warm start: the flow of the previous pair, interpolated forward, initialises the next one.

Reference:
    Teed & Deng, RAFT, ECCV 2020, section 3.3 ("warm-start").
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt  # type: ignore[import-untyped]
from torch import Tensor, nn

from flowmatch.ops import splat

_COVERED = 0.25  # share of a pixel that must land, in bilinear weights


@runtime_checkable
class WarmStarting(Protocol):
    """A network whose forward takes an initial flow as its third argument."""

    def to_grid(self, flow: Tensor) -> Tensor:
        """Convert a flow ``[B, 2, H, W]``, NaN where unknown, to the initial flow of `forward`."""


def check_warm_start(model: nn.Module, batch: int) -> None:
    """Check that a network and a batch size allow warm starts.

    Raises:
        ValueError: The network takes no initial flow, or several pairs are computed at once.
    """
    if not isinstance(model, WarmStarting):
        raise ValueError(
            "a warm start needs a network that takes an initial flow, such as RecurrentPyramid or "
            f"RAFT, got {type(model).__name__}"
        )
    if batch != 1:
        raise ValueError(f"a warm start computes one pair at a time: batch must be 1, got {batch}")


def forward_interpolate(flow: Tensor, direction: int = 1) -> Tensor:
    """Move each pixel's flow along itself, and fill the gaps with the nearest moved flow.

    Flow is moved by softmax splatting. Where several pixels land, those of longer motion are in
    front, as near things move farther. That is closer to the next flow than RAFT's own
    interpolation, which takes the pixel that lands nearest.

    Args:
        flow: Flow ``[B, 2, h, w]``, in pixels; values that are not finite are dropped.
        direction: 1 for a forward flow, -1 for a backward one, along which pixels move in reverse.

    Returns:
        The flow of the next frame under constant motion, ``[B, 2, h, w]``; 0 if every pixel left
        the frame.

    Example:
        >>> flow = torch.zeros(1, 2, 1, 6)
        >>> flow[0, 0, 0] = torch.tensor([0, 0, 2, -9, -9, -9])
        >>> forward_interpolate(flow)[0, 0, 0].tolist()  # pixel 2 went to 4, the nearest to 3 and 5
        [0.0, 0.0, 0.0, 2.0, 2.0, 2.0]

    Reference:
        RAFT's ``forward_interpolate``; Niklaus and Liu, Softmax Splatting, CVPR 2020, section 3.1.
    """
    known = flow.detach().cpu().double()  # exponentials of long motions overflow in float32
    motion = direction * known
    moved = splat(known, motion, motion.norm(dim=1, keepdim=True), "softmax")
    covered = splat(torch.ones_like(known[:, :1]), motion, mode="sum") > _COVERED
    filled = [
        _fill(field, mask[0]) for field, mask in zip(moved.numpy(), covered.numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(filled)).to(flow)


def _fill(field: NDArray[Any], covered: NDArray[np.bool_]) -> NDArray[Any]:
    """Replace the values ``[C, h, w]`` that are not covered by the nearest one that is."""
    if not covered.any():
        return np.zeros_like(field)
    y, x = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    nearest: NDArray[Any] = field[:, y, x]
    return nearest


class WarmStarted(nn.Module):
    """A network with a fixed initial flow, called like a network that takes none.

    Args:
        model: A network that takes an initial flow.
        previous: Flow of the previous pair, ``[H, W, 2]`` in pixels, NaN where unknown.
        direction: 1 for a forward flow, -1 for a backward one.
    """

    def __init__(self, model: Any, previous: NDArray[np.float32], direction: int = 1) -> None:
        super().__init__()
        self.model = model
        flow = torch.from_numpy(np.ascontiguousarray(previous)).permute(2, 0, 1)[None]
        self.initial = forward_interpolate(model.to_grid(flow), direction)

    def forward(self, first: Tensor, second: Tensor) -> Sequence[Tensor]:
        """Return the network's flows, ``[1, 2, H, W]``."""
        flows: Sequence[Tensor] = self.model(first, second, self.initial.to(first.device))
        return flows
