"""Camera poses from text, and errors."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flowmatch.io import read_motion, read_poses

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


def test_a_motion_of_six_digits_is_a_rotation(tmp_path):
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()
    motion[:3, 3] = [1, -2, 3]
    path = tmp_path / "motion.txt"
    path.write_text("# moved\n" + "\n".join(" ".join(f"{x:.6f}" for x in row) for row in motion))
    result = read_motion(path)
    np.testing.assert_allclose(result, motion, atol=1e-6)
    np.testing.assert_allclose(result[:3, :3] @ result[:3, :3].T, np.eye(3), atol=1e-14)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "expected 4 x 4 numbers, got 3 words"),
        ("a " * 16, "expected 4 x 4 numbers, got 16 words"),
        ("2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1", "expected a rotation"),
        ("1 0 0 0 0 1 0 0 0 0 -1 0 0 0 0 1", "expected a rotation"),
        ("1 0 0 nan 0 1 0 0 0 0 1 0 0 0 0 1", "expected a rotation"),
        ("0" * 5000, "got 5000 B"),
    ],
)
def test_other_motions_are_refused(text, message, tmp_path):
    (tmp_path / "motion.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"motion\.txt: .*{message}"):
        read_motion(tmp_path / "motion.txt")
