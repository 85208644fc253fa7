"""Integration of an RGB-D folder that shows a ball over a plane."""

import shutil

import cv2
import numpy as np
import pytest

from flowmatch.cli import main
from flowmatch.geometry import invert_motion, transform_points
from flowmatch.io import read_cloud
from flowmatch.registration.data.datasets import find_fragments
from flowmatch.registration.integrate import integrate_depth
from tests.registration.ball import CAMERA, POSES, depth_of, surface_error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of eight RGB-D frames around the ball."""
    root = tmp_path_factory.mktemp("rgbd")
    (root / "depth").mkdir()
    lines = []
    for k, pose in enumerate(POSES):
        millimetres = np.nan_to_num(1000 * depth_of(pose)).round().astype(np.uint16)
        cv2.imwrite(str(root / "depth" / f"{k:03}.png"), millimetres)
        lines.append(f"{k:03} " + " ".join(f"{x:.9f}" for x in pose.ravel()))
    (root / "poses.txt").write_text("\n".join(lines) + "\n")
    np.savetxt(root / "intrinsics.txt", CAMERA)
    return root


def test_fragments_are_in_the_frame_of_their_first_camera(folder):
    steps = []
    fragments = integrate_depth(
        folder, frames=4, voxel=0.02, progress=lambda *step: steps.append(step)
    )
    assert [fragment.frames[0] for fragment in fragments] == ["000", "004"]
    assert steps[0] == ("integrate", 1, 8) and steps[-1] == ("integrate", 8, 8)
    for fragment in fragments:
        error = surface_error(transform_points(fragment.pose, fragment.surface.points))[0]
        assert np.sqrt((error**2).mean()) < 0.2 * 0.02
    # The remaining two frames are less than half a fragment.
    assert [len(f.frames) for f in integrate_depth(folder, frames=6, voxel=0.04)] == [6]


def test_command_writes_fragments_and_their_motions(folder, tmp_path):
    out = tmp_path / "one.ply"
    assert main(["fuse", str(folder), "-o", str(out), "--voxel", "0.04", "--world"]) == 0
    assert np.abs(surface_error(read_cloud(out))[0]).mean() < 0.2 * 0.04
    words = ["fuse", str(folder), "-o", str(tmp_path / "scene"), "--frames-per-fragment", "3"]
    assert main([*words, "--voxel", "0.04"]) == 0
    pairs = find_fragments(tmp_path / "scene")
    assert [pair.name for pair in pairs] == ["0 1", "0 2", "1 2"]
    truth = invert_motion(POSES[0]) @ POSES[3]
    np.testing.assert_allclose(pairs[0].truth, truth, atol=1e-6)
    assert main(["fuse", str(folder), "-o", str(tmp_path / "no" / "x.ply")]) == 2


def test_an_earlier_run_is_replaced(folder, tmp_path, monkeypatch):
    scene = tmp_path / "scene"
    words = ["fuse", str(folder), "-o", str(scene), "--voxel", "0.04"]
    assert main([*words, "--frames-per-fragment", "3"]) == 0
    (scene / "cloud_bin_mine.ply").write_bytes(b"kept")
    assert main([*words, "--frames-per-fragment", "4"]) == 0
    names = {"cloud_bin_0.ply", "cloud_bin_1.ply", "cloud_bin_mine.ply", "gt.info", "gt.log"}
    assert {path.name for path in scene.iterdir()} == names
    assert [pair.name for pair in find_fragments(scene)] == ["0 1"]

    def full(*_):
        raise OSError("no space left")

    # An interrupted run does not leave a scene.
    monkeypatch.setattr("flowmatch.registration.integrate.write_cloud", full)
    assert main([*words, "--frames-per-fragment", "3"]) == 2
    assert not (scene / "gt.log").exists() and not (scene / "gt.info").exists()


def test_frames_without_depth(folder, tmp_path, capsys):
    copy = shutil.copytree(folder, tmp_path / "dark")
    for file in sorted((copy / "depth").iterdir())[:4]:
        cv2.imwrite(str(file), np.zeros((8, 8), np.uint16))
    # A fragment without points overlaps with none.
    words = ["--voxel", "0.04", "--frames-per-fragment", "4"]
    assert main(["fuse", str(copy), "-o", str(tmp_path / "half"), *words]) == 0
    assert len(read_cloud(tmp_path / "half" / "cloud_bin_0.ply")) == 0
    assert (tmp_path / "half" / "gt.log").read_text() == ""
    for file in (copy / "depth").iterdir():
        cv2.imwrite(str(file), np.zeros((8, 8), np.uint16))
    for out in ("none", "none.ply"):
        assert main(["fuse", str(copy), "-o", str(tmp_path / out), *words]) == 2
        assert "its 8 frames show no surface within 4 m" in capsys.readouterr().err
        assert not (tmp_path / out).exists()


def test_a_file_in_place_of_a_folder(folder, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"kept")
    assert main(["fuse", str(folder), "-o", str(tmp_path / "a.png")]) == 2
    assert "or a folder" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == b"kept"
    assert main(["fuse", str(folder), "-o", str(tmp_path / "mesh.obj")]) == 2
    assert "a folder without a suffix, got" in capsys.readouterr().err
