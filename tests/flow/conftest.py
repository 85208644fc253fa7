"""Fixtures of the flow tests."""

import numpy as np
import pytest

from flowmatch.io import write_image


@pytest.fixture
def clip(tmp_path):
    """Six frames, 20 x 24, each ten grey levels brighter."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for i in range(6):
        write_image(folder / f"frame{i}.png", np.full((20, 24, 3), 10 * i, np.uint8))
    return folder
