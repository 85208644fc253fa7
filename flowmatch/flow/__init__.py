"""Optical flow: networks, their weights, and the flow of image pairs and of clips."""

from flowmatch.flow.combine import combine_flows
from flowmatch.flow.confidence import FlowJudgement, judge_flow
from flowmatch.flow.estimate import (
    FlowBothWays,
    FlowWithConfidence,
    estimate_both_ways,
    estimate_flow,
)
from flowmatch.flow.external import load_external
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
from flowmatch.flow.options import FlowOptions, SequenceOptions
from flowmatch.flow.refine import refine_flow, refine_flows
from flowmatch.flow.sequence import SequenceReport, write_sequence
from flowmatch.flow.store import available, load, save_weights

__all__ = [
    "MODELS",
    "RAFT",
    "FlowBothWays",
    "FlowJudgement",
    "FlowNet2",
    "FlowNet2CS",
    "FlowNet2CSS",
    "FlowNet2SD",
    "FlowNetC",
    "FlowNetS",
    "FlowOptions",
    "FlowWithConfidence",
    "PyramidNet",
    "RAFTSmall",
    "RecurrentPyramid",
    "SequenceOptions",
    "SequenceReport",
    "available",
    "combine_flows",
    "estimate_both_ways",
    "estimate_flow",
    "find_occlusion",
    "judge_flow",
    "load",
    "load_external",
    "refine_flow",
    "refine_flows",
    "save_weights",
    "write_sequence",
]
