"""Surfaces fused from depth pictures of a ball over a plane, whose distance is known."""

import cv2
import numpy as np
import pytest

from flowmatch.cli import main
from flowmatch.fragments.datasets import find_fragments
from flowmatch.fragments.fusion import Volume, fuse
from flowmatch.fragments.refine import inverse, move
from flowmatch.io import read_cloud

SIZE = (90, 120)
CAMERA = np.array([[110, 0, 59.5], [0, 110, 44.5], [0, 0, 1.0]])
BALL, RADIUS = np.array([0.1, -0.05, 0.3]), 0.25  # above the plane z = 0


def look(eye, aim=(0, 0, 0.15)):
    ahead = np.subtract(aim, eye) / np.linalg.norm(np.subtract(aim, eye))
    right = np.cross(ahead, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(ahead, right), ahead], axis=1)
    pose[:3, 3] = eye
    return pose


def depth_of(pose):
    """Depth along the optical axis of the nearer of ball and plane, by their equations."""
    v, u = np.indices(SIZE)
    rays = np.stack([u, v, np.ones(SIZE)], -1) @ np.linalg.inv(CAMERA).T @ pose[:3, :3].T
    eye = pose[:3, 3]
    plane = np.where(rays[..., 2] < 0, -eye[2] / rays[..., 2], np.inf)
    a, b = (rays**2).sum(-1), rays @ (eye - BALL)
    root = b**2 - a * (((eye - BALL) ** 2).sum() - RADIUS**2)
    ball = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    depth = np.minimum(plane, ball)
    return np.where(depth < 2, depth, np.nan)


POSES = [look(1.2 * np.array([np.cos(a), np.sin(a), 0.8])) for a in np.arange(8) * np.pi / 4]


def off(points):
    """How far points are from the nearer of ball and plane, metres; and its normals there."""
    away = points - BALL
    distance = np.linalg.norm(away, axis=1)
    ball = np.abs(distance - RADIUS) < np.abs(points[:, 2])
    normals = np.where(ball[:, None], away / distance[:, None], [0, 0, 1])
    return np.where(ball, distance - RADIUS, points[:, 2]), normals


@pytest.fixture(scope="module")
def fused():
    volume = Volume(voxel=0.02)
    for pose in POSES:
        volume.add(depth_of(pose), CAMERA, pose)
    return volume


def test_a_ball_and_a_plane(fused):
    points, normals = fused.surface()
    error, truth = off(points)
    assert np.sqrt((error**2).mean()) < 0.15 * 0.02
    assert np.quantile(np.abs(error), 0.99) < 0.5 * 0.02
    seam = np.abs(np.linalg.norm(points[:, :2] - BALL[:2], axis=1) - 0.25) < 0.15
    cosines = np.einsum("ni,ni->n", normals, truth)[~seam]
    assert np.median(cosines) > 0.995 and np.quantile(cosines, 0.05) > 0.9
    # All of the ball above its middle was seen.
    upper = points[(np.linalg.norm(points - BALL, axis=1) < 0.27) & (points[:, 2] > 0.32)]
    turns = np.histogram(np.arctan2(*(upper - BALL)[:, 1::-1].T), bins=16, range=(-np.pi, np.pi))
    assert turns[0].min() > 30


def test_noise_averages_out():
    rng = np.random.default_rng(0)
    errors = []
    for count in (1, 12):
        volume = Volume(voxel=0.02)
        depth = depth_of(POSES[0])
        for _ in range(count):
            volume.add(depth + rng.normal(0, 0.008, SIZE), CAMERA, POSES[0])
        errors.append(np.sqrt((off(volume.surface().points)[0] ** 2).mean()))
    assert errors[1] < 0.65 * errors[0]


def test_the_order_of_pictures_is_no_matter(fused):
    volume = Volume(voxel=0.02)
    for pose in POSES[::-1]:
        volume.add(depth_of(pose), CAMERA, pose)
    assert len(volume) == len(fused)
    a, b = (np.sort(v.surface().points[:, 0]) for v in (volume, fused))
    assert len(a) == pytest.approx(len(b), rel=1e-3)
    assert volume.surface(least=1e9).points.shape == (0, 3)


def test_nothing_seen_is_nothing_fused():
    volume = Volume()
    volume.add(np.full(SIZE, np.nan), CAMERA, np.eye(4))
    assert len(volume) == 0 and volume.surface().normals.shape == (0, 3)


def test_refusals():
    with pytest.raises(ValueError, match="truncation of 2 voxels or more.*0.01, 1"):
        Volume(truncation=1)
    with pytest.raises(ValueError, match="more than 3 blocks of 0.08 m"):
        Volume(most=3).add(depth_of(POSES[0]), CAMERA, POSES[0])
    with pytest.raises(ValueError, match="too small"):
        Volume(voxel=1e-9).add(np.ones((2, 2)), CAMERA, np.eye(4))
    with pytest.raises(ValueError, match="rigid"):
        Volume().add(np.ones((2, 2)), CAMERA, 2 * np.eye(4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight frames around the ball, as an RGB-D camera writes them."""
    place = tmp_path_factory.mktemp("rgbd")
    (place / "depth").mkdir()
    lines = []
    for k, pose in enumerate(POSES):
        millimetres = np.nan_to_num(1000 * depth_of(pose)).round().astype(np.uint16)
        cv2.imwrite(str(place / "depth" / f"{k:03}.png"), millimetres)
        lines.append(f"{k:03} " + " ".join(f"{x:.9f}" for x in pose.ravel()))
    (place / "poses.txt").write_text("\n".join(lines) + "\n")
    np.savetxt(place / "intrinsics.txt", CAMERA)
    return place


def test_fragments_lie_in_their_first_camera(folder):
    seen = []
    fragments = fuse(folder, frames=4, voxel=0.02, progress=lambda *done: seen.append(done))
    assert [fragment.frames[0] for fragment in fragments] == ["000", "004"]
    assert seen[0] == (1, 8) and seen[-1] == (8, 8)
    for fragment in fragments:
        error = off(move(fragment.pose, fragment.surface.points))[0]
        assert np.sqrt((error**2).mean()) < 0.2 * 0.02
    # Two of seven are less than half of five.
    assert [len(f.frames) for f in fuse(folder, frames=6, voxel=0.04)] == [6]


def test_command_writes_fragments_and_their_motions(folder, tmp_path):
    out = tmp_path / "one.ply"
    assert main(["fuse", str(folder), "-o", str(out), "--voxel", "0.04", "--world"]) == 0
    assert np.abs(off(read_cloud(out))[0]).mean() < 0.2 * 0.04
    words = ["fuse", str(folder), "-o", str(tmp_path / "scene"), "--frames", "3"]
    assert main([*words, "--voxel", "0.04"]) == 0
    pairs = find_fragments(tmp_path / "scene")
    assert [pair.name for pair in pairs] == ["0 1", "0 2", "1 2"]
    truth = inverse(POSES[0]) @ POSES[3]
    np.testing.assert_allclose(pairs[0].truth, truth, atol=1e-6)
    assert main(["fuse", str(folder), "-o", str(tmp_path / "no" / "x.ply")]) == 2
