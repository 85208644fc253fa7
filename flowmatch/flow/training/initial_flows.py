"""Initial flows of training pairs: of a classical method, nearly right, wrong, and none."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmatch._opencv import cv2
from flowmatch.flow.baselines import dis
from flowmatch.flow.synthetic.scene import FlowSample
from flowmatch.imaging import Generator
from flowmatch.training import Samples

SHARES = {"none": 0.3, "dis": 0.3, "near": 0.2, "wrong": 0.2}
"""Kinds of initial flows and their shares: a network must use a good one and resist a bad one."""
ERRORS = {"near": (1.0, 6), "wrong": (20.0, 60)}  # mean error and largest shift, in pixels


class StartedSample(NamedTuple):
    """A pair and its initial flow.

    Attributes:
        pair: The pair.
        initial: Initial flow on the network's grid, ``[2, h, w]``, NaN where unknown.
    """

    pair: FlowSample
    initial: Tensor


class WithInitialFlows:
    """Pairs of a dataset, each with an initial flow of a random kind.

    Args:
        pairs: The dataset; item `i` is the same every time, and so is its initial flow.
        to_grid: Function from a flow ``[B, 2, H, W]`` to the network's grid.
        seed: Random seed.
    """

    def __init__(
        self, pairs: Samples, to_grid: Callable[[Tensor], Tensor], *, seed: int = 0
    ) -> None:
        self.pairs, self.to_grid, self.seed = pairs, to_grid, seed

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> StartedSample:
        """Return pair `index` with its initial flow."""
        pair = self.pairs[index]
        rng = np.random.default_rng([self.seed, index, 3])
        flow = sample_initial_flow(rng, pair)
        tensor = torch.from_numpy(np.ascontiguousarray(flow, np.float32)).permute(2, 0, 1)
        return StartedSample(pair, self.to_grid(tensor[None])[0])


def sample_initial_flow(rng: Generator, pair: FlowSample) -> NDArray[np.float32]:
    """Return an initial flow of a random kind, ``[H, W, 2]``, NaN where unknown."""
    kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    if kind == "none":
        return np.full_like(pair.flow, np.nan)
    if kind == "dis":
        return dis(pair.first, pair.second)
    return _disturb(rng, pair.flow, *ERRORS[kind])


def _disturb(
    rng: Generator, flow: NDArray[np.float32], error: float, shift: int
) -> NDArray[np.float32]:
    """Change a flow as time would: moved contents, another speed, a smooth error, gaps."""
    H, W = flow.shape[:2]
    y, x = rng.integers(-shift, shift + 1, 2)
    moved = np.roll(flow, (y, x), axis=(0, 1)) * rng.normal(1, 0.15)
    coarse = rng.normal(0, rng.exponential(error), (4, 6, 2)).astype(np.float32)
    moved += cv2.resize(coarse, (W, H), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(0, 3))):
        top, left = rng.integers(0, H), rng.integers(0, W)
        moved[top : top + rng.integers(1, H // 2), left : left + rng.integers(1, W // 2)] = np.nan
    return moved.astype(np.float32)
