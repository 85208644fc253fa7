"""Camera poses from text, and errors."""

import numpy as np
import pytest

from flowmatch.io import read_poses

LINE = "7 0 -1 0 1.5 1 0 0 2 0 0 1 -3 0 0 0 1"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "7.png").write_bytes(b"")
    return tmp_path


def test_poses(folder):
    (folder / "poses.txt").write_text(f"# name, matrix\n\n8 {LINE[2:]}\n{LINE}\n")
    ((name, matrix),) = read_poses(folder)  # 8 has no depth
    assert name == "7"
    expected = [[0, -1, 0, 1.5], [1, 0, 0, 2], [0, 0, 1, -3], [0, 0, 0, 1]]
    np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7 1 2 3", r"poses.txt:1: expected a name and 16 numbers, got 4 words"),
        (LINE.replace("1.5", "x"), r"expected a name and 16 numbers, got 17 words"),
        (LINE.replace("-1", "-2"), r"expected a rotation and a translation"),
        (LINE.replace("1.5", "nan"), r"expected a rotation and a translation"),
        (LINE[:-1] + "2", r"expected a rotation and a translation"),
    ],
)
def test_wrong_lines_are_errors(folder, line, message):
    (folder / "poses.txt").write_text(line)
    with pytest.raises(ValueError, match=message):
        read_poses(folder)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="poses.txt"):
        read_poses(tmp_path)
