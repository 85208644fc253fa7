"""Tracks drawn into frames and videos."""

import numpy as np

from flowmatch.io import VideoWriter, read_frames
from flowmatch.tracking import BoxTracks, PointTracks
from flowmatch.tracking.draw import (
    draw_box_tracks,
    draw_point_tracks,
    track_colour,
    write_tracks_video,
)

BLACK = np.zeros((60, 80, 3), np.uint8)


def boxes(lost):
    return BoxTracks(
        np.arange(2),
        np.tile((20.0, 10, 30, 40), (2, 1, 1)),
        np.ones((2, 1), np.float32),
        np.array([[False], [lost]]),
    )


def test_boxes_are_drawn_on_their_border():
    picture = draw_box_tracks(BLACK, boxes(False), 1)
    for row in (10, 49):
        assert (picture[row, 21:49, 0] > 150).all()
    assert not picture[15:45, 25:45].any() and not BLACK.any()
    assert np.ptp(draw_box_tracks(BLACK, boxes(True), 1)[10, 25]) == 0


def test_visible_points_have_trails():
    points = np.stack([np.array([(10.0 + 10 * t, 20), (40, 50)]) for t in range(3)])
    tracks = PointTracks(np.arange(3), points, np.array([[True, True]] * 2 + [[True, False]]))
    picture = draw_point_tracks(BLACK, tracks, 2)
    assert (picture[20, 11:31, 0] > 120).all()
    assert not picture[45:].any()  # hidden
    assert len({track_colour(k) for k in range(50)}) == 50


def test_a_video_of_the_tracks(tmp_path):
    with VideoWriter(tmp_path / "clip.avi", rate=25) as video:
        for _ in range(3):
            video.write(BLACK)
    calls = []
    frames = read_frames(tmp_path / "clip.avi")
    write_tracks_video(
        frames, boxes(False), tmp_path / "o.avi", progress=lambda *call: calls.append(call)
    )
    drawn = list(read_frames(tmp_path / "o.avi"))
    assert len(drawn) == 2 and calls[-1] == ("drawing", 2, 2)  # no track of the third frame
    assert drawn[1][10, 30].max() > 150 and drawn[1][30, 35].max() < 30
