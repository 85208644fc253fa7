"""Points tracked by flow, hidden points, and points that reappear."""

import numpy as np
import pytest
from torch import nn

from flowmatch.tracking.anchors import Anchors
from flowmatch.tracking.point_tracks import (
    check_points,
    grid_points,
    sample_field,
    track_points,
)


class Still(nn.Module):
    """A network of zero flow."""

    def forward(self, first, second):
        return [first.new_zeros(len(first), 2, *first.shape[2:])]


@pytest.fixture
def covered(photo):
    """Return five frames of a photograph, of which a board covers a part in the third."""
    frame = np.ascontiguousarray(photo[60:220, 100:300])
    board = frame.copy()
    board[40:110, 60:140] = 90
    return [frame, frame, board, frame, frame]


def test_points_follow_the_flow(photo):
    frames = [
        np.ascontiguousarray(photo[60 + t : 188 + t, 100 + 3 * t : 292 + 3 * t]) for t in range(4)
    ]
    start = np.array([(100.0, 60), (60.5, 90), (150, 40)])
    tracks = track_points(frames, start)
    expected = start - np.arange(4)[:, None, None] * (3, 1)
    assert np.linalg.norm(tracks.points - expected, axis=-1).max() < 0.7
    assert tracks.visible.all()


def test_a_hidden_point_reappears(covered):
    points = [(100, 75), (20, 20)]
    tracks = track_points(covered, points)
    assert tracks.visible[:, 0].tolist() == [True, True, False, True, True]
    assert tracks.visible[:, 1].all()
    assert np.linalg.norm(tracks.points[-1] - points, axis=1).max() < 0.5
    alone = track_points(covered, points, anchors=False)
    assert alone.visible[:, 0].tolist() == [True, True, False, False, False]


def test_a_point_that_leaves_is_hidden(photo):
    frames = [np.ascontiguousarray(photo[60:160, 100 + 4 * t : 260 + 4 * t]) for t in range(5)]
    tracks = track_points(frames, [(8, 50), (100, 50)])  # the first at -8 at last
    assert tracks.visible[0, 0] and not tracks.visible[3:, 0].any()
    assert tracks.visible[:, 1].all()
    assert np.abs(tracks.points[-1, 1] - (84, 50)).max() < 1


def test_anchors_find_the_exact_place(photo):
    first, second = photo[60:220, 100:300], photo[63:223, 105:305]
    points = np.array([(60.0, 60), (120, 80), (90, 110)])
    anchors = Anchors(np.ascontiguousarray(first), points)
    places, found = anchors.search(
        np.ascontiguousarray(second), np.arange(3), points + (2, -2), np.full(3, 2)
    )
    assert found.all()
    np.testing.assert_allclose(places, points - (5, 3), atol=0.1)
    gray = np.full_like(first, 128)
    places, found = anchors.search(gray, np.arange(3), points, np.ones(3, np.int64))
    assert not found.any()
    np.testing.assert_array_equal(places, points)
    _, nothing = anchors.search(gray, np.arange(0), points[:0], np.zeros(0, np.int64))
    assert nothing.shape == (0,)


def test_fields_are_interpolated():
    y, x = np.mgrid[:6, :8].astype(np.float32)
    values = sample_field(np.stack([x, 2 * y], -1), np.array([(2.5, 3.25), (-4, 9)]))
    np.testing.assert_allclose(values, [(2.5, 6.5), (0, 10)])


def test_grids_and_bad_points():
    assert grid_points((30, 40), 20).tolist() == [[10, 10], [30, 10]]
    assert len(grid_points((1, 1), 16)) == 1
    with pytest.raises(ValueError, match="step must be at least 1"):
        grid_points((10, 10), 0)
    for points, message in (
        ([(1, np.nan)], "points must lie in the frame of 20 x 10 pixels, got 1,nan"),
        ([(20, 3)], "points must lie in the frame of 20 x 10 pixels, got 20,3"),
        ([(1, 2, 3)], r"points must be \[N, 2\]"),
        ([], r"points must be \[N, 2\]"),
        ("ab", "points must be numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            check_points(points, (10, 20))


def test_a_network_may_be_given(covered):
    tracks = track_points(covered[:2], [(100, 75)], model=Still())
    assert tracks.visible.all() and np.ptp(tracks.points, axis=0).max() == 0
