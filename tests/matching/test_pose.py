"""Relative pose of two calibrated views of known points."""

import json

import numpy as np
import pytest
from plyfile import PlyData

from flowmatch._opencv import cv2
from flowmatch.cli import main
from flowmatch.io import read_cloud, write_image
from flowmatch.matching.features import Keypoints, Matches
from flowmatch.matching.fit import fit_geometry
from flowmatch.matching.pose import MIN_PARALLAX, relative_pose

from .room import CAMERA, CENTRES, ROTATIONS, render

K0 = np.array([[500.0, 0, 320], [0, 520, 240], [0, 0, 1]])
K1 = np.array([[450.0, 0, 300], [0, 450, 250], [0, 0, 1]])
ROTATION = cv2.Rodrigues(np.array([0.02, -0.15, 0.05]))[0]
SIZES = ((480, 640), (480, 640))


def views(translation, noise=0.2, count=200):
    """Return matches of two views of random points, a tenth of them wrong, and the points."""
    rng = np.random.default_rng(0)
    points = rng.uniform((-2, -1.5, 4), (2, 1.5, 9), (count, 3))
    moved = points @ ROTATION.T + translation
    xy = []
    for X, K in ((points, K0), (moved, K1)):
        pixels = X @ K.T
        xy.append(pixels[:, :2] / pixels[:, 2:] + rng.normal(0, noise, (count, 2)))
    wrong = np.arange(count) % 10 == 0
    xy[1][wrong] = rng.uniform((0, 0), (640, 480), (wrong.sum(), 2))
    keypoints = [
        Keypoints(p.astype(np.float32), *(np.ones(count, np.float32) for _ in range(3))) for p in xy
    ]
    pairs = np.stack([np.arange(count)] * 2, axis=1)
    matches = fit_geometry(
        *keypoints, pairs, np.zeros(count, np.float32), geometry="essential", threshold=2.0,
        intrinsics=(K0, K1), sizes=SIZES,
    )  # fmt: skip
    return matches, points, wrong


def test_rotation_direction_and_points():
    translation = np.array([0.8, 0.1, 0.2])
    matches, points, wrong = views(translation)
    pose = relative_pose(matches, K0, K1)
    difference = cv2.Rodrigues(pose.rotation @ ROTATION.T)[0]
    assert np.degrees(np.linalg.norm(difference)) < 0.3
    length = np.linalg.norm(translation)
    cosine = pose.translation @ translation / length
    assert np.degrees(np.arccos(cosine)) < 2
    assert pose.angle == pytest.approx(np.degrees(np.linalg.norm([0.02, -0.15, 0.05])), abs=0.3)
    assert len(pose.points) > 150
    right = ~wrong[pose.matches]
    assert right.mean() > 0.98
    relative = pose.points[right] * length / points[pose.matches][right] - 1
    assert np.median(np.abs(relative)) < 0.02
    assert 0.05 < np.median(pose.errors) < 0.4
    assert pose.parallax > MIN_PARALLAX


def test_a_turning_camera_has_no_parallax():
    pose = relative_pose(views(np.zeros(3))[0], K0, K1)
    assert pose.parallax < MIN_PARALLAX
    difference = cv2.Rodrigues(pose.rotation @ ROTATION.T)[0]
    assert np.degrees(np.linalg.norm(difference)) < 0.3


def test_without_an_essential_matrix():
    matches = views(np.array([0.8, 0.1, 0.2]))[0]
    nothing = matches._replace(matrix=None, inliers=np.zeros(len(matches.matches), bool))
    assert relative_pose(nothing, K0, K1) is None
    with pytest.raises(ValueError, match="needs an essential matrix, got matches with homography"):
        relative_pose(Matches(*matches[:6], "homography"), K0, K1)


def test_the_command_gives_the_pose_and_the_points_of_a_room(tmp_path, capsys):
    for k in (1, 3):
        write_image(tmp_path / f"{k}.png", render(CENTRES[k], ROTATIONS[k]))
    words = ["match", str(tmp_path / "1.png"), str(tmp_path / "3.png"), "--model", "rootsift"]
    words += ["--geometry", "essential", "--camera", ",".join(map(str, CAMERA))]
    points = tmp_path / "points.ply"
    assert main([*words, "-o", str(points)]) == 0
    said, err = capsys.readouterr()
    pose = json.loads(said)
    expected = ROTATIONS[3] @ ROTATIONS[1].T
    turned = cv2.Rodrigues(np.array(pose["rotation"]) @ expected.T)[0]
    assert np.degrees(np.linalg.norm(turned)) < 0.3
    translation = ROTATIONS[3] @ (CENTRES[1] - CENTRES[3])
    length = np.linalg.norm(translation)
    assert pose["translation"] @ translation / length > np.cos(np.radians(3))
    assert pose["points"] > 100 and pose["median_error_px"] < 0.5
    assert f"in {points}" in err
    # The points lie on the walls.
    world = length * read_cloud(points) @ ROTATIONS[1] + CENTRES[1]
    walls = np.abs(world - (-1.6, 1.2, 4.5)).min(axis=1)
    assert np.median(walls) < 0.05
    rows = PlyData.read(points)["vertex"]
    assert {"red", "green", "blue", "error"} < set(rows.data.dtype.names)
    assert np.median(rows["error"]) == pytest.approx(pose["median_error_px"], abs=1e-3)


def test_points_need_an_essential_matrix(tmp_path, capsys):
    write_image(tmp_path / "a.png", render(CENTRES[0], ROTATIONS[0]))
    words = ["match", str(tmp_path / "a.png"), str(tmp_path / "a.png")]
    assert main([*words, "-o", str(tmp_path / "p.ply")]) == 2
    assert "p.ply: expected a name ending in one of" in capsys.readouterr().err


def test_a_still_camera_is_said_to_have_hardly_moved(tmp_path, capsys):
    write_image(tmp_path / "a.png", render(CENTRES[0], ROTATIONS[0]))
    turn = cv2.Rodrigues(np.array([0.0, 0.1, 0.02]))[0] @ ROTATIONS[0]
    write_image(tmp_path / "b.png", render(CENTRES[0], turn))
    words = ["match", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--model", "rootsift"]
    assert main([*words, "--geometry", "essential", "--camera", ",".join(map(str, CAMERA))]) == 0
    said, err = capsys.readouterr()
    assert json.loads(said)["rotation_degrees"] == pytest.approx(5.84, abs=0.1)
    assert "the camera has hardly moved (parallax 0." in err
