"""Points of clouds and meshes, and depth pictures.

Files may be hostile: what a header claims is compared with the size of the file before memory is
allocated.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.io._cloud_table import table_of
from flowmatch.io._files import FilePath, entry_for_suffix, existing_file, reason_of
from flowmatch.io._png import read_png16
from flowmatch.io._text import separate
from flowmatch.io.cloud_file import BARE_SUFFIXES, CLOUD_SUFFIXES, read_points, write_table

_SATURATED = 65535  # of a depth picture of 16 bits


def read_cloud(path: FilePath) -> NDArray[np.float64]:
    """Read the points of a cloud; the suffix determines the format.

    ``.ply`` and ``.pcd`` (text, binary, ``binary_compressed``; x, y, z of the vertices),
    ``.npy`` and ``.npz`` (``[N, 3]``; in an ``.npz`` the array ``points`` or the only array),
    ``.xyz`` (three numbers a line, further ones are ignored, ``#`` starts a comment), ``.las`` and
    ``.laz`` (by laspy); of the meshes ``.glb``, ``.obj`` and ``.stl`` (by trimesh) 100 000 points
    that are evenly distributed over the triangles.

    Args:
        path: The file.

    Returns:
        Points ``[N, 3]`` in the file's unit, metres throughout flowmatch. Points that are not
        finite, as depth cameras produce them, are dropped.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The suffix is unknown, or the file is damaged or not what its suffix says.
        ImportError: laspy or trimesh is not installed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "scan.ply"
        >>> write_cloud(path, np.eye(3))
        >>> read_cloud(path)[1]
        array([0., 1., 0.])
    """
    points = read_points(existing_file(path))
    return points[np.isfinite(points).all(axis=1)]


def write_cloud(
    path: FilePath,
    points: ArrayLike,
    colours: ArrayLike | None = None,
    *,
    normals: ArrayLike | None = None,
) -> None:
    """Write a point cloud; the suffix determines the format.

    Args:
        path: File to write, ``.ply``, ``.pcd``, ``.npy``, ``.npz``, ``.xyz``, ``.las`` or ``.laz``;
            its folder must exist. It gets its name only when complete.
        points: Points ``[N, 3]``, metres; float64 is kept, other types become float32. LAS files
            have steps of a tenth of a millimetre.
        colours: Colours uint8 ``[N, 3]``, RGB. ``.npy`` and ``.xyz`` hold none.
        normals: Normals ``[N, 3]``, the same.

    Raises:
        ValueError: Wrong shape, unknown suffix, or colours or normals for a format that holds none.
        FileNotFoundError: The folder does not exist.
        ImportError: laspy is not installed.

    Example:
        >>> import tempfile
        >>> write_cloud(Path(tempfile.mkdtemp()) / "scan.xyz", [[0, 0, 1.5]])
    """
    path = Path(path)
    entry_for_suffix(path, dict.fromkeys(CLOUD_SUFFIXES), "cloud")
    array = np.asarray(points)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: points must be [N, 3], got {array.dtype} {list(array.shape)}")
    array = array.astype(np.float64 if array.dtype == np.float64 else np.float32)
    columns = {axis: array[:, k] for k, axis in enumerate("xyz")}
    if normals is not None:
        directions = np.asarray(normals, np.float32)
        if directions.shape != array.shape:
            raise ValueError(
                f"{path}: normals must be {list(array.shape)}, got {list(directions.shape)}"
            )
        columns |= {f"n{axis}": directions[:, k] for k, axis in enumerate("xyz")}
    if colours is not None:
        rgb = np.asarray(colours)
        if rgb.dtype != np.uint8 or rgb.shape != array.shape:
            raise ValueError(
                f"{path}: colours must be uint8 {list(array.shape)}, "
                f"got {rgb.dtype} {list(rgb.shape)}"
            )
        columns |= {name: rgb[:, k] for k, name in enumerate(("red", "green", "blue"))}
    if len(columns) > 3 and path.suffix.lower() in BARE_SUFFIXES:
        raise ValueError(f"{path}: {', '.join(BARE_SUFFIXES)} hold no colours and no normals")
    write_table(path, table_of(columns))


def read_depth(
    path: FilePath, unit: float = 0.001, max_depth: float | None = None
) -> NDArray[np.float32]:
    """Read a depth picture of 16 bits, as RGB-D cameras produce it.

    Args:
        path: A PNG of one channel, 16 bits.
        unit: Metres per unit of the picture: 0.001 for millimetres, 1/5000 in TUM's data.
        max_depth: Depth beyond which measurements are ignored, metres; None keeps all.

    Returns:
        Depth ``[H, W]`` along the optical axis, metres; NaN where it is unknown: 0 in the file, or
        65535, which marks unknown depth (7-Scenes) or depth beyond what 16 bits hold.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged or another kind of picture, or `unit` or `max_depth` is not
            positive.

    Example:
        >>> import tempfile
        >>> import cv2
        >>> path = str(Path(tempfile.mkdtemp()) / "depth.png")
        >>> _ = cv2.imwrite(path, np.array([[1500, 0, 65535]], np.uint16))
        >>> read_depth(path).tolist()
        [[1.5, nan, nan]]
    """
    path = existing_file(path)
    if not (math.isfinite(unit) and unit > 0):
        raise ValueError(f"unit must be a positive number of metres, got {unit}")
    if max_depth is not None and not max_depth > 0:
        raise ValueError(f"max_depth must be a positive number of metres, got {max_depth}")
    raw = read_png16(path, 1, "depth of 16 bits, gray")
    depth = np.asarray(raw * unit, np.float32)
    depth[(raw == 0) | (raw == _SATURATED)] = np.nan
    if max_depth is not None:
        depth[depth > max_depth] = np.nan
    return depth


def read_intrinsics(path: FilePath) -> NDArray[np.float64]:
    """Read a camera matrix ``[3, 3]``, or ``fx fy cx cy``, from a text file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file holds anything else.
    """
    path = existing_file(path)
    if path.stat().st_size > 4096:
        raise ValueError(f"{path}: expected a text of 3 x 3 numbers, got {path.stat().st_size} B")
    try:
        numbers = np.array(separate(path, path.read_text("latin1")).split(), np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: expected 3 x 3 numbers: {reason_of(error)}") from error
    if numbers.size == 4:
        fx, fy, cx, cy = numbers.tolist()
        numbers = np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1])
    camera = numbers.size == 9 and np.isfinite(numbers).all() and 0 not in (numbers[0], numbers[4])
    # The last row also reveals a matrix that was written column by column.
    if not camera or numbers[6:].tolist() != [0, 0, 1]:
        raise ValueError(
            f"{path}: expected a camera matrix, 3 x 3 with 0 0 1 below, or fx fy cx cy"
        )
    return numbers.reshape(3, 3)


def depth_to_points(depth: ArrayLike, intrinsics: ArrayLike) -> NDArray[np.float64]:
    """Return the 3-D points of a depth picture, in the camera's frame.

    Args:
        depth: ``[H, W]`` along the optical axis, metres; values that are not positive are unknown.
        intrinsics: Camera matrix ``[3, 3]``, pixels; pixel centres have integer coordinates.

    Returns:
        Points ``[N, 3]``: x right, y down, z forward.

    Raises:
        ValueError: Wrong shapes.

    Example:
        >>> depth_to_points([[2.0, 0.0]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
        array([[0., 0., 2.]])
    """
    z, camera = np.asarray(depth, np.float64), np.asarray(intrinsics, np.float64)
    if z.ndim != 2 or camera.shape != (3, 3):
        raise ValueError(
            f"depth must be [H, W] and intrinsics [3, 3], got {list(z.shape)}, {list(camera.shape)}"
        )
    v, u = np.nonzero(z > 0)  # also false for NaN
    rays = np.stack([u, v, np.ones_like(u)], axis=1) @ np.linalg.inv(camera).T
    points: NDArray[np.float64] = rays * z[v, u, None]
    return points[np.isfinite(points).all(axis=1)]
