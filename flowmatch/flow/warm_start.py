"""Begin the flow of a pair with that of the pair before, carried along by itself.

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
    """A network whose forward takes a third argument: the flow to begin with."""

    def to_grid(self, flow: Tensor) -> Tensor:
        """Flow ``[B, 2, H, W]``, NaN where unknown -> what forward takes, for the same images."""


def check_warm_start(
    model: nn.Module, batch: int, tile: int | None, zoom: float = 1.0, fuse: bool = False
) -> None:
    """Refuse to begin with earlier flows where that cannot be done.

    Raises:
        ValueError: The network takes no start; or pairs are computed at once, in tiles, zoomed or
            fused.
    """
    if not isinstance(model, WarmStarting):
        raise ValueError(
            f"a warm start needs a network that begins with a given flow, such as RAFT, "
            f"got {type(model).__name__}"
        )
    if batch != 1:
        raise ValueError(f"a warm start takes pair after pair: batch must be 1, got {batch}")
    if tile is not None:
        raise ValueError(f"a warm start is of whole frames, without tiles, got tile {tile}")
    if zoom != 1:
        raise ValueError(f"a warm start is of frames as they are, without zoom, got zoom {zoom}")
    if fuse:
        raise ValueError("a warm start is of one direction, and fusing flows takes both")


def carry_along(flow: Tensor, direction: int = 1) -> Tensor:
    """Take each pixel's flow to where the pixel went, and fill what is left by the nearest.

    Args:
        flow: Flow ``[B, 2, h, w]``, in pixels; what is not finite goes nowhere.
        direction: 1 if the flow leads the way its pixels went, -1 if it leads back.

    Returns:
        The flow of the next frame if all goes on as before, ``[B, 2, h, w]``; 0 where every pixel
        left the frame.

    Example:
        >>> flow = torch.zeros(1, 2, 1, 6)
        >>> flow[0, 0, 0] = torch.tensor([0, 0, 2, -9, -9, -9])
        >>> carry_along(flow)[0, 0, 0].tolist()  # pixel 2 went to 4, and is the nearest to 3 and 5
        [0.0, 0.0, 0.0, 2.0, 2.0, 2.0]

    Reference:
        RAFT's ``forward_interpolate``.
    """
    carried = [_carry(one, direction) for one in flow.detach().cpu().numpy()]
    return torch.from_numpy(np.stack(carried)).to(flow)


def _carry(flow: NDArray[Any], direction: int) -> NDArray[Any]:
    _, h, w = flow.shape
    grid = np.stack(np.meshgrid(np.arange(w), np.arange(h))).astype(np.float64)
    places, moved = (grid + direction * flow).reshape(2, -1), flow.reshape(2, -1)
    # Inside of the frame, which ends half a pixel around the pixels' centres; NaN is not.
    inside = (np.abs(places - [[(w - 1) / 2], [(h - 1) / 2]]) < [[w / 2], [h / 2]]).all(axis=0)
    if not inside.any():
        return np.zeros_like(flow)
    nearest = KDTree(places[:, inside].T).query(grid.reshape(2, -1).T)[1]
    return moved[:, inside][:, nearest].reshape(flow.shape)


class StartedWith(nn.Module):
    """A network as those that take no start, beginning with an earlier flow carried along.

    Args:
        model: A network that takes a start.
        earlier: The flow of the pair before, ``[H, W, 2]`` in pixels, NaN where unknown.
        direction: As in `carry_along`.
    """

    def __init__(self, model: Any, earlier: NDArray[np.float32], direction: int = 1) -> None:
        super().__init__()
        self.model = model
        flow = torch.from_numpy(np.ascontiguousarray(earlier)).permute(2, 0, 1)[None]
        self.start = carry_along(model.to_grid(flow), direction)

    def forward(self, first: Tensor, second: Tensor) -> Sequence[Tensor]:
        """Return the network's flows, ``[1, 2, H, W]``."""
        flows: Sequence[Tensor] = self.model(first, second, self.start.to(first.device))
        return flows
