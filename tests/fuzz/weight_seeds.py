"""Small files of weights and indexes."""

import io
import json

import torch
from safetensors.torch import save

from .seeds import Seed, header_length

LAYERS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2).half()}


def weight_seeds() -> list[Seed]:
    """Return files of weights of the network `tiny`."""
    metadata = {"model": "tiny", "arguments": json.dumps({"inputs": 3, "outputs": 2})}
    return [
        Seed("a.safetensors", save(LAYERS, metadata), header_length),
        Seed(
            "a.safetensors",
            save({key: t.double() for key, t in LAYERS.items()}, metadata),
            header_length,
        ),
        Seed("a.safetensors", save(LAYERS), header_length),
    ]


def index_seeds() -> list[Seed]:
    """Return indexes of pictures."""
    content = {
        "about": "nothing", "root": "photos", "files": [["a.png", 9, 99], ["b/c.jpg", 8, 88]],
        "failed": [["d.png", 1, 2, "it is damaged"]],
    }  # fmt: skip
    tensors = {"descriptors": torch.eye(2).half(), "state.words": torch.ones(2, 2)}
    metadata = {"flowmatch": "retrieval index 1", "content": json.dumps(content)}
    return [Seed("a.safetensors", save(tensors, metadata), header_length)]


def torch_seeds() -> list[Seed]:
    """Return files of `torch.save`, old and new."""
    seeds = []
    for modern in (True, False):
        file = io.BytesIO()
        torch.save({"state_dict": LAYERS, "step": 3}, file, _use_new_zipfile_serialization=modern)
        seeds.append(Seed("a.pth", file.getvalue()))
    return seeds
