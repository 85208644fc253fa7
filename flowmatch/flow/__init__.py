"""Optical flow: networks, weights, and the way from two pictures to a field of motion."""

from flowmatch.flow.checkpoints import load, save_weights, shipped
from flowmatch.flow.estimate import (
    FlowBothWays,
    estimate_both_ways,
    estimate_flow,
    find_occlusion,
)
from flowmatch.flow.networks import MODELS, FlowNetC, FlowNetS, PyramidNet
from flowmatch.flow.refine import refine_flow

__all__ = [
    "MODELS",
    "FlowBothWays",
    "FlowNetC",
    "FlowNetS",
    "PyramidNet",
    "estimate_both_ways",
    "estimate_flow",
    "find_occlusion",
    "load",
    "refine_flow",
    "save_weights",
    "shipped",
]
