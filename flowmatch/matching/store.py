"""Weights of patch networks by name."""

import torch

from flowmatch.matching.networks import MODELS
from flowmatch.zoo import WeightStore

# Convolutions of small patches are faster so, on CPUs and on GPUs.
STORE = WeightStore("matching", MODELS, torch.channels_last)
load, available, save_weights = STORE.load, STORE.available, STORE.save
