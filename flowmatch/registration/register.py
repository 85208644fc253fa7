"""Two scans in, the rigid motion between them out, and whether to trust it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flowmatch.ops import nearest
from flowmatch.registration.agreement import NO_AGREEMENT, Agreement, agreement
from flowmatch.registration.describe import Network, describe_points
from flowmatch.registration.icp import Matrix, Refiner, inverse, move
from flowmatch.registration.keypoints import (
    Points,
    as_points,
    iss_keypoints,
    uniform_keypoints,
    voxel_down,
)
from flowmatch.registration.normals import estimate_normals
from flowmatch.registration.ransac import Hypothesis, ransac

# On frames of an office, described by the network that ships: 19 right motions of frames that
# overlap by a fifth to two thirds had an evidence of 2 to 436, 14 of them of more than 10. Of 40
# frames that do not meet, the most was 8; a cabinet taken for a sofa had 12.
_LEAST_EVIDENCE = 9.0
_LEAST_INLIERS = 10
_LEAST_GRIP = 0.002
_RIVAL = 0.7
_HYPOTHESES = 10
_MOST_POINTS = 10_000
_KEYPOINTS = 4000


class Registration(NamedTuple):
    """How two scans fit together."""

    motion: NDArray[np.float64]
    """``[4, 4]``, takes the source's points to the target; the identity where nothing was found."""
    correspondences: NDArray[np.float64]
    """``[M, 2, 3]``: keypoints of the source, and of the target, whose descriptors are mutually
    nearest."""
    inliers: NDArray[np.bool_]
    """``[M]``: which agree with the motion."""
    overlap: float
    """Share of the smaller scan that lies on the other: within a voxel, normals parallel."""
    evidence: float
    """Inliers times that share, balanced as in `agreement.Agreement`: chance gives less than 8."""
    rmse: float
    """Root mean square distance of these points along the normals, metres."""
    voxel: float
    """Of the down-sampled clouds, metres."""
    grip: float
    """How firmly the surfaces hold the motion, see `agreement.Agreement`: 0 where they slide."""
    trusted: bool
    reason: str
    """Why it is trusted, or why not."""


