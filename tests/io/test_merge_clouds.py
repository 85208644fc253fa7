"""Merged cloud files keep the properties and the order of all rows."""

import numpy as np
import pytest

from flowmatch.io import merge_cloud_files, move_cloud_file, read_cloud, write_cloud
from flowmatch.io.cloud_file import read_table

SHIFT = np.eye(4)
SHIFT[:3, 3] = [10, 0, 0]
FIRST = np.array([[1.0, 2, 3], [np.nan, 0, 0], [4, 5, 6]])
SECOND = np.array([[7.0, 8, 9], [0, 0, 1]])


def write_first(folder):
    text = "ply\nformat ascii 1.0\nelement vertex 3\nproperty double x\nproperty double y\n"
    text += "property double z\nproperty uchar red\nproperty uchar green\nproperty uchar blue\n"
    text += "property float intensity\nend_header\n"
    text += "1 2 3 9 8 7 0.5\nnan 0 0 6 5 4 0.25\n4 5 6 3 2 1 0.125\n"
    (folder / "a.ply").write_text(text)
    return folder / "a.ply"


@pytest.mark.parametrize("suffix", [".ply", ".npz"])
def test_properties_of_all_scans(suffix, tmp_path):
    np.savez(tmp_path / "b.npz", points=SECOND, label=np.array([-5, 6]))
    out = tmp_path / f"c{suffix}"
    lost = merge_cloud_files(
        [write_first(tmp_path), tmp_path / "b.npz"], out, [SHIFT, np.eye(4)],
        colours=[(1, 1, 1), (200, 100, 50)],
    )  # fmt: skip
    assert lost == []
    columns = read_table(out).columns
    points = np.stack([columns[axis] for axis in "xyz"], axis=1)
    np.testing.assert_array_equal(points[[0, 2, 3, 4]], [[11, 2, 3], [14, 5, 6], *SECOND])
    assert np.isnan(points[1]).any()
    assert columns["red"].tolist() == [9, 6, 3, 200, 200]  # own ones first
    assert columns["blue"].tolist() == [7, 4, 1, 50, 50]
    np.testing.assert_array_equal(columns["intensity"], [0.5, 0.25, 0.125, np.nan, np.nan])
    assert columns["label"].tolist() == [0, 0, 0, -5, 6]
    assert columns["scan"].tolist() == [0, 0, 0, 1, 1]


def test_points_only(tmp_path):
    lost = merge_cloud_files([write_first(tmp_path), SECOND], tmp_path / "c.npy", [SHIFT, SHIFT])
    assert lost == ["red", "green", "blue", "intensity"]
    expected = np.concatenate([FIRST, SECOND]) + [10, 0, 0]
    expected[1] = FIRST[1]
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), expected)


def test_a_merged_cloud_can_be_merged_again(tmp_path):
    merge_cloud_files([write_first(tmp_path), SECOND], tmp_path / "c.ply", [SHIFT, SHIFT])
    merge_cloud_files([tmp_path / "c.ply", SECOND], tmp_path / "d.ply", [np.eye(4)] * 2)
    assert read_table(tmp_path / "d.ply").columns["scan"].tolist() == [0] * 5 + [1] * 2


def test_far_from_the_origin_no_digit_is_lost(tmp_path):
    far = np.array([[500_000.1234, 5_000_000.5678, 100.25], [500_001.0001, 5_000_002.0002, 99.5]])
    for suffix in (".ply", ".pcd", ".npy", ".npz", ".xyz"):
        write_cloud(tmp_path / f"a{suffix}", far)
        move_cloud_file(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}", SHIFT)
        moved = read_cloud(tmp_path / f"b{suffix}")
        np.testing.assert_array_equal(moved, far + [10, 0, 0])
        merge_cloud_files([tmp_path / f"a{suffix}", far], tmp_path / f"c{suffix}", [SHIFT] * 2)
        np.testing.assert_array_equal(read_cloud(tmp_path / f"c{suffix}"), [*moved, *moved])
