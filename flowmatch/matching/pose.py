"""Relative pose of two calibrated views, and the points that they see."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares  # type: ignore[import-untyped]

from flowmatch._opencv import cv2
from flowmatch.geometry import unproject
from flowmatch.imaging import Image
from flowmatch.io import replace_when_done
from flowmatch.io._cloud_table import CloudTable
from flowmatch.io._files import FilePath, entry_for_suffix
from flowmatch.io._ply import write_ply_table
from flowmatch.matching.features import Matches

MIN_PARALLAX = 3.0
"""Median angle of the rays of a point, in degrees, below which the translation is not trusted.

Of 45 pairs of frames of an office, its direction was wrong by up to 154 degrees below this angle,
of 18 pairs, and by at most 24 above it, of 27."""


class RelativePose(NamedTuple):
    """Motion of a calibrated camera between two images, and triangulated points.

    A point ``X`` in the frame of the first camera (x right, y down, z forward) is ``R X + t`` in
    that of the second. The images do not tell the length of ``t``: it is 1, and so is the unit of
    the points.

    Attributes:
        rotation: ``R``, ``[3, 3]``.
        translation: ``t``, of length 1, ``[3]``.
        points: Points in front of both cameras, in the frame of the first, ``[N, 3]``.
        matches: Index of the match of each point, ``[N]``.
        errors: Reprojection error of each point, pixels, mean of both images, ``[N]``.
        parallax: Median angle at the points between the rays of both cameras, degrees. With less
            than `MIN_PARALLAX` the camera has hardly moved, or its motion cannot be told from a
            rotation: the rotation holds, the translation and the points do not.
    """

    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]
    points: NDArray[np.float64]
    matches: NDArray[np.int64]
    errors: NDArray[np.float64]
    parallax: float

    @property
    def angle(self) -> float:
        """Angle of the rotation, degrees."""
        return float(np.degrees(np.linalg.norm(cv2.Rodrigues(self.rotation)[0])))


def relative_pose(
    matches: Matches, K0: NDArray[np.float64], K1: NDArray[np.float64]
) -> RelativePose | None:
    """Recover the relative pose from matches with an essential matrix.

    Args:
        matches: Matches with ``geometry="essential"``.
        K0: Camera matrix ``[3, 3]`` of the first image.
        K1: Camera matrix of the second image.

    Returns:
        The pose; None if the matches have no essential matrix, or no point lies in front of both
        cameras.

    Raises:
        ValueError: The matches have another geometric model.

    Reference:
        Nistér, An Efficient Solution to the Five-Point Relative Pose Problem, PAMI 2004, for the
        choice among the four decompositions; Hartley & Zisserman, Multiple View Geometry, sections
        11.4.3, for the Sampson error that is minimised, and 12.2, for linear triangulation.
    """
    if matches.geometry != "essential":
        raise ValueError(f"a pose needs an essential matrix, got matches with {matches.geometry}")
    chosen = np.flatnonzero(matches.inliers)
    if matches.matrix is None or not len(chosen):
        return None
    pixels = [xy.astype(np.float64) for xy in matches.points(inliers=True)]
    rays = [unproject(xy, np.ones(len(xy)), K) for xy, K in zip(pixels, (K0, K1), strict=True)]
    R, translation = _refine(*_decompose(matches.matrix, rays), rays, (K0, K1))
    candidates = [_triangulate(R, sign * translation, rays) for sign in (1.0, -1.0)]
    if candidates[1][1].sum() > candidates[0][1].sum():
        translation = -translation
        candidates.reverse()
    points, inside = candidates[0]
    if not inside.any():
        return None
    points = points[inside]
    errors = (
        np.linalg.norm(_project(points, K0) - pixels[0][inside], axis=1)
        + np.linalg.norm(_project(points @ R.T + translation, K1) - pixels[1][inside], axis=1)
    ) / 2
    to_second = points + R.T @ translation  # from the centre of the second camera
    cosine = (points * to_second).sum(axis=1) / (
        np.linalg.norm(points, axis=1) * np.linalg.norm(to_second, axis=1)
    )
    parallax = float(np.median(np.degrees(np.arccos(np.clip(cosine, -1, 1)))))
    return RelativePose(R, translation, points, chosen[inside], errors, parallax)


def write_points(path: FilePath, pose: RelativePose, matches: Matches, first: Image) -> None:
    """Write the points of a pose as a ``.ply`` file, with colours and reprojection errors.

    Args:
        path: File to write; `error` is the reprojection error, pixels.
        pose: The pose.
        matches: The matches that it was recovered from.
        first: The first image, ``[H, W, 3]``, which gives the colours.

    Raises:
        ValueError: The suffix is another one.
        FileNotFoundError: The folder of the file does not exist.
    """
    path = Path(path)
    write = entry_for_suffix(path, {".ply": write_ply_table}, "file of points")
    xy = matches.keypoints0.xy[matches.matches[pose.matches, 0]].round().astype(int)
    H, W = first.shape[:2]
    colours = first[xy[:, 1].clip(0, H - 1), xy[:, 0].clip(0, W - 1)]
    columns = dict(zip("xyz", pose.points.T.astype(np.float32), strict=True))
    columns |= dict(zip(("red", "green", "blue"), colours.T, strict=True))
    columns["error"] = pose.errors.astype(np.float32)
    types = {name: column.dtype for name, column in columns.items()}
    with replace_when_done(path) as temporary:
        write(temporary, CloudTable(columns, types, (len(pose.points), 1), []))


def _decompose(
    E: NDArray[np.float64], rays: list[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return rotation and translation, up to its sign, of an essential matrix.

    Of the two rotations, the wrong one turns the second camera around the baseline, by 180 degrees:
    it would look away from what the first one sees. Unlike depths, this tells them apart without
    any translation, too.
    """
    R0, R1, t = cv2.decomposeEssentialMat(E)
    x0, x1 = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rays)
    along = [np.median((x0 @ R.T * x1).sum(axis=1)) for R in (R0, R1)]
    rotation = (R0, R1)[int(np.argmax(along))]
    return np.asarray(rotation, np.float64), np.asarray(t, np.float64).ravel()