@dataclass(frozen=True)
class RegisterOptions:
    """How two scans are registered.

    Attributes:
        voxel: Down-sampling, metres; None takes a twentieth of the distance that half of a scan's
            points are within of its middle: 5 cm for a room.
        keypoints: How many points are described, at most.
        sampling: ``"uniform"``, or ``"iss"``: where the surface bends.
        trials: Triplets that RANSAC draws.
        refine: ``"auto"``, ``"gicp"``, ``"icp"`` or ``"none"``.
        seed: Of the keypoints and of RANSAC.
    """

    voxel: float | None = None
    keypoints: int = _KEYPOINTS
    sampling: str = "uniform"
    trials: int = 400_000
    refine: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what can be checked without scans."""
        if self.sampling not in ("uniform", "iss"):
            raise ValueError(f"sampling must be uniform or iss, got {self.sampling!r}")
        if self.refine not in ("auto", "gicp", "icp", "none"):
            raise ValueError(f"refine must be auto, gicp, icp or none, got {self.refine!r}")
        if self.keypoints < 3 or self.trials < 1 or not (self.voxel is None or self.voxel > 0):
            raise ValueError(
                "at least 3 keypoints, 1 trial and a positive voxel are needed, "
                f"got {self.keypoints}, {self.trials} and {self.voxel}"
            )


class Scan(NamedTuple):
    """A scan made ready to be matched; see `prepare`."""

    points: Points
    """``[N, 3]``, one a voxel."""
    normals: NDArray[np.float64]
    chosen: NDArray[np.int64]
    """Indices of its keypoints."""
    descriptors: Tensor
    """Of these, ``[K, D]``."""
    fine: Points
    """One a half voxel, for the refinement."""


Report = Callable[[int, int], None]
"""Called with how many keypoints of a scan are described, and of how many."""


def choose_voxel(*scans: Points) -> float:
    """Return a size of voxels that fits all scans, metres: see `RegisterOptions.voxel`."""
    sizes = []
    for points in scans:
        spread = np.linalg.norm(points - np.median(points, axis=0), axis=1)
        sizes.append(float(np.median(spread)) / 20)
    voxel = min(sizes)
    if not voxel > 0:
        raise ValueError("a scan's points are all in one place")
    while max(len(voxel_down(points, voxel)) for points in scans) > _MOST_POINTS:
        voxel *= 1.3
    return voxel


def prepare(
    network: Network,
    points: ArrayLike,
    voxel: float,
    options: RegisterOptions | None = None,
    *,
    viewpoint: ArrayLike | None = None,
    name: str = "a scan",
    progress: Report = lambda done, total: None,
) -> Scan:
    """Down-sample a scan, find its normals and keypoints, and describe these.

    Args:
        network: One of `MODELS`, or ``"fpfh"``.
        points: ``[N, 3]``, metres.
        voxel: Down-sampling, metres.
        options: Keypoints, sampling and seed.
        viewpoint: Where the sensor stood, ``[3]``; see `estimate_normals`.
        name: Of the scan, for errors.
        progress: Called with how many keypoints are described, and of how many.

    Raises:
        ValueError: Wrong shape, or fewer than 10 points are left.
    """
    options = options or RegisterOptions()
    dense = as_points(points)
    cloud = voxel_down(dense, voxel)
    if len(cloud) < 10:
        raise ValueError(f"{name} needs 10 points, got {len(cloud)} at voxels of {voxel:g} m")
    normals = estimate_normals(cloud, 3 * voxel, viewpoint=viewpoint)
    if options.sampling == "iss":
        chosen = iss_keypoints(cloud, 6 * voxel, count=options.keypoints)
    else:
        chosen = uniform_keypoints(cloud, options.keypoints, options.seed)
    descriptors = describe_points(
        network,
        cloud,
        normals,
        chosen,
        voxel=voxel,
        dense=dense,
        progress=lambda done: progress(done, len(chosen)),
    )
    return Scan(cloud, normals, chosen, descriptors, voxel_down(dense, voxel / 2))


def register(
    network: Network,
    source: ArrayLike,
    target: ArrayLike,
    options: RegisterOptions | None = None,
    *,
    viewpoints: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
    progress: Report = lambda done, total: None,
) -> Registration:
    """Find the rigid motion that lays one scan on another, from any start.

    Both are down-sampled, keypoints described, mutually nearest descriptors paired; RANSAC on
    triplets proposes some motions, ICP refines each, and the best is judged.

    Args:
        network: One of `MODELS`, trained; or ``"fpfh"``, the classical descriptor.
        source: ``[N, 3]``, metres.
        target: ``[M, 3]``.
        options: How; the defaults suit scans of rooms, buildings and gardens.
        viewpoints: Where each sensor stood, ``[3]`` in its scan's frame, if known: normals are
            then sure of their side, and more descriptors match.
        progress: Called while keypoints are described, first of the source.

    Returns:
        `Registration`. Look at `trusted` before use: scans that do not overlap give a motion, too.
        What looks alike is taken for the same: bare corners of two rooms may be trusted.

    Raises:
        ValueError: Wrong shapes, points that are not finite, fewer than 10 of them.
        ImportError: ``refine="gicp"``, and small-gicp is not installed.

    Example:
        >>> scan = np.random.default_rng(0).normal(size=(400, 3))
        >>> found = register("fpfh", scan, scan + [5, 6, 7], RegisterOptions(voxel=0.2))
        >>> found.motion[:3, 3].round(2).tolist()
        [5.0, 6.0, 7.0]

    Reference:
        The order of steps: Zeng et al., 3DMatch, CVPR 2017, section 5.2.
    """
    options = options or RegisterOptions()
    first, second = as_points(source, "source"), as_points(target, "target")
    if min(len(first), len(second)) < 10:
        raise ValueError(f"each scan needs 10 points, got {len(first)} and {len(second)}")
    voxel = options.voxel or choose_voxel(first, second)
    moved, fixed = (
        prepare(network, points, voxel, options, viewpoint=view, name=name, progress=progress)
        for points, view, name in zip(
            (first, second), viewpoints, ("the first scan", "the second scan"), strict=True
        )
    )
    return register_scans(moved, fixed, voxel, options)


def register_scans(
    source: Scan, target: Scan, voxel: float, options: RegisterOptions | None = None
) -> Registration:
    """Register two scans that `prepare` made ready with the same voxel."""
    options = options or RegisterOptions()
    pairs = match(source, target)
    found = ransac(
        pairs[:, 0],
        pairs[:, 1],
        1.5 * voxel,
        trials=options.trials,
        hypotheses=_HYPOTHESES,
        seed=options.seed,
    )
    tried = _try(source, target, found, voxel, options.refine)
    if not tried:
        return _nothing(pairs, voxel)
    best = tried[0]
    motion, fit = best.motion, best.fit
    if options.refine != "none" and best.evidence > _LEAST_EVIDENCE / 2:
        motion = Refiner(source.fine, target.fine, options.refine)(motion, voxel)
        fit = _agreement(source, target, motion, voxel)
    rival = tried[1].evidence / max(best.evidence, 1e-9) if len(tried) > 1 else 0.0
    trusted, reason = _judge(best, fit, rival)
    return Registration(
        motion=motion,
        correspondences=pairs,
        inliers=best.inliers,
        overlap=fit.overlap,
        evidence=best.evidence,
        rmse=fit.rmse,
        voxel=voxel,
        grip=fit.grip,
        trusted=trusted,
        reason=reason,
    )


def _nothing(pairs: NDArray[np.float64], voxel: float) -> Registration:
    return Registration(
        motion=np.eye(4),
        correspondences=pairs,
        inliers=np.zeros(len(pairs), bool),
        overlap=0.0,
        evidence=0.0,
        rmse=float("nan"),
        voxel=voxel,
        grip=NO_AGREEMENT.grip,
        trusted=False,
        reason=f"of {len(pairs)} correspondences no four fit a rigid motion",
    )


def match(source: Scan, target: Scan) -> NDArray[np.float64]:
    """Pair keypoints whose descriptors are mutually nearest, ``[M, 2, 3]``."""
    found = nearest(source.descriptors, target.descriptors, mutual=True)
    assert found.accepted is not None
    row = np.flatnonzero(found.accepted.numpy())
    column = found.index[row, 0].numpy()
    ends = source.points[source.chosen[row]], target.points[target.chosen[column]]
    return np.stack(ends, axis=1)


class _Tried(NamedTuple):
    motion: Matrix
    inliers: NDArray[np.bool_]
    fit: Agreement
    evidence: float


def _try(
    source: Scan, target: Scan, found: list[Hypothesis], voxel: float, method: str
) -> list[_Tried]:
    """Refine each motion; return those that stay different, the one with most evidence first."""
    refiner = None if method == "none" else Refiner(source.points, target.points, method)
    tried = []
    least = max(4, 0.2 * max((one.inliers.sum() for one in found), default=0))
    for motion, inliers in found:
        if inliers.sum() < least:  # far below the best: chance, and slow to refine
            continue
        refined = motion if refiner is None else refiner(motion, 2 * voxel)
        fit = _agreement(source, target, refined, voxel)
        # What the descriptors say times what the surfaces do: each alone is fooled by planes.
        tried.append(_Tried(refined, inliers, fit, float(inliers.sum()) * fit.balanced))
    kept: list[_Tried] = []
    for one in sorted(tried, key=lambda one: -one.evidence):
        places = [move(other.motion, source.points) for other in kept]
        here = move(one.motion, source.points)
        if all(np.linalg.norm(here - there, axis=1).mean() > 6 * voxel for there in places):
            kept.append(one)
    return kept


def _agreement(source: Scan, target: Scan, motion: Matrix, voxel: float) -> Agreement:
    """Measure on the smaller scan, so that a part of a large one may overlap wholly."""
    if len(source.points) > len(target.points):
        source, target, motion = target, source, inverse(motion)
    return agreement(source.points, source.normals, target.points, target.normals, motion, voxel)


def _judge(best: _Tried, fit: Agreement, rival: float) -> tuple[bool, str]:
    count = int(best.inliers.sum())
    said = f"{count} of {len(best.inliers)} correspondences agree, overlap {fit.overlap:.0%}"
    if count < _LEAST_INLIERS:
        return False, f"{said}: fewer than {_LEAST_INLIERS} may agree by chance"
    if best.evidence < _LEAST_EVIDENCE:
        return False, f"{said}, and little but flat parts: scans that do not meet give as much"
    if fit.grip < _LEAST_GRIP:
        return False, f"{said}: the surfaces slide on each other (grip {fit.grip:.4f})"
    if rival > _RIVAL:
        return False, f"{said}: another motion fits nearly as well ({rival:.0%})"
    return True, f"{said}, rmse {1000 * fit.rmse:.0f} mm; the next motion fits {rival:.0%} as well"
