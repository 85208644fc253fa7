"""Camera poses of RGB-D frames."""

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmatch.io._files import FilePath, existing_file

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
        rotation = matrix[:3, :3]
        rigid = np.isfinite(matrix).all() and (matrix[3] == (0, 0, 0, 1)).all()
        rigid = rigid and np.abs(rotation).max() < 2  # products of larger numbers may overflow
        if not rigid or np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-2:
            raise ValueError(f"{path}:{number}: expected a rotation and a translation, 4 x 4")
        if (folder / "depth" / f"{words[0]}.png").is_file():
            poses.append((words[0], matrix))
    return poses
