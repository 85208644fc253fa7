"""Descriptors beside each other: the same keypoints, the same number of matches, known truth."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from flowmatch.io import read_image
from flowmatch.matching.data.sequences import ImagePair, read_homography
from flowmatch.matching.data.stacks import descriptor_distances
from flowmatch.matching.describe import describe_keypoints
from flowmatch.matching.evaluation.metrics import (
    corner_error,
    project,
)
from flowmatch.matching.evaluation.scores import Evaluation, PairScores, average
from flowmatch.matching.filter import score_matches
from flowmatch.matching.keypoints import Keypoints, detect_keypoints
from flowmatch.matching.match import Features, fit_geometry
from flowmatch.matching.networks import DescriptorNetwork, PatchComparator
from flowmatch.matching.synthetic.views import find_again, project_keypoints
from flowmatch.metrics import average_precision, fpr_at_recall
from flowmatch.ops import nearest
from flowmatch.progress import ProgressCallback

THRESHOLD = 3.0  # pixels, of a correct match
_RATIO = 0.8  # that of `match_images`
_MANY = 8000  # keypoints, that a time is for

# What describes keypoints: a network or a name, and how far its patches reach, in scales.
Method = tuple[DescriptorNetwork | str, float | None]


def evaluate(
    pairs: Sequence[ImagePair],
    methods: Mapping[str, DescriptorNetwork | str | Method],
    *,
    filter_models: Mapping[str, PatchComparator] | None = None,
    detector: str = "sift",
    keypoints: int = 2000,
    precision: str = "float32",
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Compare descriptors on images with known homographies.

    All methods describe the same keypoints. Their matches are mutual nearest neighbours, ranked by
    the ratio of the nearest to the second nearest distance. For each pair of images, every method
    is scored on the same number of best matches: that of the method with the fewest.

    Filter networks re-rank the result of the first method: its nearest neighbours, its matches and
    its pairs of corresponding and non-corresponding patches are ranked by the network's similarity.

    Args:
        pairs: Pairs of `find_image_pairs`. Pairs that cannot be read are skipped and listed.
        methods: Methods by name: a model of `describe_keypoints`, or a tuple of model and
            magnification.
        filter_models: Networks that compare patches, by name; rows ``FIRST + NAME`` of the result.
        detector: Detector of `detect_keypoints`.
        keypoints: Maximum number of keypoints per image.
        precision: Precision of descriptor networks, see `describe_keypoints`.
        progress: Progress callback, called after each pair.

    Returns:
        Scores of each sequence and group, and their mean.

    Raises:
        ValueError: There are no methods, or no pair can be read.

    Reference:
        Mean matching accuracy: Dusmanu et al., D2-Net, CVPR 2019. Average precision: Balntas et
        al., HPatches, CVPR 2017. Homographies: DeTone et al., SuperPoint, CVPRW 2018.
    """
    if not methods:
        raise ValueError("at least one method is needed for an evaluation, got none")
    complete = {
        name: method if isinstance(method, tuple) else (method, None)
        for name, method in methods.items()
    }
    measured: list[tuple[ImagePair, str, PairScores]] = []
    skipped: list[tuple[str, str]] = []
    known: dict[Any, tuple[Features, float]] = {}  # of the first image of the sequence
    for done, pair in enumerate(pairs, start=1):
        try:
            images = read_image(pair.first), read_image(pair.second)
            truth = read_homography(pair.homography)
        except (ValueError, OSError) as error:
            skipped.append((pair.name, str(error)))
        else:
            points = [detect_keypoints(image, detector, keypoints=keypoints) for image in images]
            known = {key: value for key, value in known.items() if key[0] == pair.first}
            described = {}
            for name, method in complete.items():
                if (pair.first, name) not in known:
                    known[pair.first, name] = _describe(method, images[0], points[0], precision)
                second = _describe(method, images[1], points[1], precision)
                described[name] = known[pair.first, name], second
            scores = _score(described, filter_models or {}, images, truth)
            measured += [(pair, name, score) for name, score in scores.items()]
        if progress is not None:
            progress("pairs", done, len(pairs))
    if not measured:
        reason = f", the first because {skipped[0][1]}" if skipped else ""
        raise ValueError(f"none of the {len(pairs)} pairs can be read{reason}")
    return Evaluation(
        sequences=average(measured, lambda pair: pair.sequence),
        groups=average([m for m in measured if m[0].group], lambda pair: pair.group),
        mean=average(measured, lambda _: "mean"),
        skipped=tuple(skipped),
    )


def _describe(
    method: Method, image: ArrayLike, points: Keypoints, precision: str
) -> tuple[Features, float]:
    """Return features and the seconds that 8000 of them take."""
    network, magnification = method
    start = time.perf_counter()
    descriptors = describe_keypoints(
        image, points, model=network, magnification=magnification, precision=precision
    )
    if descriptors.is_cuda:
        torch.cuda.synchronize(descriptors.device)
    return Features(points, descriptors), _for_many(start, len(points.xy))


def _for_many(start: float, count: int) -> float:
    return _MANY * (time.perf_counter() - start) / max(1, count)


