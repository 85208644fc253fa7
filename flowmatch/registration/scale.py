"""Estimation of the scale between two scans, as of photogrammetry or another unit."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree  # type: ignore[import-untyped]
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

from flowmatch.geometry import Matrix, transform_points
from flowmatch.registration.keypoints import Points
from flowmatch.registration.normals import estimate_normals
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.prepare import (
    choose_voxel,
    describe_scan,
    match_descriptors,
    median_spread,
    prepare_scan,
)
from flowmatch.registration.ransac import ransac
from flowmatch.registration.store import Descriptor

_STEP = 1.5  # between the scales that are tried; FPFH bears a fifth more or less
_STEPS = (0, -1, 1, -2, 2)  # the scans may show parts of different size
_INLIER = 1.5  # voxels: maximum error of a correspondence that agrees
_ENOUGH = 150  # inliers; by chance a scale has 30 at most
_MAX_ITERATIONS = 30
_CONVERGED = 1e-4  # voxels
_DAMPING = 1e-3


class ScaleFit(NamedTuple):
    """A similarity that was refined.

    Attributes:
        motion: ``[4, 4]``, source to target.
        scale: Its scale.
        error: Relative error of the scale that residuals of this size can hide, if they are one
            systematic error and not noise, which averages out. Depths that are all wrong by a
            factor leave no residuals, and cannot be recognised.
        freedom: Smallest eigenvalue of the normal equations with the scale, see
            `agreement.Agreement`: 0 where surfaces fit at any scale, as three planes do.
    """

    motion: Matrix
    scale: float
    error: float
    freedom: float


def guess_scale(
    source: Points, target: Points, descriptor: Descriptor, options: RegisterOptions
) -> float:
    """Return the factor of the source with which most correspondences agree.

    The sizes of the scans, and 1.5 and 2.25 times more or less, are tried in turn; RANSAC finds the
    scale in between.
    """
    ratio = median_spread(target) / max(median_spread(source), np.finfo(float).tiny)
    best = (0, ratio)
    for step in _STEPS:
        factor = ratio * _STEP**step
        scaled = factor * source
        voxel = options.voxel or choose_voxel(scaled, target)
        try:
            scans = [prepare_scan(points, voxel, options) for points in (scaled, target)]
        except ValueError:  # too few points at this scale
            continue
        described = [describe_scan(scan, descriptor, voxel) for scan in scans]
        pairs = match_descriptors(scans[0], scans[1], *described)
        results = ransac(
            pairs[:, 0],
            pairs[:, 1],
            _INLIER * voxel,
            trials=options.trials,
            max_scale=_STEP,
            seed=options.seed,
        )
        if results:
            refined = factor * scale_of(results[0].motion)
            best = max(best, (int(results[0].inliers.sum()), refined))
        if best[0] >= _ENOUGH:
            break
    return best[1]


def scale_of(matrix: Matrix) -> float:
    """Return the scale of a similarity ``[4, 4]``."""
    return float(np.cbrt(np.linalg.det(matrix[:3, :3])))


def refine_scale(source: Points, target: Points, motion: Matrix, voxel: float) -> ScaleFit:
    """Refine the scale of two scans that are registered, by ICP from points to planes.

    Args:
        source: ``[N, 3]``, one point per half voxel.
        target: ``[M, 3]``.
        motion: ``[4, 4]``, source to target.
        voxel: Maximum distance of corresponding points.
    """
    tree, normals = cKDTree(target), estimate_normals(target, 1.5 * voxel)
    matrix, freedom, error = motion.copy(), np.inf, np.inf
    for iteration in range(_MAX_ITERATIONS):
        limit = voxel if iteration < _MAX_ITERATIONS // 3 else voxel / 2
        moved = transform_points(matrix, source)
        distance, index = tree.query(moved, distance_upper_bound=limit)
        near = np.isfinite(distance)
        if near.sum() < 10:
            break
        points, across = moved[near], normals[index[near]]
        centre = points.mean(0)
        arm = points - centre
        size = np.sqrt((arm**2).sum(1).mean())
        rows = _rows(arm / size, across)
        residual = np.einsum("ni,ni->n", target[index[near]] - points, across)
        normal = rows.T @ rows / len(rows)
        freedom = min(freedom, float(np.linalg.eigvalsh(normal)[0]))
        play = np.sqrt((residual**2).mean() * np.linalg.pinv(normal, hermitian=True)[6, 6])
        error = float(play / size)
        # Damped, so that noise does not carry surfaces along a direction in which they are free.
        change = np.linalg.solve(normal + _DAMPING * np.eye(7), rows.T @ residual / len(rows))
        update = np.eye(4)
        factor = 1 + change[6] / size
        update[:3, :3] = factor * Rotation.from_rotvec(change[:3] / size).as_matrix()
        update[:3, 3] = centre + change[3:6] - update[:3, :3] @ centre
        matrix = update @ matrix
        if np.abs(change).max() < _CONVERGED * voxel:
            break
    return ScaleFit(matrix, scale_of(matrix), error, freedom if np.isfinite(freedom) else 0.0)


def _rows(arm: Points, across: Points) -> NDArray[np.float64]:
    """Return how far a rotation, a translation and a scale move points off their planes."""
    growth = np.einsum("ni,ni->n", arm, across)
    return np.concatenate([np.cross(arm, across), across, growth[:, None]], axis=1)
