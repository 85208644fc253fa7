import numpy as np
import pytest

from flowmatch.selfsupervised.tracks import cut_out, find_tracks, link_shapes, moving_shapes


def test_follows_what_moves(moving):
    frames, flow, places = moving
    tracks = find_tracks(frames, flow)
    assert len(tracks) == 2
    for track in tracks:
        assert track.frames == list(range(30))
        which = 0 if track.boxes[0][0] < 60 else 1
        for number, (x, y, width, height) in zip(track.frames, track.boxes, strict=True):
            true_x, true_y = places(number)[which]
            assert abs(x + width / 2 - (true_x + 7)) <= 1
            assert abs(y + height / 2 - (true_y + 10)) <= 1
            assert (width, height) == pytest.approx((14 * 1.2, 20 * 1.2), abs=1)
        assert sorted(track.patches) == [0, 5, 10, 15, 20, 25]
        middle = track.patches[5][36, 36]
        assert (middle[0] > 150) == (which == 0)


def test_boxes_are_of_the_whole_picture_not_of_the_shrunk_one(moving):
    frames, flow, _ = moving
    large = [(n, p.repeat(5, 0).repeat(5, 1)) for n, p in frames]  # 800 wide: shrunk to 384

    def flow_of_shrunk(first, second):
        found = np.zeros((*first.shape[:2], 2), np.float32)
        red = (first[..., 0].astype(int) > 150) & (first[..., 1] < 60)
        later = second[..., 0].astype(int) > 150
        found[red, 0] = np.nonzero(later)[1].min() - np.nonzero(red)[1].min()
        return found

    (track,) = find_tracks(large, flow_of_shrunk)
    for number, (x, _, width, _) in zip(track.frames, track.boxes, strict=True):
        assert x + width / 2 == pytest.approx(5 * (10 + 3 * number + 7), abs=8)


def test_a_gap_ends_tracks_and_short_ones_are_left_out(moving):
    frames, flow, _ = moving
    cut = [f for f in frames if f[0] != 12]
    assert {t.frames[0] for t in find_tracks(cut, flow)} == {13}  # 12 frames are too few
    assert {len(t.frames) for t in find_tracks(cut, flow, shortest=2)} == {12, 17}


def test_what_leaves_the_picture_is_not_followed_out(moving):
    frames, flow, _ = moving
    left = [(n, p[:, :70]) for n, p in frames]  # of the first, whose flow is the same

    def cropped(first, second):
        index = {p[:, :70].tobytes(): p for _, p in frames}
        return flow(index[first.tobytes()], index[second.tobytes()])[:, :70]

    tracks = [t for t in find_tracks(left, cropped) if t.boxes[0][1] < 40]
    assert [t.frames[-1] for t in tracks] == [15]  # at 16 it is cut off


def test_links_need_the_flow_back():
    shapes = np.zeros((40, 60), np.int32)
    shapes[10:20, 10:20] = 1
    later = np.zeros_like(shapes)
    later[10:20, 16:26] = 3
    there = np.zeros((40, 60, 2), np.float32)
    there[shapes == 1] = (6, 0)
    back = np.zeros_like(there)
    back[later == 3] = (-6, 0)
    assert link_shapes(shapes, later, there, back) == {1: 3}
    assert link_shapes(shapes, later, there, np.zeros_like(back)) == {}
    # Two that become one: neither is continued.
    shapes[22:32, 10:20] = 2
    merged = np.zeros_like(shapes)
    merged[10:32, 16:26] = 1
    there[shapes > 0] = (6, 0)
    back[merged > 0] = (-6, 0)
    assert link_shapes(shapes, merged, there, back) == {}


def test_the_cameras_motion_is_no_motion():
    y, x = np.mgrid[:96, :128].astype(np.float32)
    flow = np.stack([2 + 0.02 * x, -1 + 0.01 * x - 0.01 * y], -1)
    assert moving_shapes(flow).max() == 0
    flow[30:50, 60:80] += (0, 3)
    shapes = moving_shapes(flow)
    assert shapes.max() == 1 and shapes[40, 70] == 1
    assert (shapes > 0).sum() == pytest.approx(400, abs=8)


def test_cut_out_repeats_the_border_and_names_numbers():
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    found = cut_out(picture, (-2, -2, 4, 4), 8)
    assert (found[:4, :4] == picture[0, 0]).all() and (found[-1, -1] == picture[1, 1]).all()
    with pytest.raises(ValueError, match="shortest >= 2, every >= 1 and size >= 8, got 1, 5"):
        find_tracks([], lambda a, b: None, shortest=1)
