"""Features of photos, the geometry of pairs, and groups of photos that overlap."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import Image
from flowmatch.io._files import message_of
from flowmatch.io.masked import MaskedImage
from flowmatch.matching.features import FeatureExtractor, Features, Matches
from flowmatch.matching.fit import fit_geometry
from flowmatch.matching.frame import fixed_to_frame
from flowmatch.progress import ProgressCallback
from flowmatch.stitch.options import StitchOptions
from flowmatch.stitch.photos import (
    Photo,
    Size,
    reduce_image,
    reduce_mask,
    scale_for,
    scaled_size,
)

MAX_MATCHES = 250
"""Inliers of a pair from which cameras are estimated; further ones hardly change them."""

# OpenCV's constants: of n matches between unrelated photos, at most 8 + 0.3 n agree by chance.
_CHANCE, _CHANCE_SHARE = 8.0, 0.3
_MIN_MATCHES = 4  # for a homography; an affine map needs fewer
_THRESHOLD = 3.0  # pixels of the reduced photos
_MAX_AREA_CHANGE = 1000.0  # between a lens of 20 and one of 160 degrees
_MIN_PLAUSIBLE = 0.95  # share of the inliers


class View(NamedTuple):
    """A photo, reduced for matching, and its features.

    Attributes:
        photo: The photo.
        full_size: Width and height of the photo.
        size: Width and height to which it was reduced.
        features: Keypoints and descriptors, in pixels of `size`.
        digest: Hash of the reduced pixels, so that views are sorted by content.
    """

    photo: Photo
    full_size: Size
    size: Size
    features: Features
    digest: str

    @property
    def name(self) -> str:
        """Name of the photo."""
        return self.photo.name


class Pair(NamedTuple):
    """Matches of two views.

    Attributes:
        first: Index of the first view.
        second: Index of the second view, larger than that of the first.
        matches: All matches, with the geometry that takes the first view to the second.
        confidence: ``inliers / (8 + 0.3 * matches)``: chance gives less than 1.
        reason: Reason for which the pair is rejected although many matches agree, or None.
    """

    first: int
    second: int
    matches: Matches
    confidence: float
    reason: str | None

    @property
    def inliers(self) -> int:
        """Number of matches that agree."""
        return int(self.matches.inliers.sum())


class LeftOut(NamedTuple):
    """A photo that is in no panorama.

    Attributes:
        name: Name of the photo.
        reason: Reason for leaving it out.
    """

    name: str
    reason: str


def extract_features(
    photos: Sequence[Photo],
    extractor: FeatureExtractor,
    options: StitchOptions,
    progress: ProgressCallback | None = None,
) -> tuple[list[View], list[LeftOut]]:
    """Read photos one after the other, and detect and describe their keypoints.

    Args:
        photos: At least one photo.
        extractor: Detector and descriptor.
        options: Number of keypoints and size.
        progress: Called after each photo.

    Returns:
        Views, sorted by content, and the photos that cannot be read.
    """
    views, unreadable = [], []
    for number, photo in enumerate(photos, 1):
        try:
            pixels = photo.read_masked()
        except (OSError, ValueError) as error:
            unreadable.append(LeftOut(photo.name, message_of(error)))
        else:
            views.append(_view(photo, pixels, extractor, options))
            del pixels
        if progress:
            progress("keypoints", number, len(photos))
    return sorted(views, key=lambda view: (view.digest, view.name)), unreadable


def _view(
    photo: Photo, pixels: MaskedImage, extractor: FeatureExtractor, options: StitchOptions
) -> View:
    full_size = (pixels.image.shape[1], pixels.image.shape[0])
    size = scaled_size(full_size, scale_for(full_size, options.keypoint_megapixels))
    image, mask = reduce_image(pixels.image, size), reduce_mask(pixels.mask, size)
    features = extractor.extract(image, options.keypoints)
    if mask is not None:
        features = features.select(features.keypoints.inside(mask))
    return View(photo, full_size, size, features, _digest(image, mask))


def _digest(image: Image, mask: Image | None) -> str:
    shape = repr(image.shape).encode()
    alpha = b"" if mask is None else mask.tobytes()
    return hashlib.sha256(shape + image.tobytes() + alpha).hexdigest()


def fit_pair(pair: Pair, views: Sequence[View], motion: str) -> Pair:
    """Fit the geometry of a motion to all matches of a pair.

    Args:
        pair: Pair whose geometry and inliers are replaced.
        views: All views.
        motion: ``"rotation"`` (a homography) or ``"affine"`` (a similarity transform).

    Returns:
        The pair with new inliers, matrix, confidence and reason.
    """
    matches = pair.matches
    if len(matches.matches) < _MIN_MATCHES:
        inliers = np.zeros(len(matches.matches), np.bool_)
        matches = matches._replace(inliers=inliers, matrix=None, geometry=motion)
        return pair._replace(matches=matches, confidence=0.0)
    sizes = views[pair.first].size, views[pair.second].size
    if motion == "affine":
        matches = _fit_affine(matches, sizes)
    else:
        matches = fit_geometry(
            *matches[:4], geometry="homography", threshold=_THRESHOLD, sizes=sizes
        )
    reason = None
    if matches.matrix is not None:
        # Chance matches agree on maps that fold the overlap or shrink it to nothing. Of many
        # right matches, a wrong one may agree although it is behind the other camera.
        plausible = _plausible_points(matches.matrix, matches.points(inliers=True)[0])
        if plausible.sum() < _MIN_PLAUSIBLE * len(plausible):
            reason = "the matches agree on a map that would fold or mirror the photo"
        else:
            inliers = matches.inliers.copy()
            inliers[inliers] = plausible
            matches = matches._replace(inliers=inliers)
    confidence = float(matches.inliers.sum() / (_CHANCE + _CHANCE_SHARE * len(matches.matches)))
    if matches.matrix is None or reason:
        confidence = 0.0
    return pair._replace(matches=matches, confidence=confidence, reason=reason)


def _fit_affine(matches: Matches, sizes: tuple[Size, Size]) -> Matches:
    kept = ~fixed_to_frame(*matches[:3], sizes, _THRESHOLD)
    matches = matches._replace(matches=matches.matches[kept], distances=matches.distances[kept])
    a, b = matches.points()
    none = matches._replace(inliers=np.zeros(len(a), np.bool_), matrix=None, geometry="affine")
    if len(a) < _MIN_MATCHES:
        return none
    matrix, mask = cv2.estimateAffinePartial2D(
        a, b, method=cv2.RANSAC, ransacReprojThreshold=_THRESHOLD,
        maxIters=5000, confidence=0.9999, refineIters=20,
    )  # fmt: skip
    if matrix is None or not np.isfinite(matrix).all():
        return none
    square = np.vstack([np.asarray(matrix, np.float64), [0, 0, 1]])
    return matches._replace(inliers=np.asarray(mask).ravel() != 0, matrix=square, geometry="affine")


def _plausible_points(
    matrix: NDArray[np.float64], points: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Return for each point whether a map keeps its surroundings unmirrored and not tiny.

    The answer is the same for the inverse map. Only points are asked, not the whole photo: a wide
    lens sees directions that are behind the other camera.
    """
    homogeneous = np.concatenate([points.astype(np.float64), np.ones((len(points), 1))], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # The determinant of the derivative; that of the inverse map is its reciprocal.
        area = np.linalg.det(matrix) / (homogeneous @ matrix[2]) ** 3
    return np.asarray((area > 1 / _MAX_AREA_CHANGE) & (area < _MAX_AREA_CHANGE))


def group_views(pairs: Sequence[Pair], views: int, confidence: float) -> list[list[int]]:
    """Return the connected components of the graph of confident pairs, the largest first.

    Args:
        pairs: Pairs from `match_views`.
        views: Number of views.
        confidence: Smallest confidence of a pair that overlaps.

    Returns:
        Indices of views, ascending; each view is in one group, perhaps alone.
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


def explain_ungrouped(
    view: int, pairs: Sequence[Pair], views: Sequence[View], confidence: float
) -> LeftOut:
    """Explain why a view is in no group: the numbers of its best pair, and the confidence needed.

    Args:
        view: Index of the view.
        pairs: Pairs from `match_views`.
        views: All views.
        confidence: Smallest confidence of a pair that overlaps.
    """
    name = views[view].name
    if len(views[view].features.keypoints.xy) == 0:
        return LeftOut(name, "no keypoints: it is blank, blurred or too small")
    own = [pair for pair in pairs if view in (pair.first, pair.second)]
    best = max(own, key=lambda p: (p.confidence, p.inliers, len(p.matches.matches)), default=None)
    if best is None:
        return LeftOut(name, "no other photo could be read")
    other = views[best.second if best.first == view else best.first].name
    counts = f"{len(best.matches.matches)} matches, {best.inliers} inliers"
    if best.reason:
        return LeftOut(
            name, f"overlaps with no other photo; best with {other}: {counts}; {best.reason}"
        )
    return LeftOut(
        name,
        f"overlaps too little; best with {other}: {counts}, confidence {best.confidence:.2f}, "
        f"{confidence:.2f} needed",
    )
