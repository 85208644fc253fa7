"""Estimation of cameras from matches: initial guess, bundle adjustment, straightening."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flowmatch._opencv import cv2
from flowmatch.stitch.adjust import (
    Array,
    MatchedPoints,
    RotatingCameras,
    adjust_rotations,
    adjust_scans,
)
from flowmatch.stitch.cameras import Camera, Cameras, resizing_matrix
from flowmatch.stitch.matching import MAX_MATCHES, Pair, View, fit_pair
from flowmatch.stitch.options import StitchOptions
from flowmatch.stitch.parallax import FAR, MANY, measure_parallax
from flowmatch.stitch.upright import straighten

# Pixels of the reduced photos: matched points further apart are visible as ghosts.
_LARGE_ERROR = 3.0


class _Fit(NamedTuple):
    """Result of one attempt: intrinsics and rotations (or affine maps), or a failure."""

    motion: str
    intrinsics: list[Array]
    matrices: list[Array]
    error: float
    failure: str | None


def estimate_cameras(
    views: Sequence[View], pairs: Sequence[Pair], options: StitchOptions
) -> tuple[Cameras, list[str]]:
    """Estimate the cameras of photos that are connected by overlaps.

    If no rotating camera explains the matches, affine maps are tried, and the better of both is
    taken.

    Args:
        views: Views of one group.
        pairs: Pairs of these views; `first` and `second` are indices into `views`.
        options: Motion, straightening, and the confidence of a pair that overlaps.

    Returns:
        One camera for each view, in the same order, for the photo at full size; and messages about
        attempts that failed.

    Raises:
        ValueError: All attempts failed; the message says how.
    """
    best: _Fit | None = None
    attempts = []
    for motion in ("affine",) if options.motion == "affine" else ("rotation", "affine"):
        if best is not None and best.error <= _LARGE_ERROR:
            break
        fit = _attempt(motion, views, pairs, options.confidence)
        reason = fit.failure or f"matched points are {fit.error:.1f} pixels apart"
        attempts.append(f"{motion}: {reason}")
        if fit.failure is None and (best is None or fit.error < 0.7 * best.error):
            best = fit
    if best is None:
        raise ValueError(f"no cameras were found ({'; '.join(attempts)})")
    messages = []
    if best.motion != options.motion:
        messages.append(
            f"no rotating camera fits, so photos are placed as scans ({'; '.join(attempts)})"
        )
    elif best.error > _LARGE_ERROR:
        messages.append(
            f"matched points are {best.error:.1f} pixels apart in the median; expect ghosts"
        )
    if best.motion == "rotation":
        confident = [pair for pair in pairs if pair.confidence >= options.confidence]
        parallax = measure_parallax(views, confident, best.intrinsics, best.matrices)
        if parallax > MANY:
            messages.append(
                f"{parallax:.0%} of the matched points are more than {100 * FAR:.3g} % of a "
                "photo's diagonal apart: the photos were taken from different places, or things "
                "moved; expect ghosts"
            )
        straight, agree = straighten(best.matrices, options.wave)
        best = best._replace(matrices=straight)
        if not agree:
            messages.append(
                "the horizon was not found: the photos are rolled by different angles; "
                "wave none leaves them as they are"
            )
    return _cameras_at_full_size(best, views), messages


def _attempt(motion: str, views: Sequence[View], pairs: Sequence[Pair], confidence: float) -> _Fit:
    confident = [pair for pair in pairs if pair.confidence >= confidence]
    try:
        if motion == "affine":
            # Pairs may have agreed on homographies; fewer of their matches agree on affine maps.
            refitted = [fit_pair(pair, views, "affine") for pair in confident]
            agreed = [pair for pair in refitted if pair.confidence >= confidence]
            intrinsics = [np.eye(3) for _ in views]
            reference = _most_connected(agreed, len(views))
            matrices = list(adjust_scans(_matched_points(agreed), len(views), reference))
            if min(np.linalg.det(matrix) for matrix in matrices) < 0.01:
                raise ValueError("a scan would shrink to nothing")
        else:
            intrinsics, matrices = _rotations(views, confident)
    except (ValueError, np.linalg.LinAlgError, cv2.error) as error:
        return _Fit(motion, [], [], np.inf, str(error))
    distance = _median_error(confident, intrinsics, matrices)
    return _Fit(motion, intrinsics, matrices, distance, None)


def _most_connected(pairs: Sequence[Pair], views: int) -> int:
    """Return the view with the most inliers: it stays upright, the others are rotated to it."""
    inliers = np.zeros(views, np.int64)
    for pair in pairs:
        inliers[[pair.first, pair.second]] += pair.inliers
    return int(inliers.argmax())


def _rotations(views: Sequence[View], pairs: Sequence[Pair]) -> tuple[list[Array], list[Array]]:
    """Return camera matrices and rotations.

    Raises:
        ValueError: The photos are not connected, or a focal length is absurd.
    """
    # Any, because OpenCV's stubs lack the optional arguments and the results.
    estimator: Any = cv2.detail.HomographyBasedEstimator()
    success, cameras = estimator.apply(*_for_opencv(views, pairs), None)
    if not success:
        raise ValueError("the pairs do not connect all photos")
    focal = np.array([camera.focal for camera in cameras], np.float64)
    # The guess is a product of homographies: take the nearest rotation.
    u, _, v = np.linalg.svd(np.stack([np.asarray(camera.R, np.float64) for camera in cameras]))
    nearest = u @ v
    start = RotatingCameras(focal, nearest * np.sign(np.linalg.det(nearest))[:, None, None])
    middles = np.array([view.size for view in views]) / 2 - 0.5
    matched = _matched_points(pairs)
    matched = matched._replace(
        a=matched.a - middles[matched.first], b=matched.b - middles[matched.second]
    )
    adjusted = adjust_rotations(matched, start, _stated_focals(views))
    for focal_length, view in zip(adjusted.focal, views, strict=True):
        # A field of view of 160 to 2 degrees along the longer side.
        if not 0.09 < focal_length / max(view.size) < 30:
            raise ValueError(
                f"the focal length of {view.name} would be {focal_length:.0f} pixels, "
                f"at {view.size[0]} x {view.size[1]}"
            )
    intrinsics = [
        np.array([[f, 0, x], [0, f, y], [0, 0, 1]])
        for f, (x, y) in zip(adjusted.focal, middles, strict=True)
    ]
    return intrinsics, list(adjusted.rotation)


def _stated_focals(views: Sequence[View]) -> Array:
    """Return the focal lengths that EXIF states, pixels; NaN where it states none."""
    stated = np.full(len(views), np.nan)
    for k, view in enumerate(views):
        if (millimetres := view.photo.metadata.focal_35mm) is not None:
            # Diagonals are compared, because photos have other shapes than film.
            stated[k] = millimetres * math.hypot(*view.size) / math.hypot(36, 24)
    return stated


def _matched_points(pairs: Sequence[Pair]) -> MatchedPoints:
    """Return the inliers of all pairs; of a pair with many, evenly spaced ones."""
    parts = []
    for pair in pairs:
        a, b = (xy.astype(np.float64) for xy in pair.matches.points(inliers=True))
        if len(a) > MAX_MATCHES:
            kept = np.linspace(0, len(a) - 1, MAX_MATCHES).astype(np.intp)
            a, b = a[kept], b[kept]
        parts.append((np.full(len(a), pair.first), np.full(len(a), pair.second), a, b))
    if not parts:
        raise ValueError("no pair agrees")
    return MatchedPoints(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _for_opencv(views: Sequence[View], pairs: Sequence[Pair]) -> Any:
    """Return views and pairs as OpenCV's estimator takes them.

    The origin of its homographies is the middle of each image.
    """
    features = []
    for number, view in enumerate(views):
        item = cv2.detail.ImageFeatures()
        item.img_idx, item.img_size = number, view.size
        features.append(item)
    N = len(views)
    matches = [cv2.detail.MatchesInfo() for _ in range(N * N)]
    for pair in pairs:
        i, j = pair.first, pair.second
        matrix = pair.matches.matrix
        assert matrix is not None  # a pair without a matrix has confidence 0
        matrix = _shift(views[j].size, -0.5) @ matrix @ _shift(views[i].size, 0.5)
        inverse = np.linalg.inv(matrix)
        for source, target, H in ((i, j, matrix), (j, i, inverse)):
            info = matches[source * N + target]
            info.src_img_idx, info.dst_img_idx = source, target
            info.num_inliers = pair.inliers  # weights of OpenCV's maximum spanning tree
            info.confidence, info.H = pair.confidence, H / H[2, 2]
    return features, matches


def _shift(size: tuple[int, int], share: float) -> Array:
    return np.array([[1, 0, size[0] * share], [0, 1, size[1] * share], [0, 0, 1]])


def _median_error(pairs: Sequence[Pair], intrinsics: list[Array], matrices: list[Array]) -> float:
    """Return the median distance of matched points in pixels, over the inliers of all pairs."""
    distances = []
    # Maps from pixels to the panorama, for both kinds of camera.
    maps = [R @ np.linalg.inv(K) for R, K in zip(matrices, intrinsics, strict=True)]
    for pair in pairs:
        a, b = pair.matches.points(inliers=True)
        first_to_second = np.linalg.inv(maps[pair.second]) @ maps[pair.first]
        moved = np.concatenate([a, np.ones((len(a), 1))], axis=1) @ first_to_second.T
        distances.append(np.hypot(*(moved[:, :2] / moved[:, 2:] - b).T))
    return float(np.median(np.concatenate(distances)))


def _cameras_at_full_size(fit: _Fit, views: Sequence[View]) -> Cameras:
    """Return cameras for photos at full size instead of the reduced size."""
    scales = [view.size[0] / view.full_size[0] for view in views]
    finest = min(scales)  # an affine panorama has the resolution of its finest photo
    cameras = []
    for view, K, matrix, scale in zip(views, fit.intrinsics, fit.matrices, scales, strict=True):
        camera = Camera(view.name, view.full_size, 1.0, 1.0, (0.0, 0.0), matrix)
        if fit.motion == "affine":
            # From the photo to its view, to the panorama of views, to the panorama of photos.
            full = np.linalg.inv(resizing_matrix(finest)) @ matrix @ resizing_matrix(scale)
            camera = camera._replace(matrix=full)
        else:
            x, y = ((c + 0.5) / scale - 0.5 for c in (float(K[0, 2]), float(K[1, 2])))
            focal = float(K[0, 0]) / scale
            camera = camera._replace(focal=focal, aspect=float(K[1, 1] / K[0, 0]), centre=(x, y))
        cameras.append(camera)
    projection = "plane" if fit.motion == "affine" else "spherical"
    return Cameras(fit.motion, projection, tuple(cameras), fit.error)
