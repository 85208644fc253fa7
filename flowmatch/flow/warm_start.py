"""Warm start: the flow of the previous pair, interpolated forward, initialises the next one.

Reference:
    Teed & Deng, RAFT, ECCV 2020, section 3.3 ("warm-start").
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree  # type: ignore[import-untyped]
from torch import Tensor, nn


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
            f"a warm start needs a network that takes an initial flow, such as RAFT, "
            f"got {type(model).__name__}"
        )
    if batch != 1:
        raise ValueError(f"a warm start computes one pair at a time: batch must be 1, got {batch}")


def forward_interpolate(flow: Tensor, direction: int = 1) -> Tensor:
    """Move each pixel's flow along itself, and fill the gaps with the nearest moved flow.

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
        RAFT's ``forward_interpolate``.
    """
    moved = [_interpolate(field, direction) for field in flow.detach().cpu().numpy()]
    return torch.from_numpy(np.stack(moved)).to(flow)


def _interpolate(flow: NDArray[Any], direction: int) -> NDArray[Any]:
    _, h, w = flow.shape
    grid = np.stack(np.meshgrid(np.arange(w), np.arange(h))).astype(np.float64)
    targets, values = (grid + direction * flow).reshape(2, -1), flow.reshape(2, -1)
    # The frame ends half a pixel beyond the centres of its outermost pixels; NaN is outside.
    inside = (np.abs(targets - [[(w - 1) / 2], [(h - 1) / 2]]) < [[w / 2], [h / 2]]).all(axis=0)
    if not inside.any():
        return np.zeros_like(flow)
    nearest = KDTree(targets[:, inside].T).query(grid.reshape(2, -1).T)[1]
    return values[:, inside][:, nearest].reshape(flow.shape)


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
