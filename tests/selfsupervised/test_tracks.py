import numpy as np
import pytest

from flowmatch.selfsupervised.boxes import box_iou, crop_box, propagate_box, shape_boxes
from flowmatch.selfsupervised.tracks import find_tracks, moving_shapes, residual_speed


def test_moving_objects_are_tracked(moving):
    frames, flow, places = moving
    tracks = find_tracks(frames, flow)
    assert len(tracks) == 2
    for track in tracks:
        assert track.frames == list(range(1, 30))  # motion is seen from frame 1 on
        which = 0 if track.boxes[0][0] < 60 else 1
        for number, (x, y, width, height) in zip(track.frames, track.boxes, strict=True):
            true_x, true_y = places(number)[which]
            assert abs(x + width / 2 - (true_x + 7)) <= 1
            assert abs(y + height / 2 - (true_y + 10)) <= 1
            assert (width, height) == pytest.approx((14 * 1.2, 20 * 1.2), abs=1)
        assert sorted(track.patches) == [5, 10, 15, 20, 25]
        middle = track.patches[5][36, 36]
        assert (middle[0] > 150) == (which == 0)


def test_boxes_are_in_pixels_of_the_original_picture(moving):
    frames, flow, _ = moving
    large = [(n, p.repeat(5, 0).repeat(5, 1)) for n, p in frames]  # 800 wide: shrunk to 384

    def flow_of_shrunk(first, second):
        flow_x = np.zeros((*first.shape[:2], 2), np.float32)
        red = (first[..., 0].astype(int) > 150) & (first[..., 1] < 60)
        later = second[..., 0].astype(int) > 150
        flow_x[red, 0] = np.nonzero(later)[1].min() - np.nonzero(red)[1].min()
        return flow_x

    (track,) = find_tracks(large, flow_of_shrunk)
    for number, (x, _, width, _) in zip(track.frames, track.boxes, strict=True):
        assert x + width / 2 == pytest.approx(5 * (10 + 3 * number + 7), abs=8)


def test_a_gap_ends_tracks_and_short_ones_are_left_out(moving):
    frames, flow, _ = moving
    cut = [f for f in frames if f[0] != 12]
    assert {t.frames[0] for t in find_tracks(cut, flow)} == {14}  # 11 frames are too few
    assert {len(t.frames) for t in find_tracks(cut, flow, min_length=2)} == {11, 16}


def test_a_track_ends_at_the_border(moving):
    frames, flow, _ = moving
    left = [(n, p[:, :70]) for n, p in frames]  # of the first, whose flow is the same
    index = {p[:, :70].tobytes(): p for _, p in frames}

    def cropped(first, second):
        return flow(index[first.tobytes()], index[second.tobytes()])[:, :70]

    tracks = [t for t in find_tracks(left, cropped) if t.boxes[0][1] < 40]
    assert [t.frames[-1] for t in tracks] == [15]  # at 16 it is cut off


def test_a_track_ends_where_the_object_stops(moving):
    frames, flow, _ = moving
    stops = [(n, frames[min(n, 20)][1]) for n in range(30)]
    still = np.zeros((96, 160, 2), np.float32)

    def stopping(first, second):
        return still if np.array_equal(first, second) else flow(first, second)

    for track in find_tracks(stops, stopping):
        assert track.frames == list(range(1, 21)) and max(track.patches) == 20


def test_boxes_follow_the_object_not_the_background():
    flow = np.zeros((60, 80, 2), np.float32)
    flow[20:40, 30:40] = (4, 1)
    speed, sure = np.linalg.norm(flow, axis=2), np.ones((60, 80), bool)
    box = (27.0, 18.0, 16.0, 24.0)  # somewhat larger than what moves
    assert propagate_box(box, flow, sure, speed) == (31, 19, 16, 24)
    sure[20:40] = False
    assert propagate_box(box, flow, sure, speed) is None
    assert propagate_box((62.0, 18.0, 16.0, 24.0), flow + (4, 0), ~sure | sure, speed) is None


def test_shapes_at_the_border_are_left_out():
    shapes = np.zeros((20, 30), np.int32)
    shapes[0:5, 4:8] = 1
    shapes[8:12, 10:16] = 2
    shapes[17:20, 2:4] = 3
    assert shape_boxes(shapes) == [(10, 8, 6, 4)]
    assert box_iou((0, 0, 2, 2), (2, 0, 2, 2)) == 0
    assert box_iou((0, 0, 4, 2), (1, 0, 2, 2)) == 0.5


def test_camera_motion_is_removed():
    y, x = np.mgrid[:96, :128].astype(np.float32)
    flow = np.stack([2 + 0.02 * x, -1 + 0.01 * x - 0.01 * y], -1)
    assert residual_speed(flow).max() < 0.01
    flow[30:50, 60:80] += (0, 3)
    assert residual_speed(flow)[40, 70] == pytest.approx(3, abs=0.01)
    shapes = moving_shapes(residual_speed(flow))
    assert shapes.max() == 1 and shapes[40, 70] == 1
    assert (shapes > 0).sum() == pytest.approx(400, abs=8)


def test_crop_box_repeats_the_border():
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    crop = crop_box(picture, (-2, -2, 4, 4), 8)
    assert (crop[:4, :4] == picture[0, 0]).all() and (crop[-1, -1] == picture[1, 1]).all()
    with pytest.raises(ValueError, match="expected min_length >= 2, .* got 1, 5, 72 and 3"):
        find_tracks([], lambda a, b: None, min_length=1)
