"""Weights of tracking networks by name."""

from flowmatch.tracking.networks import MODELS
from flowmatch.zoo import WeightStore

STORE = WeightStore("tracking", MODELS)
load, available, save_weights = STORE.load, STORE.available, STORE.save
