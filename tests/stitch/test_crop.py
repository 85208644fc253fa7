"""The largest rectangle, compared with an exhaustive search."""

import numpy as np
import pytest

from flowmatch.stitch import Rectangle, largest_rectangle


def brute_force_area(mask):
    H, W = mask.shape
    best = 0
    for top in range(H):
        for bottom in range(top + 1, H + 1):
            for left in range(W):
                for right in range(left + 1, W + 1):
                    area = (bottom - top) * (right - left)
                    if area > best and mask[top:bottom, left:right].all():
                        best = area
    return best


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8, 0.95])
def test_equals_brute_force(share):
    rng = np.random.default_rng(int(100 * share))
    for _ in range(25):
        mask = rng.random(tuple(rng.integers(1, 9, 2))) < share
        rectangle = largest_rectangle(mask)
        inside = mask[rectangle.top : rectangle.bottom, rectangle.left : rectangle.right]
        assert inside.all()
        assert inside.size == rectangle.area == brute_force_area(mask)


def test_shapes_with_known_answers():
    assert largest_rectangle(np.zeros((3, 4))).area == 0
    assert largest_rectangle(np.ones((3, 4))) == Rectangle(0, 0, 4, 3)
    stairs = np.tril(np.ones((6, 6)))
    assert largest_rectangle(stairs).area == 12
    assert largest_rectangle(np.zeros((0, 4))).area == 0
    hole = np.ones((1000, 2000), np.uint8)
    hole[500, 300] = 0
    assert largest_rectangle(hole) == Rectangle(301, 0, 2000, 1000)


def test_other_shapes():
    with pytest.raises(ValueError, match=r"mask must be \[H, W\], got \[4\]"):
        largest_rectangle(np.ones(4))


def test_cut():
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    np.testing.assert_array_equal(Rectangle(1, 0, 3, 2).cut(image), image[:2, 1:3])
