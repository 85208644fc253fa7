"""Evaluation of descriptors and registrations on fragments with known motions."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree  # type: ignore[import-untyped]
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

from flowmatch.geometry import Matrix, invert_motion, transform_points
from flowmatch.metrics import fpr_at_recall
from flowmatch.progress import ProgressCallback
from flowmatch.registration.agreement import pair_information
from flowmatch.registration.data.datasets import FragmentPair
from flowmatch.registration.describe import describe_indices
from flowmatch.registration.evaluation.methods import View
from flowmatch.registration.evaluation.metrics import (
    inlier_ratio,
    registration_error,
)
from flowmatch.registration.keypoints import Points, as_points, voxel_down
from flowmatch.registration.networks import FieldDescriptor
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.prepare import (
    PreparedScan,
    choose_voxel,
    describe_scan,
    match_descriptors,
    prepare_scan,
)
from flowmatch.registration.register import register_prepared
from flowmatch.registration.store import Descriptor

TAU1, TAU2 = 0.1, 0.05  # maximum inlier error, metres; minimum inlier ratio
MIN_OVERLAP = 0.3  # pairs with less are not evaluated
_SHARED = 0.03  # metres within which a point counts as shared
_MAX_ERROR = 0.04  # square metres, of a correct `registration_error`
_KEYPOINT_PAIRS = 200
_DEFAULTS = RegisterOptions()

Method: TypeAlias = (
    Descriptor | Callable[[Points, Points, tuple[View, View], RegisterOptions], tuple[Matrix, bool]]
)
"""A descriptor; or a function of the source, the target, the viewpoints and the options that
returns a motion and whether to trust it."""


class RegistrationScores(NamedTuple):
    """Scores of one method on original or rotated fragments; NaN without data.

    Attributes:
        method: Name of the method.
        rotated: Whether the fragments were rotated at random.
        pairs: Number of pairs that overlap by 30 % or more.
        fpr95: False positive rate of keypoint pairs at a recall of 95 %.
        inlier_ratio: Share of mutual nearest descriptors within 10 cm, a mean over pairs.
        feature_match_recall: Share of pairs with an inlier ratio above 5 %, a mean over scenes.
        recall: Share of overlapping pairs, consecutive fragments excluded, that are registered
            within 20 cm and trusted.
        precision: Share of trusted registrations that are correct.
        seconds: Mean time per pair.
    """

    method: str
    rotated: bool
    pairs: int
    fpr95: float
    inlier_ratio: float
    feature_match_recall: float
    recall: float
    precision: float
    seconds: float


@dataclass
class _Tally:
    """Measurements of one method.

    Attributes:
        distances: Descriptor distances of keypoint pairs.
        correct: Which of these pairs are correct.
        ratios: Scene and inlier ratio of each overlapping pair.
        recalled: Scene of each overlapping pair, and whether it was registered correctly.
        trusted: Scene of each trusted registration, and whether it is correct.
        seconds: Time of each pair.
        pairs: Number of overlapping pairs.
    """

    distances: list[NDArray[np.float64]] = field(default_factory=list)
    correct: list[NDArray[np.bool_]] = field(default_factory=list)
    ratios: list[tuple[str, float]] = field(default_factory=list)
    recalled: list[tuple[str, bool]] = field(default_factory=list)
    trusted: list[tuple[str, bool]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    pairs: int = 0


class _Case(NamedTuple):
    pair: FragmentPair
    source: Points
    target: Points
    truth: NDArray[np.float64] | None
    information: NDArray[np.float64] | None
    overlaps: bool
    views: tuple[View, View]


def evaluate(
    pairs: Sequence[FragmentPair],
    methods: Mapping[str, Method],
    options: RegisterOptions = _DEFAULTS,
    *,
    rotated: Sequence[bool] = (False, True),
    progress: ProgressCallback | None = None,
) -> list[RegistrationScores]:
    """Evaluate methods on the same fragments, original and rotated at random.

    Args:
        pairs: Pairs from `find_fragments`.
        methods: By name, descriptor networks, ``"fpfh"``, or functions that register two scans.
        options: Options of the registrations.
        rotated: Whether to evaluate original (False) and rotated (True) fragments.
        progress: Called with the stage ``"evaluate"`` and the number of evaluations done.

    Returns:
        A row for each method and each of `rotated`.

    Raises:
        ValueError: No pairs or methods, or a file is damaged.

    Reference:
        Zeng et al., 3DMatch, CVPR 2017, section 5; Deng et al., PPFNet, CVPR 2018 (feature-match
        recall).
    """
    if not pairs or not methods:
        raise ValueError(f"pairs and methods are needed, got {len(pairs)} and {len(methods)}")
    tallies = {(name, is_rotated): _Tally() for name in methods for is_rotated in rotated}
    total, done = len(pairs) * len(tallies), 0
    for number, pair in enumerate(pairs):
        case = _read_case(pair)
        for is_rotated in rotated:
            variant = _rotate(case, number) if is_rotated else case
            for name, network in methods.items():
                _measure(network, variant, options, tallies[name, is_rotated])
                done += 1
                if progress is not None:
                    progress("evaluate", done, total)
    return [_scores(name, is_rotated, tally) for (name, is_rotated), tally in tallies.items()]


def _read_case(pair: FragmentPair) -> _Case:
    source, target = (as_points(read()) for read in (pair.source, pair.target))
    origin = np.zeros(3) if pair.viewpoints else None
    truth, information = pair.truth, pair.information
    overlaps = truth is not None
    if truth is not None and information is None:
        moved = transform_points(truth, voxel_down(source, 0.05))
        dense = cKDTree(voxel_down(target, 0.01))
        near = np.isfinite(dense.query(moved, distance_upper_bound=_SHARED)[0])
        overlaps = pair.listed or near.mean() >= MIN_OVERLAP
        if near.any():
            information = pair_information(transform_points(invert_motion(truth), moved[near]))
    return _Case(pair, source, target, truth, information, overlaps, (origin, origin))


def _rotate(case: _Case, seed: int) -> _Case:
    """Rotate both fragments about the origin, each by a random rotation."""
    motions = []
    for rotation in Rotation.random(2, random_state=seed).as_matrix():
        motion = np.eye(4)
        motion[:3, :3] = rotation
        motions.append(motion)
    truth = None if case.truth is None else motions[1] @ case.truth @ invert_motion(motions[0])
    information = case.information
    if information is not None:
        block = np.kron(np.eye(2), motions[0][:3, :3])
        information = block @ information @ block.T
    return case._replace(
        source=transform_points(motions[0], case.source),
        target=transform_points(motions[1], case.target),
        truth=truth,
        information=information,
    )


def _measure(method: Method, case: _Case, options: RegisterOptions, tally: _Tally) -> None:
    start = time.monotonic()
    voxel = options.voxel or choose_voxel(case.source, case.target)
    if callable(method) and not isinstance(method, FieldDescriptor):
        motion, trusted = method(
            case.source, case.target, case.views, dataclasses.replace(options, voxel=voxel)
        )
        tally.seconds.append(time.monotonic() - start)
    else:
        scans = [
            prepare_scan(points, voxel, options, viewpoint=view)
            for points, view in zip((case.source, case.target), case.views, strict=True)
        ]
        descriptors = [describe_scan(scan, method, voxel) for scan in scans]
        result = register_prepared(scans, descriptors, voxel, options)
        motion, trusted = result.motion, result.trusted
        tally.seconds.append(time.monotonic() - start)
        if case.truth is not None and case.overlaps:
            pairs = match_descriptors(scans[0], scans[1], *descriptors)
            tally.ratios.append((case.pair.scene, inlier_ratio(pairs, case.truth, TAU1)))
            _add_keypoint_pairs(method, case, scans, voxel, options, tally)
    tally.pairs += case.overlaps and case.truth is not None
    correct = False
    if case.truth is not None and case.information is not None:
        correct = registration_error(motion, case.truth, case.information) <= _MAX_ERROR
    if case.pair.neighbours:
        return
    if case.overlaps:
        tally.recalled.append((case.pair.scene, correct and trusted))
    if trusted:
        tally.trusted.append((case.pair.scene, correct))


def _add_keypoint_pairs(
    network: Descriptor,
    case: _Case,
    scans: Sequence[PreparedScan],
    voxel: float,
    options: RegisterOptions,
    tally: _Tally,
) -> None:
    """Add descriptor distances of corresponding points, and of as many other pairs."""
    assert case.truth is not None
    source, target = scans
    moved = transform_points(case.truth, source.points)
    distance, index = cKDTree(target.points).query(moved, distance_upper_bound=voxel / 2)
    shared = np.flatnonzero(np.isfinite(distance))
    shared = np.random.default_rng(options.seed).permutation(shared)[:_KEYPOINT_PAIRS]
    if len(shared) < 2:
        return
    first, second = (
        describe_indices(network, scan.points, scan.normals, chosen, voxel=voxel, dense=dense)
        for scan, chosen, dense in (
            (source, shared, case.source),
            (target, index[shared], case.target),
        )
    )
    # Shifted by half, so that no point is paired with itself.
    for other in (second, second.roll(len(shared) // 2, 0)):
        tally.distances.append((first - other).norm(dim=1).double().numpy())
    tally.correct += [np.ones(len(shared), bool), np.zeros(len(shared), bool)]


def _scores(method: str, rotated: bool, tally: _Tally) -> RegistrationScores:
    return RegistrationScores(
        method=method,
        rotated=rotated,
        pairs=tally.pairs,
        fpr95=_fpr95(tally),
        inlier_ratio=float(np.mean([r for _, r in tally.ratios])) if tally.ratios else float("nan"),
        feature_match_recall=_mean_of_scenes([(s, r > TAU2) for s, r in tally.ratios]),
        recall=_mean_of_scenes(tally.recalled),
        precision=_mean_of_scenes(tally.trusted),
        seconds=float(np.mean(tally.seconds)),
    )


def _fpr95(tally: _Tally) -> float:
    if not tally.distances:
        return float("nan")
    distances, right = np.concatenate(tally.distances), np.concatenate(tally.correct)
    return fpr_at_recall(-distances[right], -distances[~right])


def _mean_of_scenes(entries: Sequence[tuple[str, bool]]) -> float:
    scenes: dict[str, list[bool]] = {}
    for scene, value in entries:
        scenes.setdefault(scene, []).append(value)
    return float(np.mean([np.mean(v) for v in scenes.values()])) if scenes else float("nan")
