"""Comparison of descriptors on the same keypoints and number of matches, with known truth."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from flowmatch.imaging import Image
from flowmatch.io import read_image
from flowmatch.io._files import message_of
from flowmatch.matching.data.sequences import ImagePair, read_homography
from flowmatch.matching.data.stacks import descriptor_distances
from flowmatch.matching.describe import describe_keypoints
from flowmatch.matching.evaluation.metrics import (
    corner_error,
    project,
)
from flowmatch.matching.evaluation.scores import MatchingEvaluation, PairScores, average
from flowmatch.matching.features import Features
from flowmatch.matching.filter import score_matches
from flowmatch.matching.fit import fit_geometry
from flowmatch.matching.keypoints import KeypointDetector, Keypoints, detect_keypoints
from flowmatch.matching.match import match_described
from flowmatch.matching.methods import Methods, extract_features
from flowmatch.matching.networks import DescriptorNetwork, PatchComparator
from flowmatch.matching.options import MatchOptions
from flowmatch.matching.synthetic.views import find_repeated, project_keypoints
from flowmatch.metrics import average_precision, fpr_at_recall
from flowmatch.ops import nearest
from flowmatch.progress import ProgressCallback

THRESHOLD = 3.0  # largest error of a correct match, pixels
_RATIO = 0.8  # the default of `match_images`
_TIMED = 8000  # keypoints or matches that times are reported for

# Model of `describe_keypoints`, and magnification of its patches.
Method = tuple[DescriptorNetwork | str, float | None]


def evaluate(
    pairs: Sequence[ImagePair],
    methods: Mapping[str, DescriptorNetwork | str | Method],
    *,
    filter_models: Mapping[str, PatchComparator] | None = None,
    complete: Mapping[str, Methods] | None = None,
    detector: str | KeypointDetector = "sift",
    keypoints: int = 2000,
    precision: str = "float32",
    progress: ProgressCallback | None = None,
) -> MatchingEvaluation:
    """Compare descriptors on images with known homographies.

    All methods describe the same keypoints. Their matches are mutual nearest neighbours, ranked by
    the ratio of the nearest to the second nearest distance. For each pair of images, every method
    is scored on the same number of best matches: that of the method with the fewest.

    Filter networks re-rank the result of the first method: its nearest neighbours, its matches and
    its pairs of corresponding and non-corresponding patches are ranked by the network's similarity.

    Complete methods find their own keypoints, so only their matches and homographies are scored,
    with as many matches as they have: `kept`, `purity` and the corner errors.

    Args:
        pairs: Pairs of `find_image_pairs`. Pairs that cannot be read are skipped and listed.
        methods: Methods by name: a model of `describe_keypoints`, or a tuple of model and
            magnification.
        filter_models: Networks that compare patches, by name; rows ``FIRST + NAME`` of the result.
        complete: Detectors with matchers of `load_methods`, by name.
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
    described_by = {
        name: method if isinstance(method, tuple) else (method, None)
        for name, method in methods.items()
    }
    measured: list[tuple[ImagePair, str, PairScores]] = []
    skipped: list[tuple[str, str]] = []
    cache: dict[Any, tuple[Features, float]] = {}  # features of the first image of a sequence
    for done, pair in enumerate(pairs, start=1):
        try:
            images = read_image(pair.first), read_image(pair.second)
            truth = read_homography(pair.homography)
        except (ValueError, OSError) as error:
            skipped.append((pair.name, message_of(error)))
        else:
            keypoints0, keypoints1 = (
                detect_keypoints(image, detector, keypoints=keypoints) for image in images
            )
            cache = {key: value for key, value in cache.items() if key[0] == pair.first}
            described = {}
            for name, method in described_by.items():
                if (pair.first, name) not in cache:
                    cache[pair.first, name] = _describe(method, images[0], keypoints0, precision)
                second = _describe(method, images[1], keypoints1, precision)
                described[name] = cache[pair.first, name], second
            scores = _score(described, filter_models or {}, images, truth)
            for name, parts in (complete or {}).items():
                scores[name] = _score_complete(parts, images, truth, keypoints)
            measured += [(pair, name, score) for name, score in scores.items()]
        if progress is not None:
            progress("pairs", done, len(pairs))
    if not measured:
        reason = f", the first because {skipped[0][1]}" if skipped else ""
        raise ValueError(f"no pair of {len(pairs)} can be read{reason}")
    return MatchingEvaluation(
        sequences=average(measured, lambda pair: pair.sequence),
        groups=average([m for m in measured if m[0].group], lambda pair: pair.group),
        mean=average(measured, lambda _: "mean"),
        skipped=tuple(skipped),
    )


