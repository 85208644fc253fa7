"""Fixtures of tests about synthetic pairs."""

from dataclasses import replace

import numpy as np
import pytest

from flowmatch.flow.effects import Effects, Exposure, Film


@pytest.fixture
def only():
    """Make effects of what is given alone: else frames are stored as they are."""
    exposures = (Exposure(1.0, 0.0, 0), Exposure(1.0, 0.0, 1))
    nothing = Effects(None, None, None, None, Film(1.0, np.ones(3), np.float32(0), exposures), None)

    def make(sigma=None, **effects):
        if sigma is not None:
            effects["film"] = replace(nothing.film, sigma=np.float32(sigma))
        return replace(nothing, **effects)

    return make
