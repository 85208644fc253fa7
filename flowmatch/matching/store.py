"""Weights of patch networks, by name and by file."""

import torch

from flowmatch.matching.external import load_external
from flowmatch.matching.networks import MODELS
from flowmatch.zoo import WeightStore

# Convolutions of small patches are faster in this memory format, on CPUs and GPUs.
STORE = WeightStore("matching", MODELS, torch.channels_last, load_external)
load, available, save_weights = STORE.load, STORE.available, STORE.save
