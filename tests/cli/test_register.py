"""``flowmatch register``: files, messages, and exit status."""

import json

import numpy as np
import pytest

from flowmatch._opencv import cv2
from flowmatch.cli import main
from flowmatch.geometry import transform_points
from flowmatch.io import read_cloud, read_image, write_cloud
from tests.registration.scenes import errors, motion, part, room

FAST = ["--voxel", "0.06"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    cloud = room()
    for k, ends in enumerate([(0, 2.6), (0.7, 3.3), (1.2, 4)]):
        write_cloud(folder / f"{k}.ply", transform_points(motion(k), part(cloud, *ends, k)))
    return folder


def test_two_scans(folder, tmp_path, capsys):
    words = ["register", str(folder / "0.ply"), str(folder / "1.ply"), *FAST]
    words += ["-o", str(tmp_path / "a.ply"), "--json", str(tmp_path / "a.json")]
    assert main([*words, "--picture", str(tmp_path / "a.png")]) == 0
    out, err = capsys.readouterr()
    assert "registration accepted: " in err
    printed = np.array([line.split() for line in out.splitlines()], float)
    result = json.loads((tmp_path / "a.json").read_text())
    np.testing.assert_allclose(printed, result["motion"], atol=1e-6)
    truth = motion(1) @ np.linalg.inv(motion(0))
    assert errors(np.array(result["motion"]) @ motion(0), truth @ motion(0))[1] < 0.05
    assert result["trusted"] is True
    assert result["inliers"] <= result["correspondences"]
    moved = transform_points(result["motion"], read_cloud(folder / "0.ply"))
    np.testing.assert_allclose(read_cloud(tmp_path / "a.ply"), moved, atol=1e-4)
    picture = read_image(tmp_path / "a.png")
    assert picture.shape[1] > 1400
    for colour in ((230, 110, 0), (0, 114, 178)):
        assert (np.abs(picture.astype(int) - colour).max(2) < 8).any()


def test_an_initial_motion_and_regions(folder, tmp_path, capsys):
    """A motion that is 10 cm off, and boxes that leave most of the scans out."""
    truth = motion(1) @ np.linalg.inv(motion(0))
    start = truth.copy()
    start[:3, 3] += [0.06, -0.06, 0.05]
    np.savetxt(tmp_path / "start.txt", start, fmt="%.6f")
    boxes = []
    for k in range(2):
        points = read_cloud(folder / f"{k}.ply")
        low, high = np.quantile(points, [0.02, 0.98], axis=0)
        boxes.append(",".join(f"{x:.3f}" for x in (*low, *high)))
    words = ["register", str(folder / "0.ply"), str(folder / "1.ply"), *FAST, "--model", "fpfh"]
    words += ["--init", str(tmp_path / "start.txt"), "-o", str(tmp_path / "a.ply")]
    main([*words, "--source-region", boxes[0], f"--region={boxes[1]}"])
    out = capsys.readouterr().out
    printed = np.array([line.split() for line in out.splitlines()], float)
    assert errors(printed @ motion(0), truth @ motion(0))[1] < 0.05
    assert len(read_cloud(tmp_path / "a.ply")) == len(read_cloud(folder / "0.ply"))  # all of it


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--region", "0,0,0,1,1"], "--region must be six numbers X,Y,Z,X,Y,Z, got '0,0,0,1,1'"),
        (["--region", "0,0,0,1,1,0"], "--region must have its least coordinates first"),
        (["--source-region", "90,90,90,91,91,91"], "0.ply: a region needs 10 points, got 0"),
        (["--init", "none.txt"], "none.txt"),
        (["{folder}/2.ply", "--region", "0,0,0,1,1,1"], "are for two scans, got 3"),
        (["{folder}/2.ply", "--estimate-scale"], "are for two scans, got 3"),
        (["--init", "none.txt", "--estimate-scale"], "--init fixes the scale"),
    ],
)
def test_bad_regions_and_initial_motions(folder, words, message, capsys):
    words = [word.format(folder=folder) for word in words]
    assert main(["register", str(folder / "0.ply"), str(folder / "1.ply"), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_three_scans_are_merged(folder, tmp_path, capsys):
    scans = [str(folder / f"{k}.ply") for k in range(3)]
    words = ["-o", str(tmp_path / "all.ply"), "--json", str(tmp_path / "all.json"), *FAST]
    assert main(["register", *scans, *words, "--picture", str(tmp_path / "all.png")]) == 0
    assert "3 of 3 scans" in capsys.readouterr().err
    total = sum(len(read_cloud(scan)) for scan in scans)
    assert len(read_cloud(tmp_path / "all.ply")) == total
    content = json.loads((tmp_path / "all.json").read_text())
    assert len(content["scans"]) == len(content["edges"]) == 3
    assert (tmp_path / "all.png").is_file()


def test_an_untrusted_result_is_status_1(folder, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in "ab":
        write_cloud(tmp_path / f"{name}.npy", rng.uniform(0, 2, (3000, 3)) * [1, 1, 0.001])
    assert main(["register", str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]) == 1
    assert "registration rejected: " in capsys.readouterr().err


def test_depth_pictures_need_a_camera(folder, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "d.png"), np.full((20, 30), 1000, np.uint16))
    scans = [str(tmp_path / "d.png"), str(folder / "0.ply")]
    assert main(["register", *scans]) == 2
    assert "--intrinsics" in capsys.readouterr().err
    assert main(["register", scans[0]]) == 2


def test_the_moved_cloud_keeps_all_rows_and_colours(folder, tmp_path):
    points = read_cloud(folder / "0.ply").astype(np.float32)
    points[5] = np.nan
    colours = np.random.default_rng(0).integers(0, 255, points.shape, np.uint8)
    write_cloud(tmp_path / "a.ply", points, colours)
    words = [str(tmp_path / "a.ply"), str(folder / "1.ply"), "-o", str(tmp_path / "b.ply")]
    assert main(["register", *words, "--model", "fpfh", *FAST]) == 0
    header, _, content = (tmp_path / "b.ply").read_bytes().partition(b"end_header\n")
    assert b"element vertex %d\n" % len(points) in header
    rows = np.frombuffer(content, [("points", "<f4", 3), ("colours", "u1", 3)])
    np.testing.assert_array_equal(rows["colours"], colours)
    assert np.flatnonzero(np.isnan(rows["points"]).any(1)).tolist() == [5]


def test_depth_beyond_the_limit_is_ignored(tmp_path, monkeypatch):
    depth = np.full((20, 30), 1000, np.uint16)
    depth[:, 10:20], depth[:, 20:] = 9000, 65535
    cv2.imwrite(str(tmp_path / "d.png"), depth)
    (tmp_path / "k.txt").write_text("30 30 15 10")
    scans = []

    def look(source, *_, **__):
        scans.append(source[:, 2])
        raise ValueError("seen")

    monkeypatch.setattr("flowmatch.cli.register.register_scans", look)
    words = ["register", *2 * [str(tmp_path / "d.png")], "--intrinsics", str(tmp_path / "k.txt")]
    main([*words, "--model", "fpfh"])
    main([*words, "--model", "fpfh", "--max-depth", "5"])
    assert [np.unique(z).round(3).tolist() for z in scans] == [[1, 9], [1]]
    assert main([*words, "--max-depth", "0"]) == 2


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("-o", "no/a.ply", "there is no folder"),
        ("-o", "a.e57", "a.e57: expected a name ending in one of .ply"),
        ("-o", "folder.ply", "is a folder"),
        ("--picture", "no/a.png", "there is no folder"),
        ("--picture", "a.gif", "a.gif: expected a name ending in one of .png"),
        ("--json", "no/a.json", "there is no folder"),
    ],
)
def test_an_unwritable_file_is_an_error_before_any_work(
    option, name, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        "flowmatch.cli.register.read_scans", lambda *_: pytest.fail("read the scans")
    )
    (tmp_path / "folder.ply").mkdir()
    assert main(["register", "a.ply", "b.ply", option, str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


def test_far_from_the_origin_all_digits_are_printed(tmp_path, capsys):
    """Six digits of a rotation are metres at coordinates such as UTM's."""
    cloud = part(room(), 0, 4, 0)
    there = cloud @ motion(1)[:3, :3].T
    write_cloud(tmp_path / "a.ply", cloud + [5e5, 5e6, 100])
    write_cloud(tmp_path / "b.ply", there + [5e5, 5e6, 100])
    assert main(["register", str(tmp_path / "a.ply"), str(tmp_path / "b.ply"), *FAST]) == 0
    printed = np.array([row.split() for row in capsys.readouterr().out.splitlines()], float)
    off = transform_points(printed, cloud + [5e5, 5e6, 100]) - (there + [5e5, 5e6, 100])
    assert np.linalg.norm(off, axis=1).max() < 0.05


def test_merged_scans_keep_their_properties(folder, tmp_path):
    points, normals = read_cloud(folder / "0.ply"), np.tile([0.0, 0, 1], (99_999, 1))
    np.savez(
        tmp_path / "a.npz", points=points, normals=normals[: len(points)],
        intensity=np.arange(len(points)),
    )  # fmt: skip
    words = [str(tmp_path / "a.npz"), str(folder / "1.ply"), "-o", str(tmp_path / "b.npz")]
    assert main(["register", *words, "--merge", "--model", "fpfh", *FAST]) == 0
    arrays = np.load(tmp_path / "b.npz")
    count = len(points)
    np.testing.assert_array_equal(arrays["intensity"][:count], np.arange(count))
    assert (arrays["scan"] == np.arange(len(arrays["scan"])) // count).mean() > 0.9
    lengths = np.linalg.norm([arrays[f"n{axis}"][:count] for axis in "xyz"], axis=0)
    np.testing.assert_allclose(lengths, 1)
    target = read_cloud(folder / "1.ply")
    np.testing.assert_allclose(arrays["points"][count:], target, atol=1e-6)


def test_a_mesh_is_moved_onto_a_cloud(folder, tmp_path):
    pytest.importorskip("trimesh")
    lines = [f"v {x} {y} {z}" for x, y, z in read_cloud(folder / "0.ply").tolist()]
    (tmp_path / "a.obj").write_text("\n".join(["# no triangles", *lines, ""]))
    out = tmp_path / "b.obj"
    words = [str(tmp_path / "a.obj"), str(folder / "1.ply"), "-o", str(out)]
    assert main(["register", *words, "--model", "fpfh", *FAST]) == 0
    moved = out.read_text().splitlines()
    assert moved[0] == "# no triangles" and len(moved) == len(lines) + 1
    assert main(["register", *words, "--merge"]) == 2  # points only can be merged
