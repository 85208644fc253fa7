"""A full circle closes without a step where its edges meet."""

import cv2
import numpy as np
import pytest

from flowmatch.stitch import StitchOptions, compose, stitch_photos

from .conftest import turn
from .world import World


@pytest.fixture(scope="module")
def circle():
    """Twelve photos of unequal exposure around a world with soft and sharp things."""
    world, rng = World(), np.random.default_rng(0)
    world.picture = cv2.GaussianBlur(world.picture, (0, 0), 6) // 2 + world.picture // 2
    photos = world.photos([turn(yaw) for yaw in range(0, 360, 30)], 55, (360, 300))
    return [np.clip(p * rng.normal(1, 0.12), 0, 255).astype(np.uint8) for p in photos]


def steps(circle, blend="multiband"):
    """Return the mean step across the wrap, and those between all other columns."""
    options = StitchOptions(keypoints=1500, exposure="gain", blend=blend)
    result = stitch_photos(circle, options=options)
    assert result.image.shape[1] > 2100 and result.metadata.xmp is not None
    image = result.image.astype(float)
    return np.split(np.abs(image - np.roll(image, 1, axis=1)).mean(axis=(0, 2)), [1])


def test_edges_meet(circle, monkeypatch):
    wrap, interior = steps(circle)
    assert wrap[0] < np.quantile(interior, 0.98)
    monkeypatch.setattr(compose, "_wrap_margin", lambda page, options: 0)
    without, interior = steps(circle)
    assert without[0] > 1.2 * np.quantile(interior, 0.98)
    assert without[0] > 1.5 * wrap[0]
