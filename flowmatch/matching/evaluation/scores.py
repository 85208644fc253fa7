"""What an evaluation of matches reports: scores of pairs of images, and their means."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flowmatch.matching.data.sequences import ImagePair
from flowmatch.matching.evaluation.metrics import area_under_recall


class PairScores(NamedTuple):
    """What one method scored on one pair of images.

    Attributes:
        matches: How many were compared, the same for all methods.
        accuracy: Share of the matches that are correct at 3 pixels.
        recall: Correct matches for each keypoint that the other image repeats at 3 pixels.
        fpr95: Share of different patches accepted where 95 % of those of one point are.
        precision: Average precision of all nearest neighbours, ranked by distance.
        corner_error: Pixels, of the homography that the matches agree on.
        kept: Matches that `match_images` keeps: mutual, by a ratio of 0.8, and what a decision
            leaves of them.
        purity: Share of those that are correct at 3 pixels; NaN if there is none.
        seconds: To describe 8000 keypoints, patches included, or to decide about so many matches.
    """

    matches: int
    accuracy: float
    recall: float
    fpr95: float
    precision: float
    corner_error: float
    kept: int
    purity: float
    seconds: float


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
        kept: Matches per pair that `match_images` keeps.
        purity: Share of those that are correct.
        seconds: To describe 8000 keypoints, or to decide about 8000 matches.
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


def average(
    measured: Sequence[tuple[ImagePair, str, PairScores]], name_of: Callable[[ImagePair], str]
) -> tuple[Row, ...]:
    """Return the means of what was measured, one row for each name and method.

    Args:
        measured: Pairs, methods and scores.
        name_of: Says which row a pair belongs to.
    """
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
        mean([score.kept for score in scores]),
        mean([score.purity for score in scores]),
        mean([score.seconds for score in scores]),
    )
