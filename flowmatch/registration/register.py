"""Registration of two scans: the rigid motion between them, and whether to trust it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from flowmatch.geometry import Matrix, as_motion_matrix, invert_motion, transform_points
from flowmatch.ops import nearest
from flowmatch.progress import ProgressCallback
from flowmatch.registration.agreement import NO_AGREEMENT, Agreement, agreement
from flowmatch.registration.icp import Refiner
from flowmatch.registration.keypoints import as_points
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.prepare import (
    PreparedScan,
    choose_voxel,
    describe_scan,
    prepare_scan,
    unit_hint,
)
from flowmatch.registration.ransac import Hypothesis, ransac
from flowmatch.registration.store import load_descriptors

# On frames of an office, described by the shipped network: 19 correct motions of frames that
# overlap by a fifth to two thirds had a support of 2 to 436, 14 of them more than 10. Of 40 pairs
# of frames without overlap the maximum was 8; a cabinet mistaken for a sofa had 12.
_MIN_SUPPORT = 9.0
_MIN_INLIERS = 10
_MIN_SLIP_EIGENVALUE = 0.002
# A small thing on a table: 0.0007, a support of 140 to 250, a standard error of 0.02 voxels.
# Wrong motions in an office: a support of 15 or less, an error of 0.05 voxels or more.
_MIN_SURE_SLIP_EIGENVALUE = 0.0003
_MIN_SURE_SUPPORT = 50.0
_MAX_SLIP_ERROR = 0.05  # voxels, standard error of the motion along which the surfaces slip most
_MAX_RIVAL = 0.7  # of the best motion's support
# In rooms of which only the walls are alike, the next motion overlapped by 0.93 of the best one's
# or more; in 64 correct registrations of an office, a hall and a room by 0.74 or less.
_MAX_RIVAL_OVERLAP = 0.85
_HYPOTHESES = 10
_INLIER = 1.5  # voxels: maximum error of a correspondence that agrees
_INITIAL_RADIUS = 8  # voxels: maximum distance of points under an initial motion
_ICP_POINTS = 1500  # of the source: enough to tell hypotheses apart
_DEFAULTS = RegisterOptions()


class Registration(NamedTuple):
    """The rigid motion between two scans.

    Attributes:
        motion: ``[4, 4]``, takes points of the source to the target; the identity if no motion was
            found.
        correspondences: ``[M, 2, 3]``: pairs of a source and a target keypoint whose descriptors
            are mutual nearest neighbours.
        inliers: ``[M]``: which correspondences agree with the motion.
        overlap: Share of the smaller scan's points that lie on the other scan: within a voxel,
            with parallel normals.
        support: Number of inliers times the balanced overlap, see `agreement.Agreement`: below 8
            for scans that do not overlap.
        rmse: Root mean square distance of the overlapping points along the normals, metres.
        voxel: Side of the down-sampling voxels, metres.
        slip_eigenvalue: Smallest eigenvalue of the normal equations, see `agreement.Agreement`: 0
            where surfaces can slide on each other.
        trusted: Whether the registration is accepted.
        reason: Reason for accepting or rejecting it.
    """

    motion: NDArray[np.float64]
    correspondences: NDArray[np.float64]
    inliers: NDArray[np.bool_]
    overlap: float
    support: float
    rmse: float
    voxel: float
    slip_eigenvalue: float
    trusted: bool
    reason: str


def register_scans(
    source: ArrayLike,
    target: ArrayLike,
    *,
    model: str | Path | nn.Module = "auto",
    device: str | torch.device | None = None,
    options: RegisterOptions = _DEFAULTS,
    viewpoints: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
    initial: ArrayLike | None = None,
    progress: ProgressCallback | None = None,
) -> Registration:
    """Find the rigid motion that lays one scan on another, from any initial position.

    Both scans are down-sampled, their keypoints described, and mutual nearest descriptors matched;
    RANSAC on triplets proposes motions, ICP refines each, and the best one is judged.

    Args:
        source: ``[N, 3]``, metres.
        target: ``[M, 3]``.
        model: ``"auto"``: the classical descriptor FPFH and, if its result is not trusted, the
            default network, which takes ten times as long. Or ``"fpfh"``, the name of shipped
            weights, a ``.safetensors`` file or a descriptor network.
        device: Device of the network; None takes a GPU where there is one, and leaves a given
            network on its device.
        options: Voxel size, keypoints, RANSAC and ICP; the defaults suit scans of rooms, buildings
            and gardens.
        viewpoints: Positions of the two sensors, each ``[3]`` in its scan's frame, if known: they
            orient the normals reliably, and more descriptors match.
        initial: A motion ``[4, 4]`` from which points are off by about 8 voxels at most. It is
            refined in place of motions that RANSAC proposes, and no other motion is a rival.
        progress: Called with the number of keypoints described, first of the source.

    Returns:
        `Registration`. Check `trusted` before use: scans without overlap give a motion as well.
        Similar surfaces may be confused: bare corners of two rooms may be trusted. Two motions
        that overlap about equally are ambiguous, and not trusted.

    Raises:
        ValueError: Wrong shapes, points that are not finite, fewer than 10 of them, an initial
            motion that is not rigid, or an unknown model.
        FileNotFoundError: The file of weights does not exist.

    Example:
        >>> scan = np.random.default_rng(0).normal(size=(400, 3))
        >>> options = RegisterOptions(voxel=0.2)
        >>> result = register_scans(scan, scan + [5, 6, 7], options=options)
        >>> result.motion[:3, 3].round(2).tolist()
        [5.0, 6.0, 7.0]

    Reference:
        The order of steps: Zeng et al., 3DMatch, CVPR 2017, section 5.2.
    """
    first, second = as_points(source, "source"), as_points(target, "target")
    if min(len(first), len(second)) < 10:
        raise ValueError(f"each scan needs 10 points, got {len(first)} and {len(second)}")
    start = None if initial is None else as_motion_matrix(initial)
    descriptors = load_descriptors(model, device=device)
    voxel = options.voxel or choose_voxel(first, second)
    hint = unit_hint(first, second)
    try:
        scans = [
            prepare_scan(points, voxel, options, viewpoint=view, name=name)
            for points, view, name in zip(
                (first, second), viewpoints, ("the first scan", "the second scan"), strict=True
            )
        ]
    except ValueError as error:
        raise ValueError(f"{error}{hint}") from error
    results: list[Registration] = []
    for descriptor in descriptors:
        described = [describe_scan(scan, descriptor, voxel, progress=progress) for scan in scans]
        results.append(register_prepared(scans, described, voxel, options, start))
        if results[-1].trusted:
            return results[-1]
    result = max(results, key=lambda result: result.support)
    return result._replace(reason=result.reason + hint)


def register_prepared(
    scans: Sequence[PreparedScan],
    descriptors: Sequence[Tensor],
    voxel: float,
    options: RegisterOptions = _DEFAULTS,
    initial: Matrix | None = None,
) -> Registration:
    """Register two scans that were prepared and described with the same voxel.

    Args:
        scans: Source and target.
        descriptors: Descriptors of their keypoints, ``[K, D]`` each.
        voxel: Side of the down-sampling voxels, metres.
        options: RANSAC and ICP.
        initial: Motion to refine in place of RANSAC's.
    """
    source, target = scans
    pairs = match_descriptors(source, target, *descriptors)
    if initial is None:
        hypotheses = ransac(
            pairs[:, 0],
            pairs[:, 1],
            _INLIER * voxel,
            trials=options.trials,
            hypotheses=_HYPOTHESES,
            seed=options.seed,
        )
    else:
        hypotheses = [_refine_initial(source, target, pairs, initial, voxel, options.icp)]
    candidates = _refine_hypotheses(source, target, hypotheses, voxel, options.icp)
    if not candidates:
        return _no_registration(pairs, voxel)
    best = candidates[0]
    motion, fit = best.motion, best.fit
    if options.icp and best.support > _MIN_SUPPORT / 2:
        motion = Refiner(source.fine, target.fine)(motion, voxel)
        fit = _measure_agreement(source, target, motion, voxel)
    shared = fit.overlap * min(len(source.points), len(target.points))
    trusted, reason = _judge(candidates, fit, shared, voxel)
    return Registration(
        motion=motion,
        correspondences=pairs,
        inliers=best.inliers,
        overlap=fit.overlap,
        support=best.support,
        rmse=fit.rmse,
        voxel=voxel,
        slip_eigenvalue=fit.slip_eigenvalue,
        trusted=trusted,
        reason=reason,
    )


def _refine_initial(
    source: PreparedScan,
    target: PreparedScan,
    pairs: NDArray[np.float64],
    initial: Matrix,
    voxel: float,
    icp: bool,
) -> Hypothesis:
    """Refine an initial motion, and find the correspondences that agree with it."""
    motion = initial
    if icp:
        motion = Refiner(source.points, target.points)(initial, _INITIAL_RADIUS * voxel)
    error = np.linalg.norm(transform_points(motion, pairs[:, 0]) - pairs[:, 1], axis=1)
    return Hypothesis(motion, error < _INLIER * voxel)


def _no_registration(pairs: NDArray[np.float64], voxel: float) -> Registration:
    return Registration(
        motion=np.eye(4),
        correspondences=pairs,
        inliers=np.zeros(len(pairs), bool),
        overlap=0.0,
        support=0.0,
        rmse=float("nan"),
        voxel=voxel,
        slip_eigenvalue=NO_AGREEMENT.slip_eigenvalue,
        trusted=False,
        reason=f"of {len(pairs)} correspondences no four fit a rigid motion",
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


class _Candidate(NamedTuple):
    motion: Matrix
    inliers: NDArray[np.bool_]
    fit: Agreement
    support: float


def _refine_hypotheses(
    source: PreparedScan,
    target: PreparedScan,
    hypotheses: list[Hypothesis],
    voxel: float,
    icp: bool,
) -> list[_Candidate]:
    """Refine each motion by ICP; return the distinct ones, the one with most support first."""
    refiner = Refiner(source.points, target.points, _ICP_POINTS) if icp else None
    candidates = []
    minimum = max(4, 0.1 * max((h.inliers.sum() for h in hypotheses), default=0))
    for motion, inliers in hypotheses:
        if inliers.sum() < minimum:  # far below the best: a chance result, and slow to refine
            continue
        refined = motion if refiner is None else refiner(motion, 2 * voxel)
        fit = _measure_agreement(source, target, refined, voxel)
        # Descriptor inliers times surface overlap: either alone is misled by planes.
        support = float(inliers.sum()) * fit.balanced
        candidates.append(_Candidate(refined, inliers, fit, support))
    distinct: list[_Candidate] = []
    for candidate in sorted(candidates, key=lambda candidate: -candidate.support):
        moved = transform_points(candidate.motion, source.points)
        others = [transform_points(other.motion, source.points) for other in distinct]
        if all(np.linalg.norm(moved - other, axis=1).mean() > 6 * voxel for other in others):
            distinct.append(candidate)
    return distinct


def _measure_agreement(
    source: PreparedScan, target: PreparedScan, motion: Matrix, voxel: float
) -> Agreement:
    """Measure on the smaller scan, so that a part of a large scan can overlap completely."""
    if len(source.points) > len(target.points):
        source, target, motion = target, source, invert_motion(motion)
    return agreement(
        source.points,
        source.normals,
        target.points,
        target.normals,
        motion,
        voxel,
        weights=source.weights,
    )


def _holds(best: _Candidate, fit: Agreement, shared: float, voxel: float) -> bool:
    """Return whether the surfaces hold each other in all six directions.

    A small share of the surfaces is enough if very many correspondences agree, and the surfaces'
    noise leaves the motion hardly any play.
    """
    if fit.slip_eigenvalue >= _MIN_SLIP_EIGENVALUE:
        return True
    if fit.slip_eigenvalue < _MIN_SURE_SLIP_EIGENVALUE or best.support < _MIN_SURE_SUPPORT:
        return False
    error = fit.rmse / np.sqrt(fit.slip_eigenvalue * shared)
    return bool(error < _MAX_SLIP_ERROR * voxel)


def _judge(
    candidates: list[_Candidate], fit: Agreement, shared: float, voxel: float
) -> tuple[bool, str]:
    """Return whether a registration is accepted, and the reason.

    Args:
        candidates: The distinct candidates, the one with most support first.
        fit: Agreement of the first one after the final refinement.
        shared: Number of points in the overlap.
        voxel: Side of the down-sampling voxels, metres.
    """
    best, others = candidates[0], candidates[1:]
    rival = max((other.support for other in others), default=0.0) / max(best.support, 1e-9)
    # Chance matches on what was moved may add to the support of one of two motions that the
    # surfaces show to be equal.
    twin = max((other.fit.balanced for other in others), default=0.0)
    twin /= max(best.fit.balanced, 1e-9)
    count = int(best.inliers.sum())
    summary = f"{count} of {len(best.inliers)} correspondences agree, overlap {fit.overlap:.0%}"
    if count < _MIN_INLIERS:
        return False, f"{summary}: fewer than {_MIN_INLIERS} inliers may be due to chance"
    if best.support < _MIN_SUPPORT:
        return (
            False,
            f"{summary}, mostly on flat surfaces: scans without overlap get as much support",
        )
    if not _holds(best, fit, shared, voxel):
        return False, (
            f"{summary}: degenerate geometry: motion unconstrained along a surface "
            f"(slip eigenvalue {fit.slip_eigenvalue:.4f})"
        )
    if rival > _MAX_RIVAL:
        return False, f"{summary}: ambiguous: another motion fits nearly as well ({rival:.0%})"
    if twin > _MAX_RIVAL_OVERLAP:
        return False, (
            f"{summary}: ambiguous: on another motion the surfaces overlap as well ({twin:.0%})"
        )
    # From a metre on, the scans are large or not in metres.
    rmse = f"{1000 * fit.rmse:.0f} mm" if fit.rmse < 1 else f"{fit.rmse:.4g} in the scans' unit"
    return True, (f"{summary}, rmse {rmse}; the next-best motion has {rival:.0%} of its support")
