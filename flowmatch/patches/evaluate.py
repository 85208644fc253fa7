"""Descriptors beside each other: the same keypoints, the same number of matches, known truth."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from flowmatch.io import read_image
from flowmatch.ops import nearest
from flowmatch.patches.describe import describe
from flowmatch.patches.keypoints import Keypoints, detect
from flowmatch.patches.match import Features, fit_geometry
from flowmatch.patches.metrics import (
    area_under_recall,
    average_precision,
    corner_error,
    false_positive_rate,
    project,
)
from flowmatch.patches.networks import DescriptorNetwork
from flowmatch.patches.sequences import ImagePair, read_homography
from flowmatch.patches.views import find_again, project_keypoints

THRESHOLD = 3.0  # pixels, of a correct match

# What describes keypoints: a network or a name, and how far its patches reach, in scales.
Method = tuple[DescriptorNetwork | str, float | None]


class PairScores(NamedTuple):
    """What one method scored on one pair of images.

    Attributes:
        matches: How many were compared, the same for all methods.
        accuracy: Share of the matches that are correct at 3 pixels.
        recall: Correct matches for each keypoint that the other image repeats at 3 pixels.
        fpr95: Share of different patches accepted where 95 % of those of one point are.
        precision: Average precision of all nearest neighbours, ranked by distance.
        corner_error: Pixels, of the homography that the matches agree on.
        milliseconds: To describe 1000 keypoints, patches included.
    """

    matches: int
    accuracy: float
    recall: float
    fpr95: float
    precision: float
    corner_error: float
    milliseconds: float


class Row(NamedTuple):
    """Means over pairs, each weighing the same; shares in [0, 1].

    Attributes:
        name: Of the sequence or group, or "mean".
        method: Its name.
        pairs: How many.
        matches: Per pair.
        accuracy: Mean matching accuracy at 3 pixels.
        recall: Correct matches per repeated keypoint.
        fpr95: False positive rate at a recall of 95 %; less is better.
        precision: Mean average precision.
        auc3: Area under the recall of corner errors up to 3 pixels.
        auc5: To 5 pixels.
        auc10: To 10 pixels.
        milliseconds: To describe 1000 keypoints.
    """

    name: str
    method: str
    pairs: int
    matches: float
    accuracy: float
    recall: float
    fpr95: float
    precision: float
    auc3: float
    auc5: float
    auc10: float
    milliseconds: float


class Evaluation(NamedTuple):
    """The tables of one evaluation; in each, the methods in the order they were given.

    Attributes:
        sequences: One row per sequence and method.
        groups: One row per group (viewpoint, illumination) and method, where HPatches has them.
        mean: One row per method, over all pairs.
        skipped: Pairs that could not be read, and why.
    """

    sequences: tuple[Row, ...]
    groups: tuple[Row, ...]
    mean: tuple[Row, ...]
    skipped: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts and lists for `json.dumps`; what is not known (NaN) is None."""
        tables: dict[str, Any] = {
            name: [
                {
                    key: None if isinstance(value, float) and math.isnan(value) else value
                    for key, value in row._asdict().items()
                }
                for row in getattr(self, name)
            ]
            for name in ("sequences", "groups", "mean")
        }
        return tables | {"skipped": [list(entry) for entry in self.skipped]}


def evaluate(
    pairs: Sequence[ImagePair],
    methods: Mapping[str, DescriptorNetwork | str | Method],
    *,
    detector: str = "sift",
    keypoints: int = 2000,
    report: Callable[[int, str], None] | None = None,
) -> Evaluation:
    """Compare descriptors on images with known homographies.

    All methods describe the same keypoints. Their matches are mutual nearest neighbours, ranked by
    the ratio of the nearest to the next distance, and each method is judged by as many of its best
    as the method with the fewest has.

    Args:
        pairs: Those of `find_image_pairs`. One that cannot be read is skipped, and listed.
        methods: By name: a network or a name as in `describe`, or such with its magnification.
        detector: As in `detect`.
        keypoints: At most, in each image.
        report: Called after each pair with how many are done and the name of this one.

    Returns:
        Scores per sequence, group and in the mean.

    Raises:
        ValueError: There is no method, or no pair can be read.

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
            points = [detect(image, detector, keypoints=keypoints) for image in images]
            known = {key: value for key, value in known.items() if key[0] == pair.first}
            described = {}
            for name, method in complete.items():
                if (pair.first, name) not in known:
                    known[pair.first, name] = _describe(method, images[0], points[0])
                second = _describe(method, images[1], points[1])
                described[name] = known[pair.first, name], second
            scores = _score(described, truth, images[0].shape[:2])
            measured += [(pair, name, score) for name, score in scores.items()]
        if report is not None:
            report(done, pair.name)
    if not measured:
        reason = f", the first because {skipped[0][1]}" if skipped else ""
        raise ValueError(f"none of the {len(pairs)} pairs can be read{reason}")
    return Evaluation(
        sequences=_average(measured, lambda pair: pair.sequence),
        groups=_average([m for m in measured if m[0].group], lambda pair: pair.group),
        mean=_average(measured, lambda _: "mean"),
        skipped=tuple(skipped),
    )


def _describe(method: Method, image: ArrayLike, points: Keypoints) -> tuple[Features, float]:
    """Return features and the milliseconds that 1000 of them take."""
    network, magnification = method
    start = time.perf_counter()
    descriptors = describe(network, image, points, magnification=magnification)
    if descriptors.is_cuda:
        torch.cuda.synchronize(descriptors.device)
    elapsed = 1000 * (time.perf_counter() - start)
    return Features(points, descriptors), 1000 * elapsed / max(1, len(points.xy))


class _Ranked(NamedTuple):
    """One method's nearest neighbours, and its matches with the best first."""

    nearest: NDArray[np.int64]  # [N], -1 where there is none
    distance: NDArray[np.float32]
    matches: NDArray[np.int64]  # [K, 2]
    milliseconds: float


