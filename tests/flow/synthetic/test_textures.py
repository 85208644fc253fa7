"""Procedural textures and outlines."""

import numpy as np
import pytest

from flowmatch.flow.synthetic import textures


@pytest.mark.parametrize("make", textures.TEXTURES, ids=lambda make: make.__name__)
def test_textures(make):
    image = make(np.random.default_rng(0), 64)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert image.std() > (0 if make is textures.plain else 1)
    assert np.array_equal(image, make(np.random.default_rng(0), 64))


def test_outlines_have_an_inside_and_an_outside():
    shares = [
        (textures.sample_outline(np.random.default_rng(i), 64) > 127).mean() for i in range(30)
    ]
    assert min(shares) > 0
    assert max(shares) < 0.9
    assert min(shares) < 0.1 < max(shares)  # thin and thick shapes


def test_fences_have_gaps():
    shares = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        alpha = textures.sample_fence(rng, 64)
        shares.append((alpha > 0).mean())
    assert 0 < min(shares) < max(shares) < 0.7
