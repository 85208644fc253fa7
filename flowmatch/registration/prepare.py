"""Scans prepared for registration: down-sampled, with normals, keypoints and descriptors."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flowmatch.ops import nearest
from flowmatch.progress import ProgressCallback
from flowmatch.registration.agreement import inverse_normal_frequency
from flowmatch.registration.describe import describe_indices
from flowmatch.registration.keypoints import (
    Points,
    as_points,
    iss_keypoints,
    uniform_keypoints,
    voxel_down,
)
from flowmatch.registration.normals import estimate_normals
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.store import Descriptor

_MAX_POINTS = 10_000
_SAMPLE = 2000  # rows in which repeated points are looked for
_REPEATS = 10  # of a point, in the sample and at least in the scan
_MIN_REPEATED_SHARE = 0.005
_UNIT_RATIO = 1000  # millimetres in a metre
_SECOND_KEYPOINTS = 2000  # for the network after FPFH: enough where FPFH was nearly trusted
_DEFAULTS = RegisterOptions()


class PreparedScan(NamedTuple):
    """A scan prepared by `prepare_scan`.

    Attributes:
        points: Points ``[N, 3]``, one per voxel.
        normals: Normals ``[N, 3]``.
        weights: Inverse frequencies of the normals, ``[N]``, see `agreement`.
        keypoints: Indices of the keypoints, ``[K]``.
        fine: Points ``[M, 3]``, one per half voxel, for the final ICP refinement.
        dense: All points, for networks.
    """

    points: Points
    normals: NDArray[np.float64]
    weights: NDArray[np.float64]
    keypoints: NDArray[np.int64]
    fine: Points
    dense: Points


def choose_voxel(*scans: Points) -> float:
    """Return a voxel size that suits all scans, metres: see `RegisterOptions.voxel`."""
    voxel = min(median_spread(points) / 20 for points in scans)
    if not voxel > 0:
        raise ValueError("a scan's points are all in one place")
    while max(len(voxel_down(points, voxel)) for points in scans) > _MAX_POINTS:
        voxel *= 1.3
    return voxel


def median_spread(points: Points) -> float:
    """Return the median distance of points from their median, metres.

    A point that many rows repeat, such as the origin where a LiDAR has no return, counts once.
    """
    rng = np.random.default_rng(0)
    sample, seen = np.unique(
        points[rng.integers(0, len(points), min(len(points), _SAMPLE))], axis=0, return_counts=True
    )
    for point in sample[seen >= _REPEATS]:
        repeats = np.flatnonzero((points == point).all(axis=1))
        if len(repeats) >= max(_REPEATS, _MIN_REPEATED_SHARE * len(points)):
            points = np.delete(points, repeats[1:], axis=0)
    spread = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    return float(np.median(spread))


def unit_hint(*scans: Points) -> str:
    """Return a sentence if the sizes of scans differ as metres and millimetres do, else ``""``."""
    sizes = [median_spread(points) for points in scans]
    ratio = max(sizes) / max(min(sizes), np.finfo(float).tiny)
    if not _UNIT_RATIO / 4 < ratio < _UNIT_RATIO * 4:
        return ""
    return f"; the sizes of the scans differ {ratio:.0f}-fold: is one of them in millimetres?"


def prepare_scan(
    points: ArrayLike,
    voxel: float,
    options: RegisterOptions = _DEFAULTS,
    *,
    viewpoint: ArrayLike | None = None,
    name: str = "a scan",
) -> PreparedScan:
    """Down-sample a scan, estimate normals and choose keypoints.

    Args:
        points: ``[N, 3]``, metres.
        voxel: Side of the down-sampling voxels, metres.
        options: Number and sampling of keypoints, and the random seed.
        viewpoint: Position of the sensor, ``[3]``; see `estimate_normals`.
        name: Name of the scan in error messages.

    Raises:
        ValueError: Wrong shape, or fewer than 10 points are left.
    """
    dense = as_points(points)
    cloud = voxel_down(dense, voxel)
    if len(cloud) < 10:
        raise ValueError(f"{name} needs 10 points, got {len(cloud)} at voxels of {voxel:g} m")
    normals = estimate_normals(cloud, 3 * voxel, viewpoint=viewpoint)
    if options.sampling == "iss":
        keypoints = iss_keypoints(cloud, 6 * voxel, count=options.keypoints)
    else:
        keypoints = uniform_keypoints(cloud, options.keypoints, options.seed)
    weights = inverse_normal_frequency(normals)
    return PreparedScan(cloud, normals, weights, keypoints, voxel_down(dense, voxel / 2), dense)


def with_fewer_keypoints(scan: PreparedScan, seed: int = 0) -> PreparedScan:
    """Return a scan with 2000 of its keypoints at most, for a slow second descriptor."""
    chosen = np.random.default_rng(seed).permutation(len(scan.keypoints))[:_SECOND_KEYPOINTS]
    return scan._replace(keypoints=scan.keypoints[np.sort(chosen)])


def describe_scan(
    scan: PreparedScan,
    descriptor: Descriptor,
    voxel: float,
    *,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Describe the keypoints of a scan, ``[K, D]``.

    Args:
        scan: The scan.
        descriptor: A descriptor network, or ``"fpfh"``.
        voxel: Side of the down-sampling voxels of the scan, metres.
        progress: Called with the stage ``"describe"`` and the number of keypoints done.

    Raises:
        ValueError: `descriptor` is another name.
    """
    return describe_indices(
        descriptor,
        scan.points,
        scan.normals,
        scan.keypoints,
        voxel=voxel,
        dense=scan.dense,
        progress=progress,
    )


def match_descriptors(
    source: PreparedScan, target: PreparedScan, first: Tensor, second: Tensor
) -> NDArray[np.float64]:
    """Return pairs of keypoints whose descriptors are mutual nearest neighbours, ``[M, 2, 3]``."""
    result = nearest(first, second, mutual=True)
    assert result.accepted is not None
    row = np.flatnonzero(result.accepted.numpy())
    column = result.index[row, 0].numpy()
    ends = source.points[source.keypoints[row]], target.points[target.keypoints[column]]
    return np.stack(ends, axis=1)