def _rank(first: Features, second: Features, milliseconds: float) -> _Ranked:
    q, r = first.descriptors, second.descriptors
    found = nearest(q, r, 2, "hamming" if q.dtype == torch.uint8 else "l2", mutual=True)
    index, distance = found.index.cpu().numpy(), found.distance.float().cpu().numpy()
    assert found.accepted is not None
    chosen = np.flatnonzero(found.accepted.cpu().numpy() & (index[:, 1] >= 0))
    ratio = distance[chosen, 0] / np.maximum(distance[chosen, 1], 1e-12)
    chosen = chosen[np.argsort(ratio, kind="stable")]
    matches = np.stack([chosen, index[chosen, 0]], axis=1)
    return _Ranked(index[:, 0], distance[:, 0], matches, milliseconds)


def _score(
    described: Mapping[str, tuple[tuple[Features, float], tuple[Features, float]]],
    truth: NDArray[np.float64],
    size: tuple[int, ...],
) -> dict[str, PairScores]:
    ranked = {
        name: _rank(first, second, (fast + slow) / 2)
        for name, ((first, fast), (second, slow)) in described.items()
    }
    (first, _), (second, _) = next(iter(described.values()))
    a, b = first.keypoints, second.keypoints
    there = project(a.xy, truth)
    possible = int((_closest(there, b.xy) <= THRESHOLD).sum())
    alike = find_again(project_keypoints(a, truth), b)
    count = min(len(one.matches) for one in ranked.values())
    scores = {}
    for name, one in ranked.items():
        best = one.matches[:count]
        right = _is_right(there[best[:, 0]], b.xy[best[:, 1]])
        order = np.argsort(one.distance, kind="stable")
        order = order[one.nearest[order] >= 0]
        fit = fit_geometry(a, b, best, one.distance[best[:, 0]], threshold=THRESHOLD)
        scores[name] = PairScores(
            matches=count,
            accuracy=float(right.mean()) if count else 0.0,
            recall=float(right.sum() / possible) if possible else math.nan,
            fpr95=false_positive_rate(*_similarities(described[name], alike)),
            precision=average_precision(
                _is_right(there[order], b.xy[one.nearest[order]]), possible
            ),
            corner_error=corner_error(fit.matrix, truth, (size[0], size[1])),
            milliseconds=one.milliseconds,
        )
    return scores


def _similarities(
    described: tuple[tuple[Features, float], tuple[Features, float]], alike: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compare patches of the same points, and each with one of another; more is closer."""
    (first, _), (second, _) = described
    known = np.flatnonzero(alike >= 0)
    other = np.random.default_rng(0).permutation(alike[known])
    xy = second.keypoints.xy
    apart = np.hypot(*(xy[alike[known]] - xy[other]).T) > 2 * THRESHOLD
    pairs = (known, alike[known]), (known[apart], other[apart])
    same, different = (-_distances(first, second, i, j) for i, j in pairs)
    return same, different


def _distances(
    first: Features, second: Features, i: NDArray[np.int64], j: NDArray[np.int64]
) -> NDArray[np.float32]:
    q, r = first.descriptors.cpu()[i], second.descriptors.cpu()[j]
    if q.dtype == torch.uint8:
        bits = np.unpackbits((q ^ r).numpy(), axis=1)
        return np.asarray(bits.sum(axis=1), np.float32)
    return np.asarray(torch.linalg.vector_norm(q - r, dim=1).numpy(), np.float32)


def _is_right(there: NDArray[np.float64], found: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(np.hypot(*(there - found).T) <= THRESHOLD)


def _closest(there: NDArray[np.float64], points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return how far the closest of some points is, ``[N]``; inf where there is none."""
    wanted = torch.from_numpy(there).float()
    distance = nearest(wanted, torch.from_numpy(points), 1).distance[:, 0]
    return distance.double().numpy()


def _average(
    measured: Sequence[tuple[ImagePair, str, PairScores]], name_of: Callable[[ImagePair], str]
) -> tuple[Row, ...]:
    together: dict[tuple[str, str], list[PairScores]] = {}
    for pair, method, scores in measured:
        together.setdefault((name_of(pair), method), []).append(scores)
    return tuple(_row(name, method, scores) for (name, method), scores in together.items())


def _row(name: str, method: str, scores: Sequence[PairScores]) -> Row:
    def mean(values: Sequence[float]) -> float:
        known = [value for value in values if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan

    errors = [score.corner_error for score in scores]
    auc3, auc5, auc10 = (area_under_recall(errors, limit) for limit in (3, 5, 10))
    return Row(
        name,
        method,
        len(scores),
        mean([score.matches for score in scores]),
        mean([score.accuracy for score in scores]),
        mean([score.recall for score in scores]),
        mean([score.fpr95 for score in scores]),
        mean([score.precision for score in scores]),
        auc3,
        auc5,
        auc10,
        mean([score.milliseconds for score in scores]),
    )
