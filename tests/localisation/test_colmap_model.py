"""Models of COLMAP in text and in binary form, and a photo localised with one."""

import struct

import numpy as np
import pytest
from skimage import data

from flowmatch.cli import main
from flowmatch.io import write_image
from flowmatch.localisation.colmap_model import ColmapModel
from flowmatch.matching.keypoints import detect_keypoints
from tests.localisation.room import K, pose_at, render, write_model, write_room


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("room")
    poses = [pose_at(x, 0.1 * k, -0.2, (0.02, 0.05 * k, 0.03)) for k, x in enumerate((-0.4, 0.4))]
    write_room(folder, poses)
    pictures = []
    for k, pose in enumerate(poses):
        picture, depth = render(data.astronaut(), pose)
        xy = detect_keypoints(picture, "sift", keypoints=400).xy
        x, y = np.rint(xy).astype(int).T
        rays = np.column_stack([xy, np.ones(len(xy))]) @ np.linalg.inv(K).T
        world = (rays * depth[y, x, None]) @ pose[:3, :3].T + pose[:3, 3]
        pictures.append((f"{k}.png", pose, xy, world))
    for binary in (False, True):
        write_model(folder / ("text", "binary")[binary], pictures, binary)
    return folder, pictures


@pytest.mark.parametrize("form", ["text", "binary"])
def test_poses_and_points(room, form):
    folder, pictures = room
    model = ColmapModel(folder / form)
    np.testing.assert_allclose(model.camera, K)
    for name, pose, xy, world in pictures:
        np.testing.assert_allclose(model.poses[name], pose, atol=1e-9)
        points, known = model.points(name, xy[:5] + 0.1, (320, 240))
        assert known.all() and np.abs(points[:, 2] - 3).max() < 0.01
        assert (np.abs(points[:, None] - world).sum(axis=2) < 1e-6).any(axis=1).all()
        assert not model.points(name, [[-50, -50]], (320, 240))[1].any()
    with pytest.raises(ValueError, match=r"0\.png: expected 320 x 240 pixels, got 9 x 9"):
        model.points("0.png", [[1, 1]], (9, 9))


@pytest.mark.parametrize("form", ["text", "binary"])
def test_a_photo_is_localised(room, form, tmp_path, capsys):
    folder, _ = room
    index = str(tmp_path / "i.safetensors")
    words = ["index", str(folder / "color"), "-o", index, "--model", "rootsift"]
    assert main([*words, "--words", "4", "--keypoints", "300"]) == 0
    truth = pose_at(0.1, 0.15, 0.1, (-0.05, 0.1, 0.1))
    write_image(tmp_path / "photo.png", render(data.astronaut(), truth)[0])
    capsys.readouterr()
    words = ["localise", str(tmp_path / "photo.png"), "-i", index, "--poses", str(folder / form)]
    assert main(words) == 0
    captured = capsys.readouterr()
    pose = np.array([line.split() for line in captured.out.splitlines()], float)
    assert np.abs(pose - truth).max() < 0.02
    assert "in the model's unit" in captured.err


def test_a_camera_with_distortion_is_not_that_of_the_photo(room, tmp_path):
    write_model(tmp_path / "m", room[1], False, "SIMPLE_RADIAL")
    assert ColmapModel(tmp_path / "m").camera is None


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_damaged_binary_files(room, tmp_path, name):
    write_model(tmp_path / "m", room[1], True)
    path = tmp_path / "m" / name
    content = path.read_bytes()
    for damaged in (
        b"",
        content[:-3],
        struct.pack("<Q", 2**60) + content[8:],
        content[:8] + b"\xff" * (len(content) - 8),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a file of COLMAP, or damaged|has camera"):
            ColmapModel(tmp_path / "m")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=name if name != "images.bin" else "txt"):
        ColmapModel(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cameras.txt", "7 PINHOLE 320 240 1 2 3"),
        ("cameras.txt", "7 NEW 320 240 1 2 3 4"),
        ("images.txt", "1 1 0 0 0 0 0 0 7 0.png\n1 2 0 3\n"),
        ("images.txt", "1 1 0 0 0 nan 0 0 7 0.png\n1 2 0\n"),
        ("images.txt", "1 0 0 0 0 0 0 0 7 0.png\n1 2 0\n"),
        ("points3D.txt", "0 1 2\n"),
    ],
)
def test_damaged_text_files(room, tmp_path, name, content):
    write_model(tmp_path / "m", room[1], False)
    (tmp_path / "m" / name).write_text(content)
    with pytest.raises(ValueError, match=r"\.txt.* is not a file of COLMAP, or damaged"):
        ColmapModel(tmp_path / "m")
