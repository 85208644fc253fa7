"""Robust fit of a geometric model to matches, by MAGSAC++."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.matching.features import Matches
from flowmatch.matching.frame import Size, fixed_to_frame
from flowmatch.matching.keypoints import Keypoints
from flowmatch.matching.options import GEOMETRIES, Intrinsics, check_geometry

_CONFIDENCE, _ITERATIONS = 0.9999, 10_000


def fit_geometry(
    keypoints0: Keypoints,
    keypoints1: Keypoints,
    matches: NDArray[np.int64],
    distances: NDArray[np.float32],
    *,
    geometry: str | None = "homography",
    threshold: float = 3.0,
    intrinsics: Intrinsics | None = None,
    sizes: tuple[Size, Size] | None = None,
    scores: NDArray[np.float32] | None = None,
) -> Matches:
    """Fit a geometric model to matches by MAGSAC++, and find the inliers.

    Matches of date stamps, logos and other things that are fixed to the frame, see
    `fixed_to_frame`, are left out, unless they agree with the model that is fitted to the others.

    Args:
        keypoints0: Keypoints of the first image.
        keypoints1: Keypoints of the second image.
        matches: ``[K, 2]`` indices into both.
        distances: ``[K]``, copied to the result.
        geometry: ``"homography"``, ``"fundamental"``, ``"essential"``, or None to fit no model.
        threshold: Maximum error of an inlier, pixels.
        intrinsics: Camera matrices ``[3, 3]`` of both images; required by ``"essential"``.
        sizes: Sizes of both images, by which things fixed to the frame are found; None takes the
            box around all keypoints.
        scores: ``[K]``, copied to the result.

    Returns:
        `Matches`; without inliers if the fit failed.

    Raises:
        ValueError: The model is unknown, the threshold is not positive, or intrinsics are missing.
    """
    check_geometry(geometry, threshold, intrinsics)
    inliers = np.full(len(matches), geometry is None)
    matrix = None
    if geometry is not None:
        fixed = fixed_to_frame(keypoints0, keypoints1, matches, sizes, threshold)
        a, b = keypoints0.xy[matches[:, 0]], keypoints1.xy[matches[:, 1]]
        if (~fixed).sum() >= GEOMETRIES[geometry]:
            try:
                matrix, mask = _fit(geometry, (a[~fixed], b[~fixed]), threshold, intrinsics)
            except cv2.error:  # "!model.empty()": the matches determine no model
                matrix = mask = None
            if matrix is not None and mask is not None:
                inliers[~fixed] = np.asarray(mask).ravel() != 0
                inliers[fixed] = _agrees(geometry, matrix, (a, b), threshold, intrinsics)[fixed]
        kept = ~fixed | inliers
        matches, distances, inliers = matches[kept], distances[kept], inliers[kept]
        scores = None if scores is None else scores[kept]
    return Matches(keypoints0, keypoints1, matches, distances, inliers, matrix, geometry, scores)


def _agrees(
    geometry: str,
    matrix: NDArray[np.float64],
    points: tuple[NDArray[np.float32], NDArray[np.float32]],
    threshold: float,
    intrinsics: Intrinsics | None,
) -> NDArray[np.bool_]:
    """Return which points are within the threshold of where a model expects them."""
    a, b = (np.column_stack([xy, np.ones(len(xy))]) for xy in points)
    if geometry == "homography":
        mapped = a @ matrix.T
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - b[:, :2], axis=1)
        return np.asarray((error <= threshold) & (mapped[:, 2] > 0))
    if intrinsics is not None:
        first, second = (np.linalg.inv(np.asarray(K, np.float64)) for K in intrinsics)
        matrix = second.T @ matrix @ first
    line0, line1 = b @ matrix, a @ matrix.T  # epipolar lines in both images
    residual = np.abs((line1 * b).sum(axis=1))
    gradient = np.hypot(np.linalg.norm(line0[:, :2], axis=1), np.linalg.norm(line1[:, :2], axis=1))
    return np.asarray(residual <= threshold * gradient)  # Sampson's distance


def _fit(
    geometry: str,
    points: tuple[NDArray[np.float32], NDArray[np.float32]],
    threshold: float,
    intrinsics: Intrinsics | None,
) -> tuple[NDArray[np.float64] | None, Any]:
    a, b = (xy.astype(np.float64) for xy in points)
    if geometry == "homography":
        matrix, mask = cv2.findHomography(
            a, b, cv2.USAC_MAGSAC, threshold, maxIters=_ITERATIONS, confidence=_CONFIDENCE
        )
    elif geometry == "fundamental":
        matrix, mask = cv2.findFundamentalMat(
            a, b, cv2.USAC_MAGSAC, threshold, _CONFIDENCE, _ITERATIONS
        )
    else:
        assert intrinsics is not None
        cameras = [np.asarray(K, np.float64) for K in intrinsics]
        # Points become rays, so that the cameras may differ; the threshold is divided by the mean
        # focal length.
        a, b = (_rays(xy, K) for xy, K in zip((a, b), cameras, strict=True))
        focal = float(np.mean([K[0, 0] + K[1, 1] for K in cameras]) / 2)
        matrix, mask = cv2.findEssentialMat(
            a, b, np.eye(3), cv2.USAC_MAGSAC, _CONFIDENCE, threshold / focal, _ITERATIONS
        )
    fits = matrix is not None and matrix.shape == (3, 3) and np.isfinite(matrix).all()
    return (np.asarray(matrix, np.float64), mask) if fits else (None, None)


def _rays(xy: NDArray[np.float64], K: NDArray[np.float64]) -> NDArray[np.float64]:
    homogeneous = np.concatenate([xy, np.ones((len(xy), 1))], axis=1)
    rays = np.linalg.solve(K, homogeneous.T).T
    return np.asarray(rays[:, :2] / rays[:, 2:])
