"""Weights of flow networks, and of the network that judges flows, by name or file."""

from pathlib import Path

from torch import nn

from flowmatch.flow.networks import MODELS
from flowmatch.flow.networks.confidence import FlowConfidence
from flowmatch.zoo import WeightStore


def _read_published(path: Path) -> nn.Module:
    from flowmatch.flow.external import read_checkpoint  # which saves by this module

    return read_checkpoint(path).network


STORE = WeightStore(
    "flow", {**MODELS, "confidence": FlowConfidence}, read_published=_read_published
)
load, available, save_weights = STORE.load, STORE.available, STORE.save
