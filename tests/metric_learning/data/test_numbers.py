import numpy as np
import pytest

from flowmatch.metric_learning.data.numbers import render_numbers


def test_numbers():
    images = render_numbers(views=2, size=16)
    assert images.pictures.shape == (200, 16, 16) and images.channels == 1
    assert sorted(images.classes) == [f"{number:02d}" for number in range(100)]
    assert images.labels.tolist() == np.repeat(np.arange(100), 2).tolist()
    for part in images.split_classes():  # each half has every digit, at both places
        for place in (0, 1):
            assert {name[place] for name in part.classes} == set("0123456789")
    assert np.array_equal(images.pictures, render_numbers(views=2, size=16).pictures)
    assert not np.array_equal(images.pictures, render_numbers(2, 16, seed=1).pictures)
    # Ink in both halves, on a darker ground.
    views = images.pictures.astype(float)
    for half in (views[:, :, :8], views[:, :, 8:]):
        assert (half.max((1, 2)) > np.median(half, (1, 2)) + 50).mean() > 0.99
    with pytest.raises(ValueError, match="size must be at least 8, got 7"):
        render_numbers(size=7)
