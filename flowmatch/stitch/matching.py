"""Which photos show the same: every pair is matched, and sure pairs make groups."""

import hashlib
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.matching.describe import describe
from flowmatch.matching.keypoints import detect
from flowmatch.matching.match import Features, Matches, fit_geometry, match_features
from flowmatch.stitch.photos import Image, Photo, Size, scale_for, scaled_size, shrunk

# OpenCV's constants: of what overlaps by chance, 8 + 0.3 n of n matches agree.
_CHANCE, _CHANCE_SHARE = 8.0, 0.3
_FEWEST = 4  # matches that a homography needs; an affine map needs fewer
_THRESHOLD = 3.0  # pixels, at the size of registration

Progress = Callable[[str, int, int], None]


class View(NamedTuple):
    """A photo at the size at which it is registered.

    Attributes:
        photo: Its number among the photos given.
        name: What it is called.
        full: Width and height of the photo.
        size: Width and height at which it was looked at.
        features: Keypoints and descriptors, in pixels of `size`.
        digest: Of its pixels; what comes first does not depend on the order it was given in.
    """

    photo: int
    name: str
    full: Size
    size: Size
    features: Features
    digest: str


class Pair(NamedTuple):
    """Two views, and what was found between them.

    Attributes:
        first: Number of the view, the smaller one.
        second: Number of the other.
        matches: All of them, with the model from the first to the second.
        confidence: ``inliers / (8 + 0.3 * matches)``: 1 and more is no chance.
        reason: Why the pair says nothing though many matches agree, or None.
    """

    first: int
    second: int
    matches: Matches
    confidence: float
    reason: str | None

    @property
    def inliers(self) -> int:
        """How many matches agree."""
        return int(self.matches.inlier.sum())


class LeftOut(NamedTuple):
    """A photo that is in no panorama, and why."""

    name: str
    reason: str


def look_at(
    photos: Sequence[Photo],
    network: Any,
    *,
    detector: str,
    keypoints: int,
    megapixels: float,
    progress: Progress | None = None,
) -> tuple[list[View], list[LeftOut]]:
    """Read the photos one after the other and describe their keypoints.

    Args:
        photos: At least one.
        network: As in `match_images`.
        detector: As in `match_images`.
        keypoints: As in `match_images`.
        megapixels: To which a photo is reduced before.
        progress: Called with the stage, what is done, and of how many.

    Returns:
        The views, in an order that only their pixels decide, and the photos that cannot be read.
    """
    views, unreadable = [], []
    for number, photo in enumerate(photos):
        if progress:
            progress("keypoints", number, len(photos))
        try:
            image = photo.read()
        except (OSError, ValueError) as error:
            unreadable.append(LeftOut(photo.name, str(error)))
            continue
        full = (image.shape[1], image.shape[0])
        size = scaled_size(full, scale_for(full, megapixels))
        image = shrunk(image, size)
        points = detect(image, detector, keypoints=keypoints)
        features = Features(points, describe(network, image, points))
        views.append(View(number, photo.name, full, size, features, _digest(image)))
    return sorted(views, key=lambda view: (view.digest, view.name)), unreadable


def _digest(image: Image) -> str:
    shape = repr(image.shape).encode()
    return hashlib.sha256(shape + image.tobytes()).hexdigest()


def match_views(
    views: Sequence[View],
    *,
    model: str,
    ratio: float | None,
    progress: Progress | None = None,
) -> list[Pair]:
    """Match every view with every other.

    Args:
        views: At least two.
        model: ``"rotation"``: pairs agree on a homography; ``"affine"``: on a shift, a turn and a
            scale.
        ratio: As in `match_images`.
        progress: Called with the stage, what is done, and of how many.

    Returns:
        All pairs, also those without a match.
    """
    chosen = list(combinations(range(len(views)), 2))
    pairs = []
    for done, (i, j) in enumerate(chosen):
        if progress:
            progress("matches", done, len(chosen))
        pairs.append(_match_pair(i, j, views, model, ratio))
    return pairs


def _match_pair(i: int, j: int, views: Sequence[View], model: str, ratio: float | None) -> Pair:
    first, second = views[i].features, views[j].features
    index, distance = np.empty((0, 2), np.int64), np.empty(0, np.float32)
    if len(first.keypoints.xy) and len(second.keypoints.xy):
        index, distance = match_features(first, second, ratio=ratio)
    matches = fit_geometry(
        first.keypoints, second.keypoints, index, distance, model=None
    )  # without a model all are inliers, until one is fitted
    return fit_pair(Pair(i, j, matches, 0.0, None), views, model)


