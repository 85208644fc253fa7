"""Optical flow: networks, weights, and the way from two pictures to a field of motion."""

from flowmatch.flow.estimate import (
    FlowBothWays,
    estimate_both_ways,
    estimate_flow,
)
from flowmatch.flow.external import load_checkpoint
from flowmatch.flow.networks import (
    MODELS,
    RAFT,
    FlowNet2,
    FlowNet2CS,
    FlowNet2CSS,
    FlowNet2SD,
    FlowNetC,
    FlowNetS,
    PyramidNet,
    RAFTSmall,
    RecurrentPyramid,
)
from flowmatch.flow.occlusion import find_occlusion
from flowmatch.flow.refine import refine_flow
from flowmatch.flow.store import available, load, save_weights

__all__ = [
    "MODELS",
    "RAFT",
    "FlowBothWays",
    "FlowNet2",
    "FlowNet2CS",
    "FlowNet2CSS",
    "FlowNet2SD",
    "FlowNetC",
    "FlowNetS",
    "PyramidNet",
    "RecurrentPyramid",
    "RAFTSmall",
    "estimate_both_ways",
    "estimate_flow",
    "find_occlusion",
    "load",
    "load_checkpoint",
    "refine_flow",
    "save_weights",
    "available",
]
