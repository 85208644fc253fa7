"""Geometric verification: counts of matched points that agree on a homography."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.imaging import check_image, resize_within
from flowmatch.matching import describe_keypoints, detect_keypoints
from flowmatch.matching.features import Features, Matches, image_size, sizes_of
from flowmatch.matching.fit import fit_geometry
from flowmatch.matching.methods import match_features
from flowmatch.matching.networks import DescriptorNetwork

MIN_INLIERS = 12
"""Smallest number of inliers of images of the same object; fewer may agree by chance
(Philbin et al., CVPR 2007, use 4 to 20)."""


class Verifier:
    """Matcher of one query with many images; the query is described once.

    Args:
        query: uint8 image.
        descriptor: Local descriptor: ``"rootsift"``, ``"sift"``, or a descriptor network.
        keypoints: Maximum number of keypoints per image.
        side: Longer side, pixels, to which images are reduced.
        threshold: Maximum error of an inlier, pixels.

    Example:
        >>> texture = np.random.default_rng(0).integers(0, 255, (30, 40), np.uint8)
        >>> image = texture.repeat(8, axis=0).repeat(8, axis=1)
        >>> Verifier(image[:, :280]).inliers(image[:, 40:]) > 12
        True

    Reference:
        Philbin et al., Object Retrieval with Large Vocabularies and Fast Spatial Matching, CVPR
        2007.
    """

    def __init__(
        self,
        query: ArrayLike,
        descriptor: DescriptorNetwork | str = "rootsift",
        *,
        keypoints: int = 1000,
        side: int = 640,
        threshold: float = 5.0,
    ) -> None:
        self.descriptor, self.keypoints = descriptor, keypoints
        self.side, self.threshold = side, threshold
        self.query = self.features(query)

    def features(self, image: ArrayLike) -> Features:
        """Return the features of an image, in pixels of the reduced image."""
        return local_features(image, self.descriptor, keypoints=self.keypoints, side=self.side)

    def match(self, image: ArrayLike) -> Matches:
        """Match the query with an image, in pixels of the reduced images."""
        return match_local(self.query, self.features(image), self.threshold)

    def inliers(self, image: ArrayLike) -> int:
        """Count the matches that agree on a homography, see `count_inliers`."""
        return count_inliers(self.query, self.features(image), self.threshold)


def local_features(
    image: ArrayLike,
    descriptor: DescriptorNetwork | str = "rootsift",
    *,
    keypoints: int = 1000,
    side: int = 640,
) -> Features:
    """Detect and describe the keypoints of an image, after reducing it.

    Args:
        image: uint8 image.
        descriptor: Local descriptor: ``"rootsift"``, ``"sift"``, or a descriptor network.
        keypoints: Maximum number of keypoints.
        side: Longer side, pixels, to which the image is reduced.

    Returns:
        Features, in pixels of the reduced image.

    Example:
        >>> local_features(np.zeros((50, 40), np.uint8)).descriptors.shape
        torch.Size([0, 128])
    """
    small = resize_within(check_image(image), side)
    points = detect_keypoints(small, "sift", keypoints=keypoints)
    descriptors = describe_keypoints(small, points, model=descriptor)
    return Features(points, descriptors, image_size(small))


def count_inliers(first: Features, second: Features, threshold: float = 5.0) -> int:
    """Count the matches that agree on a homography; 0 if it folds or squeezes the image.

    In any two images some matches agree on a homography, most often on one that maps all points to
    the same place.

    Args:
        first: Features of one image.
        second: Features of the other image.
        threshold: Maximum error of an inlier, pixels.
    """
    matches = match_local(first, second, threshold)
    if matches.matrix is None:
        return 0
    points0, points1 = matches.points(inliers=True)
    plausible = len(points0) > 0 and _plausible(matches.matrix, points0) and _distinct(points1)
    return len(points0) if plausible else 0


def match_local(first: Features, second: Features, threshold: float) -> Matches:
    """Match two images and fit a homography.

    Args:
        first: Features of one image.
        second: Features of the other image.
        threshold: Maximum error of an inlier, pixels.
    """
    pairs, distance = match_features(first, second)
    return fit_geometry(
        first.keypoints,
        second.keypoints,
        pairs,
        distance,
        threshold=threshold,
        sizes=sizes_of(first, second),
    )


def _plausible(matrix: NDArray[np.float64], points: NDArray[np.float32]) -> bool:
    """Return whether areas at the points keep their orientation and change less than 100-fold."""
    homogeneous = np.concatenate([points.astype(np.float64), np.ones((len(points), 1))], axis=1)
    depth = homogeneous @ matrix[2]
    with np.errstate(divide="ignore", invalid="ignore"):
        # The determinant of the homography's derivative.
        area = np.linalg.det(matrix) / depth**3
    return bool(np.all((area > 0.01) & (area < 100)))


def _distinct(points: NDArray[np.float32]) -> bool:
    """Return whether more than half of the points are at different pixels."""
    return len(np.unique(np.round(points), axis=0)) * 2 > len(points)


class Verified(NamedTuple):
    """A result after verification.

    Attributes:
        place: Place of the result before.
        inliers: Number of inliers; -1 if it was not matched.
    """

    place: int
    inliers: int


def rerank(
    count: int,
    inliers: Callable[[int], int],
    *,
    candidates: int = 50,
    min_inliers: int = MIN_INLIERS,
) -> list[Verified]:
    """Move verified results to the front, by decreasing inliers; the others keep their order.

    Args:
        count: Number of results.
        inliers: Function from the place of a result to its number of inliers.
        candidates: Number of first results to verify.
        min_inliers: Smallest number of inliers of a verified result.

    Returns:
        All results.

    Example:
        >>> [place for place, _ in rerank(4, [0, 30, 5, 90].__getitem__, candidates=3)]
        [1, 0, 2, 3]
    """
    counts = [inliers(place) if place < candidates else -1 for place in range(count)]
    order = sorted(range(count), key=lambda k: -counts[k] if counts[k] >= min_inliers else 0)
    return [Verified(place, counts[place]) for place in order]