def _triangulate(
    R: NDArray[np.float64], t: NDArray[np.float64], rays: list[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the points of all matches, and which of them lie in front of both cameras."""
    plane = [x[:, :2].T for x in rays]
    homogeneous = cv2.triangulatePoints(np.eye(3, 4), np.column_stack([R, t]), *plane)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        points = (homogeneous[:3] / homogeneous[3]).T
        in_front = (points[:, 2] > 0) & ((points @ R.T + t)[:, 2] > 0)
    return points, in_front & np.isfinite(points).all(axis=1)


def _refine(
    R: NDArray[np.float64],
    t: NDArray[np.float64],
    rays: list[NDArray[np.float64]],
    cameras: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Minimise the Sampson errors, in pixels, over rotation and direction of the translation.

    The five-point fit is exact for five matches only, and trades rotation against translation.
    """
    focal = float(np.mean([K[i, i] for K in cameras for i in (0, 1)]))
    x0, x1 = rays
    across = np.linalg.svd(t[None])[2][1:]  # two directions at right angles to t

    def pose(change: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        direction = t + change[3:] @ across
        turned = np.asarray(cv2.Rodrigues(change[:3])[0] @ R, np.float64)
        return turned, np.asarray(direction / np.linalg.norm(direction), np.float64)

    def errors(change: NDArray[np.float64]) -> NDArray[np.float64]:
        rotation, (x, y, z) = pose(change)
        E = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
        lines1, lines0 = x0 @ E.T, x1 @ E
        scale = np.sqrt((lines1[:, :2] ** 2).sum(axis=1) + (lines0[:, :2] ** 2).sum(axis=1))
        return np.asarray(focal * (x1 * lines1).sum(axis=1) / np.maximum(scale, 1e-12))

    return pose(least_squares(errors, np.zeros(5), loss="soft_l1").x)


def _project(points: NDArray[np.float64], K: NDArray[np.float64]) -> NDArray[np.float64]:
    pixels = points @ K.T
    return np.asarray(pixels[:, :2] / pixels[:, 2:])
