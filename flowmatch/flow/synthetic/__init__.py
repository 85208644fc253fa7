"""Synthetic frame pairs with exact flow."""

from flowmatch.flow.synthetic.pairs import SyntheticFlow
from flowmatch.flow.synthetic.scene import FlowSample, Layer, Motion, Scene, translate
from flowmatch.flow.synthetic.sources import Sources
from flowmatch.flow.synthetic.textures import sample_outline

__all__ = [
    "FlowSample",
    "Layer",
    "Motion",
    "Scene",
    "Sources",
    "SyntheticFlow",
    "sample_outline",
    "translate",
]
