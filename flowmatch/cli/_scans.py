"""Scans of the command line: point clouds, meshes and depth pictures, and regions of them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmatch.io import depth_to_points, read_cloud, read_depth, read_intrinsics

Scans = list[NDArray[np.float64]]


def is_depth_picture(path: Path) -> bool:
    """Return whether a scan is a depth picture."""
    return path.suffix.lower() == ".png"


def read_scans(
    paths: list[Path], intrinsics: Path | None, unit: float, max_depth: float | None
) -> Scans:
    """Read the points of scans.

    Args:
        paths: Clouds, meshes and depth pictures.
        intrinsics: File with the camera matrix of depth pictures.
        unit: Metres per unit of depth pictures.
        max_depth: Depth beyond which measurements are ignored, metres; None keeps all.
    """
    is_depth = [is_depth_picture(path) for path in paths]
    if any(is_depth) and intrinsics is None:
        raise ValueError("depth pictures need --intrinsics")
    camera = read_intrinsics(intrinsics) if intrinsics is not None else np.eye(3)
    clouds = [
        depth_to_points(read_depth(path, unit, max_depth), camera) if depth else read_cloud(path)
        for path, depth in zip(paths, is_depth, strict=True)
    ]
    for path, cloud in zip(paths, clouds, strict=True):
        if len(cloud) < 10:
            raise ValueError(f"{path}: a scan needs 10 points, got {len(cloud)}")
    return clouds


def parse_box(option: str, text: str | None) -> NDArray[np.float64] | None:
    """Return the corners of a region, ``[2, 3]``."""
    if text is None:
        return None
    try:
        corners = np.array(text.split(","), np.float64).reshape(2, 3)
    except ValueError:
        raise ValueError(f"{option} must be six numbers X,Y,Z,X,Y,Z, got {text!r}") from None
    if not (corners[0] < corners[1]).all():  # also for NaN
        raise ValueError(f"{option} must have its least coordinates first, got {text!r}")
    return corners


def crop(
    path: Path, cloud: NDArray[np.float64], box: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return the points in a box; `path` names the scan in errors."""
    if box is None:
        return cloud
    inside = ((cloud >= box[0]) & (cloud <= box[1])).all(axis=1)
    if inside.sum() < 10:
        low, high = cloud.min(0).round(3).tolist(), cloud.max(0).round(3).tolist()
        raise ValueError(
            f"{path}: a region needs 10 points, got {inside.sum()}; all are from {low} to {high}"
        )
    kept: NDArray[np.float64] = cloud[inside]
    return kept
