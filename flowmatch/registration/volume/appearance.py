"""Colours of a fused surface, and whether frames contradict each other."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmatch.geometry import Matrix, invert_motion, transform_points
from flowmatch.io import IMAGE_SUFFIXES, depth_to_points, read_depth, read_image
from flowmatch.registration.keypoints import Points

_FREE_SHARE = 0.05  # of the depth: errors of a sensor are smaller
_STEP = 4  # pixels between the points that are compared
_MIN_POINTS = 50  # in view
_UNSEEN = (128, 128, 128)


def share_seen_through(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    motion: Matrix,
    camera: Matrix,
    margin: float,
) -> float:
    """Return the share of a frame's points that lie where another frame saw free space.

    Args:
        first: Depth ``[H, W]``, metres, NaN where it is unknown.
        second: Depth of the other frame.
        motion: ``[4, 4]``, first camera to the second.
        camera: Camera matrix ``[3, 3]``, pixels.
        margin: Distance in front of the second frame's surface from which space is free, metres;
            a twentieth of the depth at least.

    Returns:
        0 to 1: about 0 for right motions and depth; NaN if few points are in view.

    Example:
        >>> wall = np.full((60, 60), 2.0, np.float32)
        >>> camera = np.array([[60, 0, 30], [0, 60, 30], [0, 0, 1.0]])
        >>> share_seen_through(wall, wall, np.eye(4), camera, 0.05)
        0.0
        >>> share_seen_through(wall / 2, wall, np.eye(4), camera, 0.05)
        1.0
    """
    coarse = camera / np.array([[_STEP], [_STEP], [1]])
    at = transform_points(motion, depth_to_points(first[::_STEP, ::_STEP], coarse))
    pixel, at = _project(at, camera, second.shape)[:2]
    u, v = np.rint(pixel).astype(np.int64).T
    depth = second[v, u]
    known = np.isfinite(depth)
    if known.sum() < _MIN_POINTS:
        return float("nan")
    free = depth - at[:, 2] > np.maximum(margin, _FREE_SHARE * depth)
    return float(free[known].mean())


def _project(
    points: Points, camera: Matrix, size: tuple[int, ...]
) -> tuple[NDArray[np.float64], Points, NDArray[np.int64]]:
    """Return pixels, points and indices of the points of a camera's frame that are in view."""
    index = np.flatnonzero(points[:, 2] > 1e-6)
    at = points[index]
    pixel = at @ camera[:2].T / at[:, 2:]
    inside = ((pixel > -0.5) & (pixel < [size[1] - 0.5, size[0] - 0.5])).all(axis=1)
    return pixel[inside], at[inside], index[inside]


def find_picture(folder: Path, name: str) -> Path | None:
    """Return the picture ``color/NAME.*`` of a frame, or None."""
    paths = (folder / "color" / f"{name}{suffix}" for suffix in IMAGE_SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def colour_surface(
    folder: Path,
    frames: Sequence[tuple[str, Matrix]],
    camera: Matrix,
    points: Points,
    normals: NDArray[np.float64],
    *,
    band: float,
    unit: float,
    max_depth: float,
) -> NDArray[np.uint8] | None:
    """Average the colours in which the frames show the points of a surface.

    Args:
        folder: Folder with ``depth/`` and ``color/``, whose pictures show the same view as the
            depth images, in any size.
        frames: Name and pose of each frame: camera to the frame of `points`.
        camera: Camera matrix of the depth images, ``[3, 3]``, pixels.
        points: ``[N, 3]``, metres.
        normals: ``[N, 3]``.
        band: Distance within which a point is on the measured surface, metres.
        unit: Metres per unit of the depth images.
        max_depth: Depth beyond which measurements are ignored, metres.

    Returns:
        RGB ``[N, 3]``, gray where no picture shows the point; None if no frame has a picture.

    Raises:
        ValueError: A picture is damaged.
    """
    pictures = [find_picture(folder, name) for name, _ in frames]
    if not any(pictures):
        return None
    total, weights = np.zeros((len(points), 3)), np.zeros(len(points))
    for (name, pose), picture in zip(frames, pictures, strict=True):
        if picture is None:
            continue
        image = read_image(picture)
        depth = read_depth(folder / "depth" / f"{name}.png", unit, max_depth)
        to_camera = invert_motion(pose)
        pixel, at, index = _project(transform_points(to_camera, points), camera, depth.shape)
        u, v = np.rint(pixel).astype(np.int64).T
        facing = np.einsum("ni,ni->n", normals[index] @ to_camera[:3, :3].T, at) < 0
        seen = facing & (np.abs(depth[v, u] - at[:, 2]) < band)  # False for NaN
        index, pixel, z = index[seen], pixel[seen], at[seen, 2]
        size = np.array([image.shape[1], image.shape[0]])
        place = np.rint((pixel + 0.5) * size / depth.shape[::-1] - 0.5).astype(np.int64)
        x, y = np.clip(place, 0, size - 1).T
        total[index] += image[y, x] / z[:, None] ** 2
        weights[index] += 1 / z**2
    colours = np.rint(total / np.where(weights > 0, weights, 1)[:, None])
    colours[weights == 0] = _UNSEEN
    return colours.astype(np.uint8)
