"""Pictures in a grid: positions, and errors."""

import numpy as np
import pytest

from flowmatch.draw import side_by_side

IMAGE = np.zeros((4, 4, 3), np.uint8)


def test_side_by_side():
    wide, tall = np.full((20, 40, 3), 10, np.uint8), np.full((40, 20), 200, np.uint8)
    grid = side_by_side(wide, tall, wide, columns=2)
    margin = 4
    assert grid.shape == (2 * 40 + 3 * margin, 80 + 20 + 3 * margin, 3)
    assert (grid[margin : margin + 40, margin : margin + 80] == 10).all()
    assert (grid[margin : margin + 40, 2 * margin + 80 : -margin] == 200).all()
    assert (grid[:margin] == 255).all()
    assert (grid[-44:, 2 * margin + 80 :] == 255).all()
    labelled = side_by_side(wide, tall, labels=["estimate", "a much longer label"])
    assert labelled.shape[0] > 40 + 2 * margin
    assert labelled[:16].min() < 128
    assert side_by_side(wide, columns=5).shape == (28, 48, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (side_by_side, "got 0 pictures"),
        (lambda: side_by_side(IMAGE, labels=["a", "b"]), "1 pictures, 2 labels"),
        (lambda: side_by_side(IMAGE, columns=0), "0 columns"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
