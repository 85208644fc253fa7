"""Flows of several methods and their errors: what a confidence network learns from."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flowmatch._opencv import cv2
from flowmatch.flow.baselines import dis
from flowmatch.flow.combine import combine_flows
from flowmatch.flow.full_resolution import run_network
from flowmatch.flow.options import FlowOptions
from flowmatch.flow.refine import refine_flow
from flowmatch.flow.store import load
from flowmatch.flow.synthetic.pairs import SyntheticFlow
from flowmatch.imaging import Generator, Image

Flow = NDArray[np.float32]
Flows = tuple[Flow, Flow]
"""Flow from the first frame to the second, and from the second to the first."""

NETWORKS = (("default", 0.6), ("raft-small", 0.2), ("pyramid", 0.2))
"""Weights of the networks that give flows, and how often each is taken."""
KINDS = ("network", "network refined", "dis", "dis refined", "chosen", "mixed", "perturbed")
"""Flows of each pair: of a network and of DIS, each as it is and refined; the refined ones combined
as the quality good does; two of these mixed, in regions; and the true flow, perturbed."""
ESTIMATED = ("network", "chosen")
"""Flows of the qualities fast and good."""


class JudgedFlow(NamedTuple):
    """A pair of frames, a flow and the error of the flow.

    Attributes:
        first: First frame, uint8 ``[H, W, 3]``.
        second: Second frame.
        forward: Flow from the first frame to the second, ``[H, W, 2]``, pixels.
        backward: Flow from the second frame to the first, of the same method.
        error: Endpoint error of the forward flow, ``[H, W]``, pixels.
    """

    first: Image
    second: Image
    forward: Flow
    backward: Flow
    error: NDArray[np.float32]


class PairFlows(NamedTuple):
    """A rendered pair with the flows of all `KINDS`.

    Attributes:
        frames: Both frames, uint8 ``[H, W, 3]``.
        truth: True flow, forward and backward, ``[H, W, 2]``.
        flows: Forward and backward flow of each kind.
    """

    frames: tuple[Image, Image]
    truth: Flows
    flows: tuple[Flows, ...]


@dataclass
class JudgedFlows:
    """A repeatable dataset of flows with their errors.

    The flows of a pair take long, so each pair is used several times: with the flow of every kind,
    in both directions. Pairs come in blocks, in which the uses of all pairs are shuffled.

    Attributes:
        pairs: Rendered pairs, with backward flow; their seed is also that of the methods and of the
            order.
        count: Number of pairs that are used, a multiple of `block`.
        block: Number of pairs that are kept and shuffled.
        kinds: The flows of `KINDS` that are used.

    Raises:
        ValueError: The pairs have no backward flow, or `count` is no multiple of `block`.
    """

    pairs: SyntheticFlow
    count: int = 416
    block: int = 32
    kinds: tuple[str, ...] = KINDS
    _made: "OrderedDict[int, PairFlows]" = field(default_factory=OrderedDict, repr=False)

    def __post_init__(self) -> None:
        if not self.pairs.backward:
            raise ValueError("judged flows need pairs with backward flow, got backward=False")
        if self.count < 1 or self.count % self.block:
            raise ValueError(f"count must be a multiple of {self.block}, got {self.count}")

    def __len__(self) -> int:
        return 2 * len(self.kinds) * self.count

    def __getitem__(self, index: int) -> JudgedFlow:
        uses = 2 * len(self.kinds)
        number, place = divmod(index, uses * self.block)
        order = np.random.default_rng([self.pairs.seed, number, 1]).permutation(uses * self.block)
        pair, use = divmod(int(order[place]), uses)
        kind, direction = divmod(use, 2)
        made = self._pair(number * self.block + pair)
        flow, truth = made.flows[KINDS.index(self.kinds[kind])], made.truth
        here, there = (0, 1) if direction == 0 else (1, 0)
        error = np.linalg.norm(flow[here] - truth[here], axis=-1).astype(np.float32)
        return JudgedFlow(made.frames[here], made.frames[there], flow[here], flow[there], error)

    def _pair(self, index: int) -> PairFlows:
        if index not in self._made:
            if len(self._made) == self.block:
                self._made.popitem(last=False)
            self._made[index] = self.compute(index)
        return self._made[index]

    def compute(self, index: int) -> PairFlows:
        """Render a pair and compute its flows."""
        rng = np.random.default_rng([self.pairs.seed, index, 2])
        sample = self.pairs[index]
        frames = (sample.first, sample.second)
        assert sample.backward is not None
        truth = (sample.flow, sample.backward)
        name = rng.choice([name for name, _ in NETWORKS], p=[weight for _, weight in NETWORKS])
        flows: list[Flows] = []
        for method in (_network_flow(str(name)), dis):
            forward, backward = method(*frames), method(*frames[::-1])
            refined = refine_flow(*frames, forward), refine_flow(*frames[::-1], backward)
            flows += [(forward, backward), refined]
        flows.append(_choose(frames, flows[1], flows[3]))
        one, other = rng.choice(len(flows), 2, replace=False)
        flows.append(_mix(rng, flows[one], flows[other]))
        flows.append((perturb(rng, truth[0]), perturb(rng, truth[1])))
        return PairFlows(frames, truth, tuple(flows))


def _network_flow(name: str) -> Callable[[Image, Image], Flow]:
    network = _load(name)

    def flow(first: Image, second: Image) -> Flow:
        a, b = (torch.from_numpy(f).permute(2, 0, 1)[None].float() / 255 for f in (first, second))
        result = run_network(network, a, b, FlowOptions("fast"))
        return _to_array(result)

    return flow


_NETWORKS: dict[str, nn.Module] = {}


def _load(name: str) -> nn.Module:
    if name not in _NETWORKS:
        _NETWORKS[name] = load(name, device="cpu")
    return _NETWORKS[name]


def _choose(frames: tuple[Image, Image], one: Flows, other: Flows) -> Flows:
    """Combine two flows, forward and backward."""
    first, second = (torch.from_numpy(f).permute(2, 0, 1)[None].float() / 255 for f in frames)
    both = [[torch.from_numpy(f).permute(2, 0, 1)[None] for f in flows] for flows in (one, other)]
    forward = combine_flows(first, second, [(there, back) for there, back in both])
    backward = combine_flows(second, first, [(back, there) for there, back in both])
    return _to_array(forward), _to_array(backward)


def _to_array(flow: torch.Tensor) -> Flow:
    return np.ascontiguousarray(flow[0].permute(1, 2, 0).numpy())


def _mix(rng: Generator, one: Flows, other: Flows) -> Flows:
    """Take one flow in random regions, and another one elsewhere."""
    masks = [_smooth_noise(rng, flow.shape[:2], 1)[..., 0] > 0 for flow in one]
    forward, backward = (
        np.where(mask[..., None], a, b) for mask, a, b in zip(masks, one, other, strict=True)
    )
    return forward, backward


def perturb(rng: Generator, flow: Flow) -> Flow:
    """Add smooth noise of random amplitude to a flow, in random regions.

    Args:
        rng: Source of all random numbers.
        flow: Flow ``[H, W, 2]``.
    """
    size = flow.shape[:2]
    amplitude = np.exp(rng.uniform(np.log(0.1), np.log(12)))
    region = np.clip(3 * _smooth_noise(rng, size, 1) + rng.uniform(-1, 2), 0, 1)
    change = amplitude * region * _smooth_noise(rng, size, 2)
    return np.asarray(flow + change, np.float32)


def _smooth_noise(rng: Generator, size: tuple[int, int], channels: int) -> Any:
    """Return normal noise ``[H, W, channels]`` of a random scale of 4 to 96 pixels."""
    scale = np.exp(rng.uniform(np.log(4), np.log(96)))
    coarse = rng.normal(size=(*(max(2, round(side / scale)) for side in size), channels))
    fine = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return fine.reshape(*size, channels)
