"""Metrics recomputed by hand, the benchmark's files, and a benchmark made from a room."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flowmatch._opencv import cv2
from flowmatch.cli import main
from flowmatch.geometry import invert_motion, transform_points
from flowmatch.io import write_cloud
from flowmatch.registration import RegisterOptions
from flowmatch.registration.agreement import pair_information
from flowmatch.registration.data.datasets import find_fragments, read_log
from flowmatch.registration.evaluation.evaluate import evaluate
from flowmatch.registration.evaluation.methods import (
    kiss_matcher_is_installed,
    open3d_is_installed,
    register_by_kiss_matcher,
)
from flowmatch.registration.evaluation.metrics import (
    inlier_ratio,
    registration_error,
)
from tests.registration.scenes import balls, errors, motion, part, room


def test_inlier_ratio_uses_the_true_motion():
    truth = motion(0)
    source = np.random.default_rng(0).normal(size=(10, 3))
    target = transform_points(truth, source)
    target[3:] += [0.2, 0, 0]
    assert inlier_ratio(np.stack([source, target], 1), truth) == 0.3
    assert inlier_ratio(np.zeros((0, 2, 3)), truth) == 0


@pytest.mark.parametrize("seed", range(3))
def test_error_is_the_mean_square_distance_of_shared_points(seed):
    """For small motions the benchmark's quadratic form equals the mean square distance."""
    rng = np.random.default_rng(seed)
    points, truth = rng.normal(size=(200, 3)), motion(seed)
    small = np.eye(4)
    small[:3, :3] = Rotation.from_rotvec(0.002 * rng.normal(size=3)).as_matrix()
    small[:3, 3] = 0.004 * rng.normal(size=3)
    expected = (np.linalg.norm(transform_points(small, points) - points, axis=1) ** 2).mean()
    error = registration_error(truth @ small, truth, pair_information(points))
    assert error == pytest.approx(expected, rel=0.01)


def write_log(path, entries, total):
    lines = []
    for (i, j), matrix in entries.items():
        lines.append(f"{i}\t{j}\t{total}")
        lines += ["\t".join(f"{x:.10e}" for x in row) for row in matrix]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """A scene of four fragments in the benchmark's layout; the last shows another scene."""
    folder = tmp_path_factory.mktemp("bench") / "kitchen"
    logs = folder.with_name("kitchen-evaluation")
    folder.mkdir()
    logs.mkdir()
    cloud = room()
    ends = [(0, 2.6), (0.7, 3.3), (1.0, 4)]
    parts = [part(cloud, *end, seed) for seed, end in enumerate(ends)]
    parts.append(balls(5))
    poses = [motion(seed) for seed in range(4)]
    for k, (pose, points) in enumerate(zip(poses, parts, strict=True)):
        write_cloud(folder / f"cloud_bin_{k}.ply", transform_points(pose, points))
    pairs = [(0, 1), (0, 2), (1, 2)]
    write_log(logs / "gt.log", {(i, j): poses[i] @ invert_motion(poses[j]) for i, j in pairs}, 4)
    shared = {
        pair: pair_information(transform_points(poses[pair[1]], parts[2][::20])) for pair in pairs
    }
    write_log(logs / "gt.info", shared, 4)
    return folder.parent


def test_layout_of_the_benchmark(benchmark):
    pairs = find_fragments(benchmark)
    assert [pair.name for pair in pairs] == ["0 1", "0 2", "0 3", "1 2", "1 3", "2 3"]
    assert [pair.truth is not None for pair in pairs] == [True, True, False, True, False, False]
    assert [pair.neighbours for pair in pairs] == [True, False, False, True, False, True]
    assert pairs[1].information.shape == (6, 6)
    # The log has motions from the second fragment to the first.
    source, target = pairs[1].source(), pairs[1].target()
    moved = transform_points(pairs[1].truth, source)
    from scipy.spatial import cKDTree

    assert np.isfinite(cKDTree(target).query(moved, distance_upper_bound=0.1)[0]).mean() > 0.4


def test_a_room_is_registered(benchmark):
    rows = evaluate(find_fragments(benchmark)[1:3], {"FPFH": "fpfh"}, RegisterOptions(voxel=0.06))
    assert [row.rotated for row in rows] == [False, True]
    for row in rows:
        assert row.pairs == 1
        assert row.fpr95 < 0.6
        assert row.inlier_ratio > 0.05
        assert (row.feature_match_recall, row.recall, row.precision) == (1, 1, 1)


def test_functions_are_measured_beside_descriptors(benchmark):
    """The truth as a method, and a random motion."""
    pair = find_fragments(benchmark)[1]
    methods = {
        "right": lambda *_: (pair.truth, True),
        "wrong": lambda *_: (motion(9), True),
    }
    right, wrong = evaluate([pair], methods, RegisterOptions(voxel=0.06), rotated=[False])
    assert (right.pairs, right.recall, right.precision) == (1, 1, 1)
    assert (wrong.recall, wrong.precision) == (0, 0)
    assert np.isnan(right.fpr95)