def _describe(
    method: Method, image: ArrayLike, keypoints: Keypoints, precision: str
) -> tuple[Features, float]:
    """Return features and the seconds that 8000 of them would take."""
    model, magnification = method
    start = time.perf_counter()
    descriptors = describe_keypoints(
        image, keypoints, model=model, magnification=magnification, precision=precision
    )
    if descriptors.is_cuda:
        torch.cuda.synchronize(descriptors.device)
    return Features(keypoints, descriptors), _scaled_seconds(start, len(keypoints.xy))


def _scaled_seconds(start: float, count: int) -> float:
    return _TIMED * (time.perf_counter() - start) / max(1, count)


class _Ranking(NamedTuple):
    """Ranked matches of one method on a pair of images.

    Attributes:
        nearest: Nearest neighbour of each keypoint of the first image, ``[N]``, or -1.
        distance: ``[N]``; lower is more certain.
        mutual: Indices of keypoints with a mutual nearest neighbour, ``[K]``, best first.
        kept: ``[K]``, which of those pass the ratio test and the filter.
        same: Similarities of patches of the same point.
        different: Similarities of patches of different points.
        seconds: Time for 8000 keypoints or matches.
    """

    nearest: NDArray[np.int64]
    distance: NDArray[np.float32]
    mutual: NDArray[np.int64]
    kept: NDArray[np.bool_]
    same: NDArray[np.float32]
    different: NDArray[np.float32]
    seconds: float


# Indices of keypoints in the first and in the second image.
_Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def _rank(
    first: Features, second: Features, known: tuple[_Pairs, _Pairs], seconds: float
) -> _Ranking:
    """Rank the matches of a descriptor by the ratio of nearest to second nearest distance."""
    q, r = (torch.as_tensor(features.descriptors) for features in (first, second))
    neighbours = nearest(q, r, 2, "hamming" if q.dtype == torch.uint8 else "l2", mutual=True)
    index, distance = neighbours.index.cpu().numpy(), neighbours.distance.float().cpu().numpy()
    assert neighbours.accepted is not None
    chosen = np.flatnonzero(neighbours.accepted.cpu().numpy() & (index[:, 1] >= 0))
    ratio = distance[chosen, 0] / np.maximum(distance[chosen, 1], 1e-12)
    order = np.argsort(ratio, kind="stable")
    same, different = (-descriptor_distances(q.cpu(), r.cpu(), i, j) for i, j in known)
    kept = ratio[order] <= _RATIO
    return _Ranking(index[:, 0], distance[:, 0], chosen[order], kept, same, different, seconds)


def _rerank(
    network: PatchComparator,
    base: _Ranking,
    images: tuple[ArrayLike, ArrayLike],
    keypoints: tuple[Keypoints, Keypoints],
    known: tuple[_Pairs, _Pairs],
) -> _Ranking:
    """Rank the matches of a descriptor by a network that compares their patches."""
    matched = np.flatnonzero(base.nearest >= 0)
    start = time.perf_counter()
    scores = np.full(len(base.nearest), -np.inf, np.float32)
    matches = np.stack([matched, base.nearest[matched]], axis=1)
    scores[matched] = score_matches(images, keypoints, matches, model=network)
    seconds = _scaled_seconds(start, len(matched))
    order = np.argsort(-scores[base.mutual], kind="stable")
    mutual = base.mutual[order]
    kept = base.kept[order] & (scores[mutual] > 0)
    same, different = (
        score_matches(images, keypoints, np.stack(pair, axis=1), model=network) for pair in known
    )
    return _Ranking(base.nearest, -scores, mutual, kept, same, different, seconds)


