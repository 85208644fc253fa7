"""Methods of registration that `evaluate` measures beside single descriptors."""

import importlib.util
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flowmatch.geometry import Matrix
from flowmatch.registration.icp import refine_motion
from flowmatch.registration.keypoints import Points, voxel_down
from flowmatch.registration.networks import FieldDescriptor
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.prepare import choose_voxel
from flowmatch.registration.register import register_scans

_MIN_INLIERS = 5  # the number that KISS-Matcher's authors suggest
_MIN_FITNESS = 1 / 3

View = NDArray[np.float64] | None


Registrar: TypeAlias = Callable[
    [Points, Points, tuple[View, View], RegisterOptions], tuple[Matrix, bool]
]
"""A function of the source, the target, the viewpoints and the options that returns a motion and
whether to trust it."""


def as_registrar(method: "FieldDescriptor | str | Registrar") -> Registrar:
    """Return a function that registers by a descriptor, by ``"auto"``, or itself."""
    if callable(method) and not isinstance(method, FieldDescriptor):
        return method

    def register(
        source: Points, target: Points, views: tuple[View, View], options: RegisterOptions
    ) -> tuple[Matrix, bool]:
        result = register_scans(source, target, model=method, options=options, viewpoints=views)
        return result.motion, result.trusted

    return register


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

    voxel = options.voxel or choose_voxel(source, target)
    matcher: Any = kiss_matcher.KISSMatcher(kiss_matcher.KISSMatcherConfig(voxel))
    # Relative to the centroids, because the package computes in float32.
    centres = source.mean(0), target.mean(0)
    clouds = [np.asarray(p - c, np.float32) for p, c in zip((source, target), centres, strict=True)]
    solution = matcher.estimate(*clouds)
    motion = np.eye(4)
    motion[:3, :3] = solution.rotation
    motion[:3, 3] = np.ravel(solution.translation) + centres[1] - motion[:3, :3] @ centres[0]
    if np.linalg.det(motion[:3, :3]) < 0.5 or not np.isfinite(motion).all():
        return np.eye(4), False
    first, second = (voxel_down(points, voxel / 2) for points in (source, target))
    trusted = matcher.get_num_final_inliers() >= _MIN_INLIERS
    return refine_motion(first, second, motion, voxel), trusted


def open3d_is_installed() -> bool:
    """Return whether the optional package open3d is installed."""
    return importlib.util.find_spec("open3d") is not None


def register_by_open3d(
    source: Points, target: Points, views: tuple[View, View], options: RegisterOptions
) -> tuple[Matrix, bool]:
    """Register by Open3D's FPFH and RANSAC, refined by its ICP from points to planes.

    Returns:
        The motion, and whether a third of the source overlaps: Open3D gives no verdict.

    Raises:
        ImportError: open3d is not installed.

    Reference:
        Zhou, Park and Koltun, Open3D, arXiv 1801.09847, 2018; the parameters are those of its
        tutorial on global registration.
    """
    import open3d

    voxel = options.voxel or choose_voxel(source, target)
    pipeline: Any = open3d.pipelines.registration
    search: Any = open3d.geometry.KDTreeSearchParamHybrid
    centres = source.mean(0), target.mean(0)
    clouds, features = [], []
    for points, centre in zip((source, target), centres, strict=True):
        cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points - centre))
        cloud = cloud.voxel_down_sample(voxel)
        cloud.estimate_normals(search(radius=2 * voxel, max_nn=30))
        clouds.append(cloud)
        features.append(pipeline.compute_fpfh_feature(cloud, search(radius=5 * voxel, max_nn=100)))
    open3d.utility.random.seed(options.seed)
    result = pipeline.registration_ransac_based_on_feature_matching(
        *clouds,
        *features,
        mutual_filter=True,
        max_correspondence_distance=1.5 * voxel,
        estimation_method=pipeline.TransformationEstimationPointToPoint(False),
        ransac_n=3,
        checkers=[
            pipeline.CorrespondenceCheckerBasedOnEdgeLength(0.9),
            pipeline.CorrespondenceCheckerBasedOnDistance(1.5 * voxel),
        ],
        criteria=pipeline.RANSACConvergenceCriteria(100_000, 0.999),
    )
    result = pipeline.registration_icp(
        *clouds,
        voxel,
        result.transformation,
        pipeline.TransformationEstimationPointToPlane(),
    )
    motion = np.array(result.transformation)
    motion[:3, 3] += centres[1] - motion[:3, :3] @ centres[0]
    return motion, bool(result.fitness > _MIN_FITNESS)
