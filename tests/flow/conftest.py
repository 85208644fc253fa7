"""Fixtures of the flow tests."""

from dataclasses import replace

import numpy as np
import pytest

from flowmatch.flow.synthetic.effects import Effects, Exposure, Film
from flowmatch.io import write_image


@pytest.fixture
def clip(tmp_path):
    """Six frames, 20 x 24, each ten grey levels brighter."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for i in range(6):
        write_image(folder / f"frame{i}.png", np.full((20, 24, 3), 10 * i, np.uint8))
    return folder


@pytest.fixture
def only():
    """Return a function that makes the given effects only; without any, frames stay as they are."""
    exposures = (Exposure(1.0, 0.0, 0), Exposure(1.0, 0.0, 1))
    nothing = Effects(None, None, None, None, Film(1.0, np.ones(3), np.float32(0), exposures), None)

    def make(sigma=None, **effects):
        if sigma is not None:
            effects["film"] = replace(nothing.film, sigma=np.float32(sigma))
        return replace(nothing, **effects)

    return make
