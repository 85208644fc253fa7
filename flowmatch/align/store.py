"""Weights of alignment networks by name."""

from flowmatch.align.networks import MODELS
from flowmatch.zoo import WeightStore

STORE = WeightStore("align", MODELS)
load, available, save_weights = STORE.load, STORE.available, STORE.save
