"""Pictures of matches: positions of images and lines, and errors."""

import numpy as np
import pytest

from flowmatch.draw import draw_matches

GRAY = np.full((40, 60), 128, np.uint8)


def test_images_keep_their_pixels_and_places():
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, (*s, 3)).astype(np.uint8) for s in ((40, 60), (30, 50)))
    picture = draw_matches(first, second, [], [])
    assert picture.shape == (40, 60 + 4 + 50, 3)
    np.testing.assert_array_equal(picture[:, :60], first)
    np.testing.assert_array_equal(picture[:30, 64:], second)
    assert (picture[:, 60:64] == 255).all()
    assert (picture[30:, 64:] == 255).all()


def test_lines_go_from_point_to_point():
    picture = draw_matches(GRAY, GRAY, [(10, 20), (10, 5)], [(30, 20), (40, 5)], [True, False])
    red, green, blue = np.moveaxis(picture.astype(int), 2, 0)
    # From x = 10 to 64 + 30 on row 20, and nowhere else near it.
    assert (green[20, 10:60] > red[20, 10:60] + 20).all()
    assert (green[20, 64:94] > blue[20, 64:94] + 20).all()
    assert (red[5, 10:60] > green[5, 10:60] + 20).all()
    assert (picture[24:, :60] == 128).all()
    assert (picture[20, :6] == 128).all()
    assert (picture[20, 100:] == 128).all()


def test_inliers_are_on_top():
    crossing = [(5, 5), (5, 35)], [(50, 35), (50, 5)]
    middle = (20, 61)
    colours = [draw_matches(GRAY, GRAY, *crossing, marks)[middle] for marks in ((1, 0), (0, 1))]
    assert all(colour[1] > colour[0] for colour in colours)


def test_without_marks_all_are_inliers_and_a_selection_is_drawn():
    points = np.stack([np.full(30, 20), np.arange(5, 35)], axis=1)
    picture = draw_matches(GRAY, GRAY, points, points, most=2)
    rows = np.flatnonzero((picture[:, 40] != 128).any(axis=1))
    assert rows[0] <= 5
    assert rows[-1] >= 34
    assert len(rows) <= 6
    assert (picture[rows, 40, 1] > picture[rows, 40, 0]).all()


def test_points_far_outside_are_harmless():
    picture = draw_matches(GRAY, GRAY, [(1e30, -1e30)], [(-1e30, 5)])
    assert picture.shape == (40, 124, 3)


def test_errors():
    for arguments, reason in (
        ((GRAY.astype(float), GRAY, [], []), "image must be uint8"),
        ((GRAY, GRAY, [(1, 2)], []), "got 1 and 0 points"),
        ((GRAY, GRAY, [(1, 2)], [(1, 2)], [True, True]), r"marks \[2\]"),
        ((GRAY, GRAY, [(1, np.nan)], [(1, 2)]), r"points must be finite \[K, 2\]"),
        ((GRAY, GRAY, [1, 2], [1, 2]), r"points must be finite \[K, 2\], got \[2\]"),
    ):
        with pytest.raises(ValueError, match=reason):
            draw_matches(*arguments)
