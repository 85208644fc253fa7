"""Flow from depth and poses, on a known scene: a wall with a box in front."""

import cv2
import numpy as np
import pytest

from flowmatch.flow.data.datasets import find_pairs, load_pair
from flowmatch.flow.data.rgbd import flow_from_depth
from flowmatch.io import write_image

CAMERA = np.array([[100.0, 0, 40], [0, 100, 30], [0, 0, 1]])
WALL, BOX = 4.0, 2.0  # metres away


def depth(moved):
    """Return the depth [60, 80] for a camera `moved` metres to the right."""
    depth_map = np.full((60, 80), WALL)
    left = round(30 - 100 * moved / BOX)  # the box covers columns 30 to 49 before the motion
    depth_map[20:40, left : left + 20] = BOX
    return depth_map


def rightwards(metres):
    motion = np.eye(4)
    motion[0, 3] = -metres  # points move opposite to the camera
    return motion


def test_near_points_move_farther():
    flow = flow_from_depth(depth(0), depth(0.2), rightwards(0.2), CAMERA)
    assert np.allclose(flow[30, 40], [-10, 0], atol=1e-4)
    assert np.allclose(flow[5, 40], [-5, 0], atol=1e-4)


def test_hidden_points_and_points_outside_are_unknown():
    flow = flow_from_depth(depth(0), depth(0.2), rightwards(0.2), CAMERA)
    unknown = np.isnan(flow[..., 0])
    expected = np.zeros((60, 80), bool)
    expected[:, :5] = True  # the wall leaves the image at the left
    expected[20:40, 25:30] = True  # the box, now at 20 to 39, hides the wall at 20 to 24
    assert np.array_equal(unknown, expected)


def test_a_turn_is_the_homography_of_the_plane():
    """The camera rotates about its axis, so every pixel rotates about the principal point."""
    angle = 0.1
    motion = np.eye(4)
    motion[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    wall = np.full((60, 80), WALL)
    flow = flow_from_depth(wall, wall, motion, CAMERA)
    arm = np.array([25 - 40, 40 - 30])
    assert np.allclose(flow[40, 25], motion[:2, :2] @ arm - arm, atol=1e-4)


def test_unknown_depth_stays_unknown():
    holes = depth(0)
    holes[50:, :10] = np.nan
    flow = flow_from_depth(holes, holes, np.eye(4), CAMERA)
    assert np.isnan(flow[50:, :10]).all()
    assert np.abs(flow[:50]).max() < 1e-4


@pytest.mark.parametrize("shape", [(60, 81), (60, 80, 1)])
def test_depths_must_fit(shape):
    with pytest.raises(ValueError, match=r"of one size, .* got \[60, 80\]"):
        flow_from_depth(depth(0), np.ones(shape), np.eye(4), CAMERA)


@pytest.fixture
def room(tmp_path, photo):
    """Three frames: the second 20 cm to the right, the third far away."""
    for name in ("color", "depth"):
        (tmp_path / name).mkdir()
    lines = []
    for number, moved in enumerate((0.0, 0.2, 40.0)):
        write_image(tmp_path / f"color/{number:04d}.jpg", photo[:60, :80])
        millimetres = np.uint16(1000 * depth(min(moved, 0.2)))
        cv2.imwrite(str(tmp_path / f"depth/{number:04d}.png"), millimetres)
        lines.append(f"{number:04d} 1 0 0 {moved} 0 1 0 0 0 0 1 0 0 0 0 1\n")
    (tmp_path / "poses.txt").write_text("".join(lines))
    (tmp_path / "intrinsics.txt").write_text("100 100 40 30")
    return tmp_path


def test_frames_of_a_folder_make_pairs(room):
    pairs = find_pairs(room)
    assert [(pair.name, pair.sequence) for pair in pairs] == [
        ("0000", room.name),
        ("0001", room.name),
    ]
    loaded = load_pair(pairs[0])
    assert loaded.first.shape == (60, 80, 3)
    assert np.allclose(loaded.truth[30, 40], [-10, 0], atol=1e-4)


def test_frames_without_common_points_are_named(room):
    with pytest.raises(ValueError, match=r"a tenth of the points of 0001\.png, got 0\.0 %"):
        load_pair(find_pairs(room)[1])


def test_a_missing_picture_is_named(room):
    (room / "color/0001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"color/0001\.\*"):
        load_pair(find_pairs(room)[0])