def _score(
    described: Mapping[str, tuple[tuple[Features, float], tuple[Features, float]]],
    filter_models: Mapping[str, PatchComparator],
    images: tuple[Image, Image],
    truth: NDArray[np.float64],
) -> dict[str, PairScores]:
    (first, _), (second, _) = next(iter(described.values()))
    a, b = first.keypoints, second.keypoints
    projected = project(a.xy, truth)
    known = _known_pairs(b, find_repeated(project_keypoints(a, truth), b))
    rankings = {
        name: _rank(features0, features1, known, (seconds0 + seconds1) / 2)
        for name, ((features0, seconds0), (features1, seconds1)) in described.items()
    }
    base = next(iter(rankings))
    for name, network in filter_models.items():
        rankings[f"{base} + {name}"] = _rerank(network, rankings[base], images, (a, b), known)
    possible = int((_nearest_distance(projected, b.xy) <= THRESHOLD).sum())
    count = min(len(ranking.mutual) for ranking in rankings.values())
    scores = {}
    for name, ranking in rankings.items():
        matched = ranking.nearest >= 0
        correct = np.zeros(len(matched), np.bool_)
        errors = projected[matched] - b.xy[ranking.nearest[matched]]
        correct[matched] = np.hypot(*errors.T) <= THRESHOLD
        best, kept = ranking.mutual[:count], correct[ranking.mutual[ranking.kept]]
        order = np.argsort(ranking.distance, kind="stable")
        order = order[ranking.nearest[order] >= 0]
        matches = np.stack([best, ranking.nearest[best]], axis=1)
        fit = fit_geometry(a, b, matches, ranking.distance[best], threshold=THRESHOLD)
        scores[name] = PairScores(
            matches=count,
            accuracy=float(correct[best].mean()) if count else 0.0,
            recall=float(correct[best].sum() / possible) if possible else math.nan,
            fpr95=fpr_at_recall(ranking.same, ranking.different),
            precision=average_precision(correct[order], possible),
            corner_error=corner_error(fit.matrix, truth, images[0].shape[:2]),
            kept=len(kept),
            purity=float(kept.mean()) if len(kept) else math.nan,
            seconds=ranking.seconds,
        )
    return scores


def _score_complete(
    methods: Methods, images: tuple[Image, Image], truth: NDArray[np.float64], keypoints: int
) -> PairScores:
    options = MatchOptions(keypoints=keypoints, threshold=THRESHOLD, guided=False)
    first, second = (extract_features(image, methods.extractor, options) for image in images)
    result = match_described((first, second), options, matcher=methods.matcher)
    points0, points1 = result.points()
    correct = np.hypot(*(project(points0, truth) - points1).T) <= THRESHOLD
    return PairScores(
        matches=math.nan,
        accuracy=math.nan,
        recall=math.nan,
        fpr95=math.nan,
        precision=math.nan,
        corner_error=corner_error(result.matrix, truth, images[0].shape[:2]),
        kept=len(correct),
        purity=float(correct.mean()) if len(correct) else math.nan,
        seconds=math.nan,
    )


def _known_pairs(second: Keypoints, repeated: NDArray[np.int64]) -> tuple[_Pairs, _Pairs]:
    """Return pairs of keypoints of the same point, and as many pairs of different points."""
    known = np.flatnonzero(repeated >= 0)
    other = np.random.default_rng(0).permutation(repeated[known])
    xy = second.xy
    distinct = np.hypot(*(xy[repeated[known]] - xy[other]).T) > 2 * THRESHOLD
    return (known, repeated[known]), (known[distinct], other[distinct])


def _nearest_distance(
    points: NDArray[np.float64], others: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the distance from each point to the nearest of others, ``[N]``; inf without others."""
    queries = torch.from_numpy(points).float()
    return nearest(queries, torch.from_numpy(others), 1).distance[:, 0].double().numpy()
