"""Weights of retrieval networks by name or file."""

from flowmatch.retrieval.network import MODELS
from flowmatch.zoo import WeightStore

STORE = WeightStore("retrieval", MODELS)
load, available, save_weights = STORE.load, STORE.available, STORE.save
