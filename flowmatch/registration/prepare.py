"""Scans prepared for registration: down-sampled, with normals, keypoints and descriptors."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flowmatch.progress import ProgressCallback
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
_DEFAULTS = RegisterOptions()


class PreparedScan(NamedTuple):
    """A scan prepared by `prepare_scan`.

    Attributes:
        points: Points ``[N, 3]``, one per voxel.
        normals: Normals ``[N, 3]``.
        keypoints: Indices of the keypoints, ``[K]``.
        descriptors: Descriptors of the keypoints, ``[K, D]``.
        fine: Points ``[M, 3]``, one per half voxel, for the final ICP refinement.
    """

    points: Points
    normals: NDArray[np.float64]
    keypoints: NDArray[np.int64]
    descriptors: Tensor
    fine: Points


def choose_voxel(*scans: Points) -> float:
    """Return a voxel size that suits all scans, metres: see `RegisterOptions.voxel`."""
    sizes = []
    for points in scans:
        spread = np.linalg.norm(points - np.median(points, axis=0), axis=1)
        sizes.append(float(np.median(spread)) / 20)
    voxel = min(sizes)
    if not voxel > 0:
        raise ValueError("a scan's points are all in one place")
    while max(len(voxel_down(points, voxel)) for points in scans) > _MAX_POINTS:
        voxel *= 1.3
    return voxel


def prepare_scan(
    points: ArrayLike,
    voxel: float,
    descriptor: Descriptor,
    options: RegisterOptions = _DEFAULTS,
    *,
    viewpoint: ArrayLike | None = None,
    name: str = "a scan",
    progress: ProgressCallback | None = None,
) -> PreparedScan:
    """Down-sample a scan, estimate normals, choose keypoints and describe them.

    Args:
        points: ``[N, 3]``, metres.
        voxel: Side of the down-sampling voxels, metres.
        descriptor: A descriptor network, or ``"fpfh"``.
        options: Number and sampling of keypoints, and the random seed.
        viewpoint: Position of the sensor, ``[3]``; see `estimate_normals`.
        name: Name of the scan in error messages.
        progress: Called with the stage ``"describe"`` and the number of keypoints done.

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
    descriptors = describe_indices(
        descriptor, cloud, normals, keypoints, voxel=voxel, dense=dense, progress=progress
    )
    return PreparedScan(cloud, normals, keypoints, descriptors, voxel_down(dense, voxel / 2))
