"""Weights of flow networks, by name or file."""

from flowmatch.flow.networks import MODELS
from flowmatch.zoo import WeightStore

STORE = WeightStore("flow", MODELS)
load, available, save_weights = STORE.load, STORE.available, STORE.save
