"""Camera poses of RGB-D frames, and motions between scans."""

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmatch.io._files import FilePath, existing_file
from flowmatch.io._text import separate

_LARGEST_MOTION = 4096  # bytes
_LARGEST = 2**26  # bytes, enough for a quarter of a million poses


def read_poses(folder: FilePath) -> list[tuple[str, NDArray[np.float64]]]:
    """Read the camera poses of a folder of depth frames.

    Args:
        folder: Folder with ``poses.txt``: in each line the name of a frame and a camera-to-world
            matrix, row by row. Empty lines and lines that begin with # are ignored.

    Returns:
        Name and matrix ``[4, 4]``, metres, of each frame that has a ``depth/NAME.png``.

    Raises:
        FileNotFoundError: ``poses.txt`` does not exist.
        ValueError: A line has another form, or its matrix is not a rigid motion.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "depth").mkdir()
        >>> _ = (folder / "depth" / "0001.png").write_bytes(b"")
        >>> _ = (folder / "poses.txt").write_text("0001 1 0 0 2.5 0 1 0 0 0 0 1 0 0 0 0 1")
        >>> name, pose = read_poses(folder)[0]
        >>> name, pose[:3, 3].tolist()
        ('0001', [2.5, 0.0, 0.0])
    """
    folder = Path(folder)
    path = existing_file(folder / "poses.txt")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: expected lines of poses, got {path.stat().st_size} bytes")
    poses: list[tuple[str, NDArray[np.float64]]] = []
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")  # byte order mark
    for number, line in enumerate(re.split(rb"\r\n|\n|\r", content), start=1):
        words = [os.fsdecode(word) for word in line.split()]
        if not words or words[0].startswith("#"):
            continue
        try:
            matrix = np.array(words[1:], np.float64).reshape(4, 4)
        except ValueError:
            raise ValueError(
                f"{path}:{number}: expected a name and 16 numbers, got {len(words)} words"
            ) from None
        if not _is_rigid(matrix):
            raise ValueError(f"{path}:{number}: expected a rotation and a translation, 4 x 4")
        if (folder / "depth" / f"{words[0]}.png").is_file():
            poses.append((words[0], matrix))
    return poses


def read_motion(path: FilePath) -> NDArray[np.float64]:
    """Read a rigid motion from a text of 4 x 4 numbers, as ``flowmatch register`` prints it.

    Args:
        path: The file; lines that begin with # are ignored.

    Returns:
        The motion ``[4, 4]``, with the nearest rotation to the one in the file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file holds anything else, such as a reflection.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "motion.txt"
        >>> _ = path.write_text("1 0 0 2.5  0 1 0 0  0 0 1 0  0 0 0 1")
        >>> read_motion(path)[0].tolist()
        [1.0, 0.0, 0.0, 2.5]
    """
    path = existing_file(path)
    if path.stat().st_size > _LARGEST_MOTION:
        raise ValueError(f"{path}: expected a text of 4 x 4 numbers, got {path.stat().st_size} B")
    lines = [line for line in path.read_text("latin1").splitlines() if line.lstrip()[:1] != "#"]
    words = separate(path, "\n".join(lines)).split()
    try:
        matrix = np.array(words, np.float64).reshape(4, 4)
    except ValueError:
        raise ValueError(f"{path}: expected 4 x 4 numbers, got {len(words)} words") from None
    if not _is_rigid(matrix) or np.linalg.det(matrix[:3, :3]) < 0:
        raise ValueError(f"{path}: expected a rotation and a translation, with 0 0 0 1 below")
    left, _, right = np.linalg.svd(matrix[:3, :3])  # six digits are not quite a rotation
    matrix[:3, :3] = left @ right
    return matrix


def _is_rigid(matrix: NDArray[np.float64]) -> bool:
    rotation = matrix[:3, :3]
    rigid = np.isfinite(matrix).all() and (matrix[3] == (0, 0, 0, 1)).all()
    rigid = rigid and np.abs(rotation).max() < 2  # products of larger numbers may overflow
    return bool(rigid and np.abs(rotation @ rotation.T - np.eye(3)).max() <= 1e-2)
