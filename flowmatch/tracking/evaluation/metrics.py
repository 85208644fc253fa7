"""Metrics of tracked boxes and of tracked points."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.tracking.boxes import box_iou

IOU_THRESHOLDS = np.linspace(0, 1, 21)
PRECISION_PIXELS = 20.0
POINT_PIXELS = (1, 2, 4, 8, 16)
"""Distances within which a point counts as right, in pixels of a picture of 256 x 256."""
SEEN = 0.5
"""Visible share of an object from which on its box is compared."""
HIDDEN = 0.3
"""Visible share below which an object is to be marked as lost."""
_RASTER = 256


class BoxScores(NamedTuple):
    """Scores of tracked boxes, 0 to 1.

    Attributes:
        success: Area under the success curve: the mean over thresholds 0, 0.05, ..., 1 of the share
            of boxes whose IoU is higher.
        precision: Share of boxes whose centre is within 20 pixels of the true one.
        iou: Mean IoU.
        boxes: Number of boxes.
    """

    success: float
    precision: float
    iou: float
    boxes: int


def score_boxes(boxes: ArrayLike, truth: ArrayLike) -> BoxScores:
    """Compare boxes with true boxes, ``[..., 4]``; where the truth is NaN, nothing is compared.

    Raises:
        ValueError: The shapes differ, or no box is known.

    Example:
        >>> score_boxes([(0, 0, 10, 10)], [(0, 0, 10, 10)])[:3]
        (0.9523809523809523, 1.0, 1.0)

    Reference:
        Wu, Lim, Yang, Online Object Tracking: A Benchmark, CVPR 2013, section 4 (as in its code, an
        IoU of 1 does not exceed the last threshold).
    """
    a, b = np.asarray(boxes, np.float64), np.asarray(truth, np.float64)
    if a.shape != b.shape or a.shape[-1:] != (4,):
        raise ValueError(f"boxes and truth must be [..., 4] alike, got {a.shape} and {b.shape}")
    known = np.isfinite(b).all(-1)
    if not known.any():
        raise ValueError("at least one true box is expected, got none")
    a, b = a[known], b[known]
    iou = box_iou(a, b)
    distance = np.linalg.norm(a[:, :2] + a[:, 2:] / 2 - b[:, :2] - b[:, 2:] / 2, axis=1)
    return BoxScores(
        float((iou > IOU_THRESHOLDS[:, None]).mean()),
        float((distance <= PRECISION_PIXELS).mean()),
        float(iou.mean()),
        len(iou),
    )


class LostScores(NamedTuple):
    """How often lost objects are marked as lost.

    Attributes:
        hidden: Number of boxes of objects that are hidden.
        found: Number of these that are marked.
        seen: Number of boxes of objects in view.
        wrong: Number of these that are marked.
    """

    hidden: int
    found: int
    seen: int
    wrong: int


def score_lost(lost: ArrayLike, shares: ArrayLike) -> LostScores:
    """Compare marks of lost objects with the objects' visible shares.

    Args:
        lost: ``[...]`` bool.
        shares: Of the same shape, 0 to 1; below 0.3 an object is hidden, from 0.5 on it is in view,
            and between them nothing is counted.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> score_lost([True, False, False], [0.1, 0.2, 0.9])
        LostScores(hidden=2, found=1, seen=1, wrong=0)
    """
    marked, share = np.asarray(lost, bool), np.asarray(shares, np.float64)
    if marked.shape != share.shape:
        raise ValueError(f"lost and shares must be alike, got {marked.shape} and {share.shape}")
    hidden, seen = share < HIDDEN, share >= SEEN
    counts = hidden, hidden & marked, seen, seen & marked
    return LostScores(*(int(count.sum()) for count in counts))


class PointScores(NamedTuple):
    """TAP-Vid's scores of tracked points, 0 to 1.

    Attributes:
        jaccard: Average Jaccard: points that are rightly visible and within a distance, among those
            and all that are wrongly visible, too far off or missed; mean over the distances.
        delta: Share of visible points within a distance, mean over the distances.
        occlusion: Share of points whose visibility is right.
    """

    jaccard: float
    delta: float
    occlusion: float


def score_points(
    points: ArrayLike,
    visible: ArrayLike,
    true_points: ArrayLike,
    true_visible: ArrayLike,
    size: tuple[int, int],
) -> PointScores:
    """Compare tracked points with the truth, after the first frame, in which they are given.

    Args:
        points: ``[T, N, 2]``, pixels.
        visible: ``[T, N]``.
        true_points: ``[T, N, 2]``.
        true_visible: ``[T, N]``.
        size: Height and width of the frames, which are scaled to 256 x 256.

    Raises:
        ValueError: The shapes do not fit, or there is a single frame.

    Example:
        >>> seen = np.ones((2, 1), bool)
        >>> still = np.zeros((2, 1, 2))
        >>> score_points(still, seen, still + (3, 0), seen, (256, 256))
        PointScores(jaccard=0.6, delta=0.6, occlusion=1.0)

    Reference:
        Doersch et al., TAP-Vid, NeurIPS Datasets and Benchmarks 2022, section 3.2.
    """
    places, truth = np.asarray(points, np.float64), np.asarray(true_points, np.float64)
    seen, should = np.asarray(visible, bool), np.asarray(true_visible, bool)
    if places.shape != truth.shape or seen.shape != should.shape or len(seen) < 2:
        raise ValueError(
            "points and truth must be [T, N, 2] and [T, N] of at least two frames, got "
            f"{places.shape}, {seen.shape}, {truth.shape} and {should.shape}"
        )
    scale = _RASTER / np.array(size[::-1], np.float64)
    distance = np.linalg.norm((places - truth)[1:] * scale, axis=-1)
    seen, should = seen[1:], should[1:]
    near = distance < np.array(POINT_PIXELS)[:, None, None]
    right = (near & seen & should).sum((1, 2))
    false = (seen & ~(near & should)).sum((1, 2))
    jaccard = right / np.maximum(should.sum() + false, 1)
    delta = (near & should).sum((1, 2)) / max(should.sum(), 1)
    return PointScores(float(jaccard.mean()), float(delta.mean()), float((seen == should).mean()))


def mean_scores(scores: list[PointScores]) -> PointScores:
    """Return the mean over clips."""
    rows: NDArray[np.float64] = np.array(scores)
    return PointScores(*rows.mean(0).tolist())
