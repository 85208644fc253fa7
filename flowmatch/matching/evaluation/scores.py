"""Scores of descriptors on pairs of images, and tables of their means."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flowmatch.matching.data.sequences import ImagePair
from flowmatch.matching.evaluation.metrics import area_under_recall


class PairScores(NamedTuple):
    """Scores of one method on one pair of images.

    Attributes:
        matches: Number of matches that are scored, the same for all methods; NaN, as most scores,
            for methods with keypoints of their own.
        accuracy: Share of these matches with an error of at most 3 pixels.
        recall: Correct matches per keypoint that the other image repeats within 3 pixels.
        fpr95: False positive rate of patches at a recall of 95 %.
        precision: Average precision of all nearest neighbours, ranked by distance.
        corner_error: Corner error of the homography fitted to the matches, pixels.
        kept: Number of matches that `match_images` keeps: mutual nearest neighbours that pass the
            ratio test at 0.8, and the filter if there is one.
        purity: Share of those within 3 pixels; NaN without any.
        seconds: Time to describe 8000 keypoints, including patches, or to filter 8000 matches.
    """

    matches: float
    accuracy: float
    recall: float
    fpr95: float
    precision: float
    corner_error: float
    kept: int
    purity: float
    seconds: float


class MatchingScores(NamedTuple):
    """Mean scores of one method over pairs of images, equally weighted.

    Attributes:
        name: Name of the sequence or group, or "mean".
        method: Name of the method.
        pairs: Number of pairs.
        matches: Scored matches per pair.
        accuracy: Mean matching accuracy at 3 pixels.
        recall: Correct matches per repeated keypoint.
        fpr95: False positive rate at a recall of 95 %; lower is better.
        precision: Mean average precision.
        auc3: Area under the recall over corner errors up to 3 pixels.
        auc5: The same up to 5 pixels.
        auc10: The same up to 10 pixels.
        kept: Matches per pair that `match_images` keeps.
        purity: Share of those that are correct.
        seconds: Time to describe 8000 keypoints, or to filter 8000 matches.
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
    kept: float
    purity: float
    seconds: float


class MatchingEvaluation(NamedTuple):
    """Tables of an evaluation; methods are in the order of the call.

    Attributes:
        sequences: One row per sequence and method.
        groups: One row per group of HPatches (viewpoint, illumination) and method.
        mean: One row per method, over all pairs.
        skipped: Pairs that could not be read, with the reasons.
    """

    sequences: tuple[MatchingScores, ...]
    groups: tuple[MatchingScores, ...]
    mean: tuple[MatchingScores, ...]
    skipped: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Return dicts and lists for `json.dumps`; NaN becomes None."""
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


def average(
    measured: Sequence[tuple[ImagePair, str, PairScores]], name_of: Callable[[ImagePair], str]
) -> tuple[MatchingScores, ...]:
    """Return mean scores, one row per name and method.

    Args:
        measured: Pairs, names of methods and scores.
        name_of: Function that returns the name of a pair's row.
    """
    groups: dict[tuple[str, str], list[PairScores]] = {}
    for pair, method, scores in measured:
        groups.setdefault((name_of(pair), method), []).append(scores)
    return tuple(_row(name, method, scores) for (name, method), scores in groups.items())


def _row(name: str, method: str, scores: Sequence[PairScores]) -> MatchingScores:
    def mean(values: Sequence[float]) -> float:
        known = [value for value in values if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan

    errors = [score.corner_error for score in scores]
    auc3, auc5, auc10 = (area_under_recall(errors, limit) for limit in (3, 5, 10))
    return MatchingScores(
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
        mean([score.kept for score in scores]),
        mean([score.purity for score in scores]),
        mean([score.seconds for score in scores]),
    )
