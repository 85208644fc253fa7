"""A describer by mean colour, and a folder of images of one colour each."""

import numpy as np
import pytest
import torch

from flowmatch.io import write_image


class MeanColour:
    """Describes images by their mean colour, and counts its calls."""

    about = "mean colour"

    def __init__(self):
        self.calls = 0

    def fit(self, images):
        self.fitted = len(list(images))

    def state(self):
        return {"fitted": torch.tensor([self.fitted])}

    def restore(self, state):
        self.fitted = int(state["fitted"])

    def __call__(self, image):
        self.calls += 1
        return torch.nn.functional.normalize(torch.from_numpy(image).float().mean((0, 1)), dim=0)


@pytest.fixture
def mean_colour():
    """Class of describers by mean colour."""
    return MeanColour


@pytest.fixture
def folder(tmp_path):
    """Three images, one of them in a subfolder, a damaged one, and a text file."""
    root = tmp_path / "pictures"
    (root / "more").mkdir(parents=True)
    for name, colour in {
        "red": (200, 0, 0),
        "green": (0, 200, 0),
        "more/blue": (0, 0, 200),
    }.items():
        write_image(root / f"{name}.png", np.full((8, 9, 3), colour, np.uint8))
    (root / "broken.jpg").write_bytes(b"no picture")
    (root / "notes.txt").write_text("not listed")
    return root
