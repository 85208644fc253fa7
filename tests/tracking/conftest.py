"""A clip of textured squares that move, and a network that is fast."""

import numpy as np
import pytest

from flowmatch.tracking import BoxRegression

TINY = {"size": 40, "width": 4, "hidden": 8}


@pytest.fixture
def squares():
    """Return 8 frames of two squares, 24 pixels, moving by (3, 1) and (-3, 0), and their boxes."""
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 110, (24, 40, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    patches = [rng.integers(0, 255, (6, 6, 3), np.uint8).repeat(4, 0).repeat(4, 1) for _ in "ab"]
    frames, boxes = [], []
    for t in range(8):
        frame = ground.copy()
        corners = (10 + 3 * t, 16 + t), (120 - 3 * t, 60)
        for (x, y), patch in zip(corners, patches, strict=True):
            frame[y : y + 24, x : x + 24] = patch
        frames.append(frame)
        boxes.append([(x, y, 24, 24) for x, y in corners])
    return frames, np.array(boxes, np.float64)


@pytest.fixture
def tiny():
    return BoxRegression(**TINY).eval()
