"""Which pairs of photos are matched, and by how many keypoints."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from flowmatch.matching.features import FeatureMatcher
from flowmatch.matching.methods import NearestMatcher
from flowmatch.progress import ProgressCallback
from flowmatch.stitch.matching import MAX_MATCHES, Pair, View, fit_pair, group_views
from flowmatch.stitch.options import StitchOptions
from flowmatch.stitch.similar import similarities

_STRONGEST = (1000, 2000)  # keypoints of each photo that are matched before all
_SIMILAR = 4  # photos with which each is matched at a time


def match_views(
    views: Sequence[View],
    matcher: FeatureMatcher,
    options: StitchOptions,
    progress: ProgressCallback | None = None,
) -> list[Pair]:
    """Match the views that may overlap.

    Each view is matched with the most similar ones, by its strongest keypoints, as long as half of
    them overlap; then views that are not connected yet are matched with each other, by all of
    theirs. So groups are those of matching all pairs, but most pairs within a group are skipped.
    Neighbours and `similar` limit the pairs.

    Args:
        views: At least two views.
        matcher: Matcher of the features.
        options: Motion: pairs agree on a homography for ``"rotation"``, on a shift, a rotation and
            a scale for ``"affine"``. Numbers of neighbours and of similar photos.
        progress: Called after each pair.

    Returns:
        The pairs that were matched, also those without a match, in the order of their views.
    """
    N = len(views)
    pairs: dict[tuple[int, int], Pair] = {}
    done = 0

    def match(chosen: set[tuple[int, int]], *, quick: bool = False) -> None:
        nonlocal done
        remaining = sorted(chosen - pairs.keys())
        total = done + len(remaining)
        for i, j in remaining:
            pair = _match_pair(i, j, views, matcher, options, quick=quick)
            if not quick or pair.confidence >= options.confidence:
                pairs[i, j] = pair
            done += 1
            if progress:
                progress("matches", done, total)

    if options.neighbours is not None:
        match(_neighbours(views, options.neighbours))
    if options.similar is not None:
        order = _by_similarity(views) or [list(range(N))] * N
        match({pair for view in range(N) for pair in _pairs(view, order[view], options.similar)})
    elif options.neighbours is None:
        order, start = _by_similarity(views) if N > _SIMILAR + 1 else [], 0
        active: Sequence[int] = range(N)
        while order and active and start < N - 1:
            chosen = {view: _pairs(view, order[view][start:], _SIMILAR) for view in active}
            match(set().union(*chosen.values()), quick=True)
            active = [v for v in active if 2 * sum(p in pairs for p in chosen[v]) >= _SIMILAR]
            start += _SIMILAR
        group_of = _group_numbers(list(pairs.values()), N, options.confidence)
        match({(i, j) for i, j in combinations(range(N), 2) if group_of[i] != group_of[j]})
    return [pairs[key] for key in sorted(pairs)]


def _match_pair(
    i: int,
    j: int,
    views: Sequence[View],
    matcher: FeatureMatcher,
    options: StitchOptions,
    *,
    quick: bool,
) -> Pair:
    """Match a pair by ever more keypoints, until it has all inliers that are needed.

    Args:
        i: Index of the first view.
        j: Index of the second view.
        views: All views.
        matcher: Matcher of the features.
        options: Options of stitching.
        quick: Whether to give up on photos whose strongest keypoints do not agree.
    """
    first, second = views[i].features, views[j].features
    most = max(len(first.keypoints.xy), len(second.keypoints.xy))
    counts = [most]
    if isinstance(matcher, NearestMatcher):
        counts = [*(count for count in _STRONGEST if count < most), most]
    for count in counts:
        matches = matcher.match(first.strongest(count), second.strongest(count))
        if isinstance(matcher, NearestMatcher):
            points = first.keypoints, second.keypoints
            matches = matches._replace(keypoints0=points[0], keypoints1=points[1])
        pair = fit_pair(Pair(i, j, matches, 0.0, None), views, options.motion)
        confident = pair.confidence >= options.confidence
        if (confident and pair.inliers >= MAX_MATCHES) or (quick and not confident):
            break
    return pair


def _by_similarity(views: Sequence[View]) -> list[list[int]]:
    """Return for each view all others, the most similar first; nothing if it is not known."""
    cosines = similarities([view.features for view in views])
    if cosines is None:
        return []
    order = np.argsort(-cosines, axis=1, kind="stable").tolist()
    return [[other for other in others if other != view] for view, others in enumerate(order)]


def _pairs(view: int, others: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Return the pairs of a view with the first `count` others."""
    return [(min(view, other), max(view, other)) for other in others[:count] if other != view]


def _neighbours(views: Sequence[View], neighbours: int) -> set[tuple[int, int]]:
    """Return the pairs of views that are close in the round order of the photos."""
    N = len(views)
    # Photos that cannot be read leave no gap.
    order = sorted(range(N), key=lambda k: views[k].photo.number)
    return {
        (min(a, b), max(a, b))
        for place, a in enumerate(order)
        for step in range(1, min(neighbours, N - 1) + 1)
        for b in [order[(place + step) % N]]
    }


def _group_numbers(pairs: Sequence[Pair], views: int, confidence: float) -> list[int]:
    """Return the number of each view's group of confident pairs."""
    numbers = [0] * views
    for number, group in enumerate(group_views(pairs, views, confidence)):
        for view in group:
            numbers[view] = number
    return numbers