def fit_pair(pair: Pair, views: Sequence[View], model: str) -> Pair:
    """Fit a model, ``"rotation"`` or ``"affine"``, to the matches of a pair, whatever they had."""
    found = pair.matches
    if len(found.pairs) < _FEWEST:
        nothing = np.zeros(len(found.pairs), np.bool_)
        matches = found._replace(inlier=nothing, matrix=None, model=model)
        return pair._replace(matches=matches, confidence=0.0)
    if model == "affine":
        matches = _fit_affine(found)
    else:
        matches = fit_geometry(*found[:4], model="homography", threshold=_THRESHOLD)
    confidence = float(matches.inlier.sum() / (_CHANCE + _CHANCE_SHARE * len(matches.pairs)))
    reason = None
    if matches.matrix is None:
        confidence = 0.0
    elif not _plausible(matches.matrix, views[pair.first].size):
        reason = "what agrees would fold or mirror the photo"
        confidence = 0.0
    return pair._replace(matches=matches, confidence=confidence, reason=reason)


def _fit_affine(found: Matches) -> Matches:
    a, b = found._replace(inlier=np.ones(len(found.pairs), np.bool_)).points()
    matrix, mask = cv2.estimateAffinePartial2D(
        a, b, method=cv2.RANSAC, ransacReprojThreshold=_THRESHOLD,
        maxIters=5000, confidence=0.9999, refineIters=20,
    )  # fmt: skip
    if matrix is None or not np.isfinite(matrix).all():
        return found._replace(inlier=np.zeros(len(a), np.bool_), matrix=None, model="affine")
    whole = np.vstack([np.asarray(matrix, np.float64), [0, 0, 1]])
    return found._replace(inlier=np.asarray(mask).ravel() != 0, matrix=whole, model="affine")


def _plausible(matrix: NDArray[np.float64], size: Size) -> bool:
    """Tell whether a view stays in front of the other camera, and is not mirrored or shrunk away.

    Chance matches agree on maps that fold the view; of a camera that turned none does.
    """
    W, H = size
    corners = np.array([(0, 0, 1), (W, 0, 1), (W, H, 1), (0, H, 1)], np.float64) @ matrix.T
    if corners[:, 2].min() <= 0 < corners[:, 2].max():
        return False
    moved = corners[:, :2] / corners[:, 2:]
    sides = np.roll(moved, -1, axis=0) - moved
    after = np.roll(sides, -1, axis=0)
    turns = sides[:, 0] * after[:, 1] - sides[:, 1] * after[:, 0]
    return bool(turns.min() > W * H * 1e-3)


def groups_of(pairs: Sequence[Pair], views: int, confidence: float) -> list[list[int]]:
    """Return the connected parts of the graph of sure pairs, the largest first.

    Args:
        pairs: Of `match_views`.
        views: How many there are.
        confidence: What a pair needs.

    Returns:
        Numbers of views, ascending; each view is in one group, perhaps alone in it.
    """
    root = list(range(views))

    def find(view: int) -> int:
        while root[view] != view:
            view = root[view]
        return view

    for pair in pairs:
        if pair.confidence >= confidence:
            a, b = sorted((find(pair.first), find(pair.second)))
            root[b] = a
    groups: dict[int, list[int]] = {}
    for view in range(views):
        groups.setdefault(find(view), []).append(view)
    return sorted(groups.values(), key=lambda group: (-len(group), group[0]))


def why_alone(
    view: int, pairs: Sequence[Pair], views: Sequence[View], confidence: float
) -> LeftOut:
    """Say why a view is in no group: what its best pair has, and what would be needed."""
    name = views[view].name
    found = len(views[view].features.keypoints.xy)
    if found == 0:
        return LeftOut(name, "no keypoints: it is blank, blurred or too small")
    mine = [pair for pair in pairs if view in (pair.first, pair.second)]
    best = max(mine, key=lambda p: (p.confidence, p.inliers, len(p.matches.pairs)), default=None)
    if best is None:
        return LeftOut(name, "there is no other photo")
    other = views[best.second if best.first == view else best.first].name
    counts = f"{len(best.matches.pairs)} matches, {best.inliers} inliers"
    if best.reason:
        return LeftOut(name, f"overlaps with no other; best with {other}: {counts}, {best.reason}")
    return LeftOut(
        name,
        f"overlaps too little; best with {other}: {counts}, confidence {best.confidence:.2f}, "
        f"{confidence:.2f} needed",
    )
