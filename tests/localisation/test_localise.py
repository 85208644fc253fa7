"""Localisation in a rendered room: a wall of known texture, seen by cameras of known pose."""

import json

import numpy as np
import pytest
from skimage import data

from flowmatch._opencv import cv2
from flowmatch.cli import main
from flowmatch.io import write_image
from flowmatch.localisation import PosedFolder, fit_camera_pose, localise_photo
from tests.localisation.room import K, pose_at, render, write_room


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("room")
    xs = (-0.8, -0.3, 0.3, 0.8)
    write_room(
        folder, [pose_at(x, 0.1 * k, -0.2, (0.02, 0.05 * k, 0.03)) for k, x in enumerate(xs)]
    )
    words = ["index", str(folder / "color"), "-o", str(folder / "i.safetensors")]
    assert main([*words, "--model", "rootsift", "--words", "8", "--keypoints", "300"]) == 0
    truth = pose_at(0.1, 0.15, 0.1, (-0.05, 0.1, 0.1))
    write_image(folder / "photo.png", render(data.astronaut(), truth)[0])
    return folder, truth


def test_the_pose_of_a_photo(room, capsys):
    folder, truth = room
    words = ["localise", str(folder / "photo.png"), "-i", str(folder / "i.safetensors")]
    assert main([*words, "--json", str(folder / "pose.json")]) == 0
    content = json.loads((folder / "pose.json").read_text())
    pose = np.array(content["pose"])
    assert np.abs(pose[:3, 3] - truth[:3, 3]).max() < 0.02
    assert np.abs(pose[:3, :3] - truth[:3, :3]).max() < 0.01
    assert content["trusted"] and content["points"] > 50
    assert 0 < content["position_deviation_metres"] < 0.02
    assert "agree on the pose" in capsys.readouterr().err


def test_another_place_has_no_trusted_pose(room, capsys):
    folder, _ = room
    write_image(folder / "other.png", np.ascontiguousarray(data.coffee()[:240, :320]))
    words = ["localise", str(folder / "other.png"), "-i", str(folder / "i.safetensors")]
    assert main(words) == 1
    assert "no pose" in (err := capsys.readouterr().err) or "than chance explains" in err


def test_a_photo_of_another_size_needs_its_camera(room):
    folder, truth = room
    photo = cv2.resize(render(data.astronaut(), truth)[0], (480, 360))
    with pytest.raises(ValueError, match="480 x 360 pixels needs its camera: .* has 320 x 240"):
        localise_photo(photo, folder / "i.safetensors")
    larger = np.diag([1.5, 1.5, 1]) @ K
    larger[:2, 2] += 0.25  # the corner of the first pixel stays
    result = localise_photo(photo, folder / "i.safetensors", camera=larger)
    assert result.trusted
    assert np.abs(result.result.pose[:3, 3] - truth[:3, 3]).max() < 0.02


def test_points_of_pixels_with_depth(room):
    folder, _ = room
    points, known = PosedFolder(folder).points("1", [[10, 20], [300, 200]], (320, 240))
    assert known.all()
    assert np.allclose(points[:, 2], 3, atol=0.002)
    with pytest.raises(ValueError, match=r"1\.png: expected the depth of a picture of 9 x 9"):
        PosedFolder(folder).points("1", [[1, 1]], (9, 9))


def test_deviations_hold():
    rng = np.random.default_rng(0)
    points = rng.uniform((-1, -1, 3), (1, 1, 5), (60, 3))
    pixels = points @ K.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    results = [fit_camera_pose(points, pixels + rng.normal(0, 1, (60, 2)), K) for _ in range(20)]
    errors = [np.linalg.norm(result.pose[:3, 3]) for result in results]
    expected = np.mean([result.position_deviation for result in results])
    assert 0.6 < np.sqrt(np.mean(np.square(errors))) / expected < 1.5


def test_too_few_points():
    assert fit_camera_pose(np.zeros((5, 3)), np.zeros((5, 2)), K) is None
