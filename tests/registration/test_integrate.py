"""Integration of an RGB-D folder that shows a ball over a plane."""

import shutil

import cv2
import numpy as np
import pytest
import trimesh

from flowmatch.cli import main
from flowmatch.geometry import invert_motion, transform_points
from flowmatch.io import read_cloud
from flowmatch.registration.data.datasets import find_fragments
from flowmatch.registration.integrate import integrate_depth
from tests.registration.ball import (
    BALL,
    CAMERA,
    POSES,
    RADIUS,
    depth_of,
    surface_error,
    surface_of,
)


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

    def full(*_, **__):
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
    assert main(["fuse", str(folder), "-o", str(tmp_path / "mesh.off")]) == 2
    assert "a folder without a suffix, got" in capsys.readouterr().err
    assert main(["fuse", str(folder), "-o", str(tmp_path / "mesh.xyz"), "--mesh"]) == 2
    assert "--mesh needs an --output of .ply, .glb" in capsys.readouterr().err


def test_a_coloured_mesh(folder, tmp_path, capsys):
    """The ball is red and the plane green, in pictures of twice the size."""
    copy = shutil.copytree(folder, tmp_path / "rgbd")
    (copy / "color").mkdir()
    for k, pose in enumerate(POSES):
        points, normals = surface_of(pose)
        image = np.where(normals[..., 2:] == 1, [60, 200, 0], [0, 0, 255]).astype(np.uint8)  # BGR
        image = image.repeat(2, axis=0).repeat(2, axis=1)
        cv2.imwrite(str(copy / "color" / f"{k:03}.png"), image)
    assert (
        main(
            [
                "fuse",
                str(copy),
                "-o",
                str(tmp_path / "a.ply"),
                "--voxel",
                "0.02",
                "--mesh",
                "--world",
            ]
        )
        == 0
    )
    assert "contradict" not in capsys.readouterr().err
    mesh = trimesh.load(tmp_path / "a.ply", process=False)
    error, normals = surface_error(mesh.vertices)
    assert np.sqrt((error**2).mean()) < 0.15 * 0.02
    cosines = np.einsum("ni,ni->n", mesh.vertex_normals, normals)
    assert np.median(cosines) > 0.99  # also by trimesh, from the order of the vertices
    ball = np.linalg.norm(mesh.vertices - BALL, axis=1) < RADIUS + 0.01
    far = np.linalg.norm(mesh.vertices[:, :2], axis=1) > 0.5
    colours = mesh.visual.vertex_colors[:, :3]
    assert (np.abs(colours[ball] - [255, 0, 0]).max(1) < 60).mean() > 0.9
    assert (np.abs(colours[far] - [0, 200, 60]).max(1) < 60).mean() > 0.95
    # One surface per object: few edges have a single triangle.
    assert main(["fuse", str(copy), "-o", str(tmp_path / "a.glb"), "--voxel", "0.04"]) == 0
    scene = trimesh.load(tmp_path / "a.glb", force="mesh")
    assert scene.visual.vertex_colors[:, 0].max() > 200
    assert main(["fuse", str(copy), "-o", str(tmp_path / "points.ply"), "--voxel", "0.04"]) == 0
    assert b"property uchar red" in (tmp_path / "points.ply").read_bytes()[:400]


@pytest.mark.parametrize("mistake", ["inverted", "unit"])
def test_frames_that_contradict_each_other_are_reported(mistake, folder, tmp_path, capsys):
    copy = shutil.copytree(folder, tmp_path / "rgbd")
    words = ["fuse", str(copy), "-o", str(tmp_path / "a.ply"), "--voxel", "0.04"]
    if mistake == "unit":
        words += ["--depth-unit", "0.0015"]
    else:
        lines = [
            f"{k:03} " + " ".join(f"{x:.9f}" for x in invert_motion(pose).ravel())
            for k, pose in enumerate(POSES)
        ]
        (copy / "poses.txt").write_text("\n".join(lines) + "\n")
    assert main(words) == 0
    assert "frames contradict each other" in " ".join(capsys.readouterr().err.split())


def test_specks_are_left_out(folder, tmp_path):
    """A few pixels of the only frame float in the air; others would see through them."""
    copy = shutil.copytree(folder, tmp_path / "rgbd")
    (copy / "poses.txt").write_text((folder / "poses.txt").read_text().splitlines()[0])
    depth = cv2.imread(str(copy / "depth" / "000.png"), cv2.IMREAD_UNCHANGED)
    depth[4:16, 50:62] = 500
    cv2.imwrite(str(copy / "depth" / "000.png"), depth)
    counts = []
    for least in (0, 100):
        points = integrate_depth(copy, frames=None, voxel=0.02, min_points=least)[0].surface.points
        counts.append((int((points[:, 2] < 0.55).sum()), len(points)))
    assert 3 < counts[0][0] < 100
    assert counts[1][0] == 0 and counts[1][1] > 1000
