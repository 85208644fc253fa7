"""Synthetic and posed pairs of scans, and the depth camera."""

import numpy as np
import pytest

from flowmatch.geometry import invert_motion, transform_points
from flowmatch.io import depth_to_points
from flowmatch.registration.synthetic.pairs import (
    PosedScans,
    ScanPair,
    Sensor,
    SyntheticScans,
    overlap,
    render_depth,
)
from flowmatch.registration.synthetic.solids import make_room

SMALL = Sensor(size=(30, 40))


def level_pose(room):
    """Return the pose of a camera near a wall, horizontal, looking along y."""
    pose = np.eye(4)
    pose[:3, :3] = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]).T
    pose[:3, 3] = [room.size[0] / 2, 0.3, 1.4]
    return pose


@pytest.mark.parametrize("seed", range(3))
def test_an_exact_scan_lies_on_the_room(seed):
    room = make_room(np.random.default_rng(seed))
    pose = level_pose(room)
    points = depth_to_points(render_depth(room, pose, SMALL), SMALL.intrinsics)
    assert len(points) > 100
    at = transform_points(pose, points).astype(np.float32)
    assert np.median(np.abs(room.distance(at))) < 2e-3
    assert (np.abs(room.distance(at)) < 0.02).all()


def test_distances_of_a_room_are_lower_bounds():
    """Else rays would pass through surfaces."""
    rng = np.random.default_rng(5)
    room = make_room(rng)
    points = rng.uniform(0.1, room.size - 0.1, (500, 3)).astype(np.float32)
    directions = rng.normal(size=points.shape).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    distance = room.distance(points)
    free = distance > 0.01
    for share in (0.3, 0.7, 0.98):
        moved = points + share * distance[:, None] * directions
        assert (room.distance(moved)[free] > -1e-3).all()


def test_noise_grows_with_the_square_of_the_depth():
    room = make_room(np.random.default_rng(1))
    sensor = Sensor(size=(60, 80), noise=(0.0, 0.002), quantization=0, holes=0)
    exact = render_depth(room, level_pose(room), sensor)
    noisy = [
        render_depth(room, level_pose(room), sensor, np.random.default_rng(seed))
        for seed in range(4)
    ]
    errors = (np.stack(noisy) - exact) / exact**2
    median = np.nanmedian(exact)
    for part in (exact < median, exact > median):
        assert np.nanstd(errors[:, part]) == pytest.approx(0.002, rel=0.15)


def test_holes_and_quantization():
    room = make_room(np.random.default_rng(1))
    sensor = Sensor(size=(60, 80), noise=(0.0, 0.0), quantization=0.01, holes=0.2, grazing=0)
    depth = render_depth(room, level_pose(room), sensor, np.random.default_rng(0))
    assert np.isnan(depth).mean() >= 0.15
    steps = 1 / depth[np.isfinite(depth)] / 0.01
    assert np.abs(steps - np.round(steps)).max() < 1e-2


def test_items_repeat_differ_and_overlap():
    scans = SyntheticScans(3, SMALL)
    first, again = scans[0], SyntheticScans(3, SMALL)[0]
    assert np.array_equal(first.source, again.source)
    assert np.array_equal(first.motion, again.motion)
    other = scans[1]
    assert first.source.shape != other.source.shape or not np.array_equal(
        first.source, other.source
    )
    assert overlap(first) > 0.2
    reverse = ScanPair(first.target, first.source, invert_motion(first.motion))
    assert overlap(reverse) > 0.1
    with pytest.raises(IndexError, match="below"):
        scans[-1]


def test_posed_frames(tmp_path):
    from flowmatch._opencv import cv2

    room = make_room(np.random.default_rng(2))
    (tmp_path / "depth").mkdir()
    lines = []
    for k in range(3):
        pose = level_pose(room)
        pose[0, 3] += 0.1 * k
        depth = np.nan_to_num(render_depth(room, pose, SMALL)) * 1000
        cv2.imwrite(str(tmp_path / "depth" / f"{k}.png"), np.rint(depth).astype(np.uint16))
        lines.append(" ".join([str(k), *(f"{v:.9f}" for v in pose.ravel())]))
    (tmp_path / "poses.txt").write_text("\n".join(lines))
    np.savetxt(tmp_path / "intrinsics.txt", SMALL.intrinsics)
    scans = PosedScans(tmp_path, (1, 2))
    pair = scans[0]
    assert overlap(pair) > 0.5
    assert np.abs(pair.motion[:3, 3]).max() == pytest.approx(0.1, abs=0.11)
    assert np.array_equal(scans[4].source, PosedScans(tmp_path, (1, 2))[4].source)
    with pytest.raises(FileNotFoundError):
        PosedScans(tmp_path / "depth")
    (tmp_path / "poses.txt").write_text(lines[0])
    with pytest.raises(ValueError, match="two frames"):
        PosedScans(tmp_path)