@pytest.mark.skipif(not kiss_matcher_is_installed(), reason="kiss-matcher is not installed")
def test_kiss_matcher_registers_a_room():
    cloud, truth = room(), motion(2)
    scans = part(cloud, 0, 3.4), transform_points(truth, part(cloud, 0.6, 4, 1))
    options = RegisterOptions(voxel=0.05)
    result, trusted = register_by_kiss_matcher(*scans, (None, None), options)
    assert trusted
    assert errors(result, truth)[1] < 0.01


def test_command_prints_numbers(benchmark, tmp_path, capsys, monkeypatch):
    # Without the shipped weights, which would describe thousands of fields.
    monkeypatch.setattr("flowmatch.cli.eval.registration.available", dict)
    cloud = room()
    truth = motion(3)
    write_cloud(tmp_path / "src.npy", part(cloud, 0, 2.6))
    write_cloud(tmp_path / "ref.ply", transform_points(truth, part(cloud, 0.8, 4, 1)))
    np.save(tmp_path / "gt.npy", truth)
    words = ["eval", "registration", str(tmp_path), "--no-rotated", "--voxel", "0.06"]
    assert main([*words, "--json", "-"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    names = [row["method"] for row in scores]
    peers = ["KISS-Matcher"] * kiss_matcher_is_installed() + ["Open3D"] * open3d_is_installed()
    assert names == ["FPFH", *peers]
    assert scores[0]["recall"] == 1
    assert main(["eval", "registration", str(tmp_path / "nowhere")]) == 2


def test_depth_frames_end_at_the_limit(tmp_path):
    (tmp_path / "depth").mkdir()
    depth = np.array([[1000, 9000, 65535]], np.uint16)
    for k in range(3):
        cv2.imwrite(str(tmp_path / "depth" / f"{k}.png"), depth)
    matrix = " ".join(str(x) for x in np.eye(4).ravel())
    (tmp_path / "poses.txt").write_text("".join(f"{k} {matrix}\n" for k in range(3)))
    (tmp_path / "intrinsics.txt").write_text("1 1 0 0")
    assert find_fragments(tmp_path)[0].source()[:, 2].round(3).tolist() == [1, 9]
    assert find_fragments(tmp_path, max_depth=4)[0].target()[:, 2].round(3).tolist() == [1]
    with pytest.raises(ValueError, match="max_depth must be a positive number"):
        find_fragments(tmp_path, max_depth=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 2\n1 0 0 0\n", "got 7 numbers"),
        ("a b c", "expected numbers"),
        ("0.5 1 2 " + "1 " * 16, "two fragments"),
        ("0 1 2 " + "nan " * 16, "got 19 numbers"),
    ],
)
def test_damaged_logs_raise(text, message, tmp_path):
    (tmp_path / "gt.log").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_log(tmp_path / "gt.log")


def test_folders_without_fragments_raise(tmp_path):
    with pytest.raises(ValueError, match="cloud_bin_"):
        find_fragments(tmp_path)
    with pytest.raises(FileNotFoundError):
        find_fragments(tmp_path / "none")


@pytest.mark.parametrize(
    "truth", [np.eye(3), np.full((4, 4), np.nan), np.full((4, 4), "1")], ids=["3", "nan", "words"]
)
def test_a_pair_without_a_motion_raises(truth, tmp_path):
    for name in ("src", "ref"):
        write_cloud(tmp_path / f"{name}.npy", np.eye(3))
    np.save(tmp_path / "gt.npy", truth)
    with pytest.raises(ValueError, match=r"gt\.npy: expected finite numbers \[4, 4\], got "):
        find_fragments(tmp_path)


def test_a_motion_is_read_after_its_header_is_checked(tmp_path):
    """`np.load` takes memory for what a header claims, and returns an archive for a zip."""
    for name in ("src", "ref"):
        write_cloud(tmp_path / f"{name}.npy", np.eye(3))
    path = tmp_path / "gt.npy"
    np.save(path, np.eye(4))
    whole = path.read_bytes()
    for content in (whole.replace(b"(4, 4)", b"(4, 99999999999)"), whole[:-1], b"", b"PK\3\4"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"gt\.npy: "):
            find_fragments(tmp_path)


def test_two_depth_frames_have_no_pair(tmp_path):
    (tmp_path / "depth").mkdir()
    matrix = " ".join(str(x) for x in np.eye(4).ravel())
    (tmp_path / "poses.txt").write_text("".join(f"{k} {matrix}\n" for k in range(2)))
    (tmp_path / "intrinsics.txt").write_text("1 1 0 0")
    with pytest.raises(ValueError, match="expected 3DMatch scenes"):
        find_fragments(tmp_path)


def test_a_log_for_more_fragments_than_files_raises_at_once(tmp_path):
    write_cloud(tmp_path / "cloud_bin_0.ply", np.eye(3))
    matrix = "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"
    (tmp_path / "gt.log").write_text(f"0 1 1000000000000\n{matrix}")
    with pytest.raises(ValueError, match="is for 1000000000000 fragments, .* contains 1$"):
        find_fragments(tmp_path)
