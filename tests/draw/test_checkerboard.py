"""Checkerboards: positions of the squares, and errors."""

import numpy as np
import pytest

from flowmatch.draw import checkerboard


def test_squares_alternate():
    black, white = np.zeros((4, 8, 3), np.uint8), np.full((4, 8), 255, np.uint8)
    board = checkerboard(black, white, cells=4)
    assert board.shape == (4, 8, 3)
    rows = [[0, 0, 255, 255, 0, 0, 255, 255], [255, 255, 0, 0, 255, 255, 0, 0]]
    assert board[..., 1].tolist() == [rows[0], rows[0], rows[1], rows[1]]


def test_one_cell_is_the_first_picture():
    first = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(checkerboard(first, 255 - first, cells=1), first)


def test_errors():
    with pytest.raises(ValueError, match="one size"):
        checkerboard(np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match="cells must be at least 1"):
        checkerboard(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), cells=0)
