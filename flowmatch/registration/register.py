"""Registration of two scans: the rigid motion between them, and whether to trust it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from flowmatch.geometry import Matrix, as_motion_matrix, invert_motion, transform_points
from flowmatch.progress import ProgressCallback
from flowmatch.registration.agreement import NO_AGREEMENT, Agreement, agreement
from flowmatch.registration.icp import Refiner
from flowmatch.registration.judge import MIN_SLIP_EIGENVALUE, Candidate, judge
from flowmatch.registration.keypoints import Points, as_points, voxel_down
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.prepare import (
    PreparedScan,
    choose_voxel,
    describe_scan,
    match_descriptors,
    prepare_scan,
    unit_hint,
    with_fewer_keypoints,
)
from flowmatch.registration.ransac import Hypothesis, ransac
from flowmatch.registration.scale import guess_scale, refine_scale
from flowmatch.registration.store import Descriptor, load_descriptors

_WORTH_REFINING = 1.0  # support; less may be due to chance, and takes long to refine
_SAME = 2.0  # voxels between the points of two motions that are the same, on average
_HYPOTHESES = 10
_INLIER = 1.5  # voxels: maximum error of a correspondence that agrees
_INITIAL_RADIUS = 8  # voxels: maximum distance of points under an initial motion
_SCALE_ROUNDS = 3
_SAME_SCALE = 0.002  # change of the scale after which the motion is not estimated again
_ICP_POINTS = 1500  # of the source: enough to tell hypotheses apart
_DEFAULTS = RegisterOptions()


class Registration(NamedTuple):
    """The rigid motion between two scans.

    Attributes:
        motion: ``[4, 4]``, takes points of the source to the target; the identity if no motion was
            found. With a scale, its rotation is multiplied by it.
        correspondences: ``[M, 2, 3]``: pairs of a source and a target keypoint whose descriptors
            are mutual nearest neighbours.
        inliers: ``[M]``: which correspondences agree with the motion.
        overlap: Share of the smaller scan's points that lie on the other scan: within a voxel,
            with parallel normals.
        support: Number of inliers times the balanced overlap, see `agreement.Agreement`: below 8
            for scans that do not overlap. If two descriptors find the same motion, the sum.
        rmse: Root mean square distance of the overlapping points along the normals, metres.
        voxel: Side of the down-sampling voxels, metres.
        slip_eigenvalue: Smallest eigenvalue of the normal equations, see `agreement.Agreement`: 0
            where surfaces can slide on each other.
        trusted: Whether the registration is accepted.
        reason: Reason for accepting or rejecting it.
        scale: Factor of the source; 1 unless `RegisterOptions.scale` asks for it.
        scale_error: Relative error that the scale may have, see `scale.ScaleFit`; 0 unless it was
            estimated.
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
    scale: float = 1.0
    scale_error: float = 0.0


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
            motion that is not rigid or is given with a scale to estimate, or an unknown model.
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
    if options.scale:
        if start is not None:
            raise ValueError("an initial motion fixes the scale: give it or estimate the scale")
        return _register_scaled(first, second, descriptors, options, viewpoints, progress)
    return _register_rigid(first, second, descriptors, options, viewpoints, start, progress)


def _register_scaled(
    source: Points,
    target: Points,
    descriptors: Sequence[Descriptor],
    options: RegisterOptions,
    viewpoints: tuple[ArrayLike | None, ArrayLike | None],
    progress: ProgressCallback | None,
) -> Registration:
    """Estimate the scale and the motion in turn."""
    scale = guess_scale(source, target, descriptors[0], options)
    for _ in range(_SCALE_ROUNDS):
        scaled = scale * source
        views = tuple(
            None if view is None else factor * np.asarray(view, np.float64)
            for factor, view in zip((scale, 1.0), viewpoints, strict=True)
        )
        result = _register_rigid(scaled, target, descriptors, options, views, None, progress)
        if not result.inliers.any():
            return result
        fine = [voxel_down(points, result.voxel / 2) for points in (scaled, target)]
        fit = refine_scale(fine[0], fine[1], result.motion, result.voxel)
        motion = fit.motion @ np.diag([scale, scale, scale, 1.0])
        correspondences = result.correspondences / [[[scale], [1.0]]]
        scale *= fit.scale
        if abs(fit.scale - 1) < _SAME_SCALE:
            break
    reason = f"scale {scale:.6g} within {fit.error:.1%}; {result.reason}"
    trusted = result.trusted
    if trusted and fit.freedom < MIN_SLIP_EIGENVALUE:
        trusted = False
        reason += f"; the surfaces fit at other scales too (slip eigenvalue {fit.freedom:.4f})"
    return result._replace(
        motion=motion,
        correspondences=correspondences,
        scale=scale,
        scale_error=fit.error,
        trusted=trusted,
        reason=reason,
    )


def _register_rigid(
    first: Points,
    second: Points,
    descriptors: Sequence[Descriptor],
    options: RegisterOptions,
    viewpoints: tuple[ArrayLike | None, ...],
    start: Matrix | None,
    progress: ProgressCallback | None,
) -> Registration:
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
    for k, descriptor in enumerate(descriptors):
        if k > 0:
            scans = [with_fewer_keypoints(scan, options.seed) for scan in scans]
        described = [describe_scan(scan, descriptor, voxel, progress=progress) for scan in scans]
        before = results[-1] if results and start is None else None
        results.append(register_prepared(scans, described, voxel, options, start, before))
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
    before: Registration | None = None,
) -> Registration:
    """Register two scans that were prepared and described with the same voxel.

    Args:
        scans: Source and target.
        descriptors: Descriptors of their keypoints, ``[K, D]`` each.
        voxel: Side of the down-sampling voxels, metres.
        options: RANSAC and ICP.
        initial: Motion to refine in place of RANSAC's.
        before: Registration of the scans by another descriptor, which supports the same motion.
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
    if options.icp and best.support > _WORTH_REFINING:
        motion = Refiner(source.fine, target.fine)(motion, voxel)
        fit = _measure_agreement(source, target, motion, voxel)
    shared = fit.overlap * min(len(source.points), len(target.points))
    support, count = best.support, int(best.inliers.sum())
    confirmed: bool | None = None
    if before is not None and before.inliers.any():
        confirmed = _are_same(motion, before.motion, source.points, voxel)
    if before is not None and confirmed:
        support, count = support + before.support, count + int(before.inliers.sum())
    trusted, reason = judge(candidates, fit, shared, voxel, support, count, confirmed)
    return Registration(
        motion=motion,
        correspondences=pairs,
        inliers=best.inliers,
        overlap=fit.overlap,
        support=support,
        rmse=fit.rmse,
        voxel=voxel,
        slip_eigenvalue=fit.slip_eigenvalue,
        trusted=trusted,
        reason=reason,
    )


def _are_same(first: Matrix, second: Matrix, points: Points, voxel: float) -> bool:
    ends = (transform_points(motion, points) for motion in (first, second))
    return bool(np.linalg.norm(np.subtract(*ends), axis=1).mean() < _SAME * voxel)


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


def _refine_hypotheses(
    source: PreparedScan,
    target: PreparedScan,
    hypotheses: list[Hypothesis],
    voxel: float,
    icp: bool,
) -> list[Candidate]:
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
        candidates.append(Candidate(refined, inliers, fit, support))
    distinct: list[Candidate] = []
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
