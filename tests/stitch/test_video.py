"""Frames of a video that a panorama needs."""

import numpy as np
import pytest

from flowmatch.stitch import choose_frames

from .conftest import turn
from .world import World, blobs

WIDE = blobs(240, 2000, 1500)


def clip(shifts, width=320):
    return [(k, WIDE[:, x : x + width]) for k, x in enumerate(shifts)]


def test_frames_overlap_by_the_given_share():
    shifts = [*range(0, 800, 8), 800]  # 40 frames are the width of a frame
    for overlap, step in ((0.6, 16), (0.8, 8)):
        numbers = [frame.number for frame in choose_frames(clip(shifts), overlap)]
        assert numbers[0] == 0 and numbers[-1] == 100
        assert np.abs(np.diff(numbers)[:-1] - step).max() <= 1


def test_a_camera_that_stands_still_gives_two_frames():
    frames = list(choose_frames(clip([40] * 30)))
    assert [frame.number for frame in frames] == [0, 29]
    np.testing.assert_array_equal(frames[1].image, WIDE[:, 40:360])


def test_jumps_and_blank_frames_are_chosen():
    """Where nothing can be tracked, no frame is lost."""
    frames = [
        *clip([0, 10, 20, 900, 910]),
        (5, np.zeros((240, 320, 3), np.uint8)),
        (6, WIDE[:, :320]),
    ]
    assert [frame.number for frame in choose_frames(iter(frames))] == [0, 2, 3, 4, 5, 6]
    assert list(choose_frames([])) == []
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        next(choose_frames([], 1))


def test_a_turning_camera():
    photos = World().photos([turn(yaw) for yaw in range(0, 90, 1)], 50, (320, 240))
    numbers = [frame.number for frame in choose_frames(enumerate(photos), 0.5)]
    assert np.diff(numbers)[:-1].min() >= 15 and np.diff(numbers).max() <= 25
