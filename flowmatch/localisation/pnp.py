"""Pose of a camera from points of the world and their pixels (perspective-n-point)."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2

_CONFIDENCE, _ITERATIONS = 0.9999, 10_000


class CameraPose(NamedTuple):
    """Pose of a camera, and its uncertainty.

    Attributes:
        pose: Camera-to-world motion ``[4, 4]``, metres.
        inliers: Which correspondences agree with it, ``[N]`` bool.
        error: Root of the mean squared reprojection error of the inliers, pixels.
        rotation_deviation: Standard deviation of the rotation, radians.
        position_deviation: Standard deviation of the position, metres.
    """

    pose: NDArray[np.float64]
    inliers: NDArray[np.bool_]
    error: float
    rotation_deviation: float
    position_deviation: float


def fit_camera_pose(
    points: ArrayLike, pixels: ArrayLike, camera: ArrayLike, *, threshold: float = 4.0
) -> CameraPose | None:
    """Fit the pose of a camera by RANSAC, then by least squares to the inliers.

    Args:
        points: Points of the world ``[N, 3]``, metres.
        pixels: Their pixels ``[N, 2]``.
        camera: Intrinsics ``[3, 3]``, pixels; no distortion.
        threshold: Maximum reprojection error of an inlier, pixels.

    Returns:
        The pose, or None if fewer than six correspondences agree on one. The deviations follow from
        the inliers' errors as if these were independent: the pose may be wrong by more where points
        or poses of the world are.

    Example:
        >>> points = np.random.default_rng(0).uniform((-1, -1, 3), (1, 1, 5), (50, 3))
        >>> pixels = points[:, :2] / points[:, 2:] * 500
        >>> result = fit_camera_pose(points + [0, 0, 2], pixels, np.diag([500, 500, 1]))
        >>> result.pose[:3, 3].round(3) + 0.0  # metres
        array([0., 0., 2.])

    Reference:
        Fischler & Bolles, CACM 1981; OpenCV's P3P (Ding et al., CVPR 2023) and SQPnP.
    """
    world, xy = np.asarray(points, np.float64), np.asarray(pixels, np.float64)
    K = np.asarray(camera, np.float64)
    if len(world) < 6:
        return None
    success, rotation, translation, rows = cv2.solvePnPRansac(
        world, xy, K, None, iterationsCount=_ITERATIONS, reprojectionError=threshold,
        confidence=_CONFIDENCE, flags=cv2.SOLVEPNP_AP3P,
    )  # fmt: skip
    if not success or rows is None or len(rows) < 6:
        return None
    inliers = np.zeros(len(world), np.bool_)
    for _ in range(3):  # the inliers of the refined pose are more
        inliers[:] = False
        inliers[np.asarray(rows).ravel()] = True
        rotation, translation = map(
            np.asarray,
            cv2.solvePnPRefineLM(world[inliers], xy[inliers], K, None, rotation, translation),
        )
        error = _errors(world, xy, K, rotation, translation)
        rows = np.flatnonzero(error < threshold)
        if len(rows) < 6:
            return None
    projected, jacobian = cv2.projectPoints(world[inliers], rotation, translation, K, None)
    squares = ((projected[:, 0] - xy[inliers]) ** 2).sum(axis=1)
    matrix = cv2.Rodrigues(rotation)[0]
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = matrix.T, -matrix.T @ translation.ravel()
    if not np.isfinite(pose).all() or not np.isfinite(jacobian).all():
        return None
    deviations = _deviations(jacobian[:, :6], squares.sum(), matrix, translation.ravel())
    return CameraPose(pose, inliers, float(np.sqrt(squares.mean())), *deviations)


def _errors(
    world: NDArray[np.float64],
    xy: NDArray[np.float64],
    camera: NDArray[np.float64],
    rotation: NDArray[Any],
    translation: NDArray[Any],
) -> NDArray[np.float64]:
    """Return the reprojection errors, pixels; infinite behind the camera."""
    projected = cv2.projectPoints(world, rotation, translation, camera, None)[0][:, 0]
    depth = world @ cv2.Rodrigues(rotation)[0][2] + translation.ravel()[2]
    error = np.linalg.norm(projected - xy, axis=1)
    return np.asarray(np.where(depth > 0, error, np.inf))


def _deviations(
    jacobian: NDArray[Any],
    square: float,
    rotation: NDArray[Any],
    translation: NDArray[Any],
) -> tuple[float, float]:
    """Return the standard deviations of rotation and position by linear propagation."""
    covariance = np.linalg.pinv(jacobian.T @ jacobian) * square / max(len(jacobian) - 6, 1)
    # The position is -R^T t; its derivative by the rotation is that of a turn about the camera.
    x, y, z = translation
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    derivative = -rotation.T @ np.column_stack([cross, np.eye(3)])
    position = derivative @ covariance @ derivative.T
    return float(np.sqrt(np.trace(covariance[:3, :3]))), float(np.sqrt(np.trace(position)))