class _Ranked(NamedTuple):
    """What one method says of two images."""

    nearest: NDArray[np.int64]  # [N], of each keypoint in the other image; -1 where there is none
    distance: NDArray[np.float32]  # [N], or anything that is less where it is surer
    mutual: NDArray[np.int64]  # [K], those that are each other's nearest, the best first
    kept: NDArray[np.bool_]  # [K], which of them are matches
    same: NDArray[np.float32]  # similarities of patches of one point
    different: NDArray[np.float32]  # of two
    seconds: float


_Known = tuple[NDArray[np.int64], NDArray[np.int64]]


def _rank(
    first: Features, second: Features, known: tuple[_Known, _Known], seconds: float
) -> _Ranked:
    q, r = first.descriptors, second.descriptors
    found = nearest(q, r, 2, "hamming" if q.dtype == torch.uint8 else "l2", mutual=True)
    index, distance = found.index.cpu().numpy(), found.distance.float().cpu().numpy()
    assert found.accepted is not None
    chosen = np.flatnonzero(found.accepted.cpu().numpy() & (index[:, 1] >= 0))
    ratio = distance[chosen, 0] / np.maximum(distance[chosen, 1], 1e-12)
    order = np.argsort(ratio, kind="stable")
    same, different = (-descriptor_distances(q.cpu(), r.cpu(), i, j) for i, j in known)
    kept = ratio[order] <= _RATIO
    return _Ranked(index[:, 0], distance[:, 0], chosen[order], kept, same, different, seconds)


def _judge(
    network: PatchComparator,
    base: _Ranked,
    images: tuple[ArrayLike, ArrayLike],
    keypoints: tuple[Keypoints, Keypoints],
    known: tuple[_Known, _Known],
) -> _Ranked:
    """Rank what a descriptor found by what a network says of its patches."""
    there = np.flatnonzero(base.nearest >= 0)
    start = time.perf_counter()
    similar = np.full(len(base.nearest), -np.inf, np.float32)
    pairs = np.stack([there, base.nearest[there]], axis=1)
    similar[there] = score_matches(images, keypoints, pairs, model=network)
    seconds = _for_many(start, len(there))
    order = np.argsort(-similar[base.mutual], kind="stable")
    mutual = base.mutual[order]
    kept = base.kept[order] & (similar[mutual] > 0)
    same, different = (
        score_matches(images, keypoints, np.stack(pair, axis=1), model=network) for pair in known
    )
    return _Ranked(base.nearest, -similar, mutual, kept, same, different, seconds)


def _score(
    described: Mapping[str, tuple[tuple[Features, float], tuple[Features, float]]],
    filter_models: Mapping[str, PatchComparator],
    images: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    truth: NDArray[np.float64],
) -> dict[str, PairScores]:
    (first, _), (second, _) = next(iter(described.values()))
    a, b = first.keypoints, second.keypoints
    there = project(a.xy, truth)
    known = _known_pairs(b, find_again(project_keypoints(a, truth), b))
    ranked = {
        name: _rank(one, other, known, (fast + slow) / 2)
        for name, ((one, fast), (other, slow)) in described.items()
    }
    base = next(iter(ranked))
    for name, network in filter_models.items():
        ranked[f"{base} + {name}"] = _judge(network, ranked[base], images, (a, b), known)
    possible = int((_closest(there, b.xy) <= THRESHOLD).sum())
    count = min(len(one.mutual) for one in ranked.values())
    scores = {}
    for name, one in ranked.items():
        found = one.nearest >= 0
        right = np.zeros(len(found), np.bool_)
        right[found] = _is_right(there[found], b.xy[one.nearest[found]])
        best, kept = one.mutual[:count], right[one.mutual[one.kept]]
        order = np.argsort(one.distance, kind="stable")
        order = order[one.nearest[order] >= 0]
        pairs = np.stack([best, one.nearest[best]], axis=1)
        fit = fit_geometry(a, b, pairs, one.distance[best], threshold=THRESHOLD)
        scores[name] = PairScores(
            matches=count,
            accuracy=float(right[best].mean()) if count else 0.0,
            recall=float(right[best].sum() / possible) if possible else math.nan,
            fpr95=fpr_at_recall(one.same, one.different),
            precision=average_precision(right[order], possible),
            corner_error=corner_error(fit.matrix, truth, images[0].shape[:2]),
            kept=len(kept),
            purity=float(kept.mean()) if len(kept) else math.nan,
            seconds=one.seconds,
        )
    return scores


def _known_pairs(second: Keypoints, alike: NDArray[np.int64]) -> tuple[_Known, _Known]:
    """Return pairs of keypoints of one point, and of each such with another one's."""
    known = np.flatnonzero(alike >= 0)
    other = np.random.default_rng(0).permutation(alike[known])
    xy = second.xy
    apart = np.hypot(*(xy[alike[known]] - xy[other]).T) > 2 * THRESHOLD
    return (known, alike[known]), (known[apart], other[apart])


def _is_right(there: NDArray[np.float64], found: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(np.hypot(*(there - found).T) <= THRESHOLD)


def _closest(there: NDArray[np.float64], points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return how far the closest of some points is, ``[N]``; inf where there is none."""
    wanted = torch.from_numpy(there).float()
    distance = nearest(wanted, torch.from_numpy(points), 1).distance[:, 0]
    return distance.double().numpy()
