"""Methods of registration that `evaluate` measures beside single descriptors."""

import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmatch.geometry import Matrix
from flowmatch.registration.icp import refine_motion
from flowmatch.registration.keypoints import Points, voxel_down
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.register import register_scans

_MIN_INLIERS = 5  # the number that KISS-Matcher's authors suggest

View = NDArray[np.float64] | None


def register_automatically(
    source: Points, target: Points, views: tuple[View, View], options: RegisterOptions
) -> tuple[Matrix, bool]:
    """Register by ``model="auto"``; return the motion and whether it is trusted."""
    result = register_scans(source, target, options=options, viewpoints=views)
    return result.motion, result.trusted


def kiss_matcher_is_installed() -> bool:
    """Return whether the optional package kiss-matcher is installed."""
    return importlib.util.find_spec("kiss_matcher") is not None


def register_by_kiss_matcher(
    source: Points, target: Points, views: tuple[View, View], options: RegisterOptions
) -> tuple[Matrix, bool]:
    """Register by KISS-Matcher, refined by generalised ICP; the viewpoints are not used.

    Returns:
        The motion, and whether five or more inliers are left.

    Raises:
        ImportError: kiss-matcher is not installed.

    Reference:
        Lim et al., KISS-Matcher: Fast and Robust Point Cloud Registration Revisited, ICRA 2025.
    """
    import kiss_matcher

    assert options.voxel is not None
    matcher: Any = kiss_matcher.KISSMatcher(kiss_matcher.KISSMatcherConfig(options.voxel))
    # Relative to the centroids, because the package computes in float32.
    centres = source.mean(0), target.mean(0)
    clouds = [np.asarray(p - c, np.float32) for p, c in zip((source, target), centres, strict=True)]
    solution = matcher.estimate(*clouds)
    motion = np.eye(4)
    motion[:3, :3] = solution.rotation
    motion[:3, 3] = np.ravel(solution.translation) + centres[1] - motion[:3, :3] @ centres[0]
    if np.linalg.det(motion[:3, :3]) < 0.5 or not np.isfinite(motion).all():
        return np.eye(4), False
    first, second = (voxel_down(points, options.voxel / 2) for points in (source, target))
    trusted = matcher.get_num_final_inliers() >= _MIN_INLIERS
    return refine_motion(first, second, motion, options.voxel), trusted
