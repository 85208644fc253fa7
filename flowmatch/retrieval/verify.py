"""Whether what was found shows the same thing: do enough points agree on a homography?"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.matching import describe_keypoints, detect_keypoints
from flowmatch.matching.match import Features, Matches, fit_geometry, match_features
from flowmatch.matching.networks import DescriptorNetwork
from flowmatch.retrieval.describe import at_most

# Fewer than these agree by chance now and then (Philbin et al., CVPR 2007, take 4 to 20).
ENOUGH = 12


class Verifier:
    """Match one query to pictures, describing it once.

    Args:
        query: uint8 picture.
        descriptor: Local, as in `flowmatch.matching.describe`.
        keypoints: At most, of each picture.
        side: Pixels that longer sides are shrunk to.
        threshold: Pixels that an inlier may be off.

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
        """Find and describe the points of a picture, as large as it is shrunk to."""
        return local_features(image, self.descriptor, keypoints=self.keypoints, side=self.side)

    def match(self, image: ArrayLike) -> Matches:
        """Match the query to a picture, both as large as they are shrunk to."""
        return _match(self.query, self.features(image), self.threshold)

    def inliers(self, image: ArrayLike) -> int:
        """Count what agrees on a homography, see `count_inliers`."""
        return count_inliers(self.query, self.features(image), self.threshold)


def local_features(
    image: ArrayLike,
    descriptor: DescriptorNetwork | str = "rootsift",
    *,
    keypoints: int = 1000,
    side: int = 640,
) -> Features:
    """Find and describe the points of a picture, after shrinking it to `side` pixels.

    Example:
        >>> local_features(np.zeros((50, 40), np.uint8)).descriptors.shape
        torch.Size([0, 128])
    """
    small = at_most(image, side)
    points = detect_keypoints(small, "sift", keypoints=keypoints)
    return Features(points, describe_keypoints(small, points, model=descriptor))


def count_inliers(first: Features, second: Features, threshold: float = 5.0) -> int:
    """Count what agrees on a homography; 0 where that folds or squeezes the picture.

    Some matches agree on a homography between any two pictures: most often one that puts all
    points in the same place.

    Args:
        first: Of one picture.
        second: Of the other.
        threshold: Pixels that an inlier may be off.
    """
    found = _match(first, second, threshold)
    if found.matrix is None:
        return 0
    here, there = found.points(inliers=True)
    plausible = len(here) > 0 and _plausible(found.matrix, here) and _apart(there)
    return len(here) if plausible else 0


def _match(first: Features, second: Features, threshold: float) -> Matches:
    pairs, distance = match_features(first, second)
    return fit_geometry(first.keypoints, second.keypoints, pairs, distance, threshold=threshold)


def _plausible(matrix: NDArray[np.float64], points: NDArray[np.float32]) -> bool:
    """Say if areas around the points keep their orientation and change less than 100 times."""
    homogeneous = np.concatenate([points.astype(np.float64), np.ones((len(points), 1))], axis=1)
    depth = homogeneous @ matrix[2]
    with np.errstate(divide="ignore", invalid="ignore"):
        # The determinant of a homography's derivative.
        area = np.linalg.det(matrix) / depth**3
    return bool(np.all((area > 0.01) & (area < 100)))


def _apart(points: NDArray[np.float32]) -> bool:
    """Say if most points are in places of their own."""
    return len(np.unique(np.round(points), axis=0)) * 2 > len(points)


class Verified(NamedTuple):
    """A result after verification: which one, and how many points agree (-1: not looked at)."""

    place: int
    inliers: int


def rerank(
    count: int, inliers: Callable[[int], int], *, most: int = 50, enough: int = ENOUGH
) -> list[Verified]:
    """Put verified results first, by how many points agree; the others keep their order.

    Args:
        count: How many results there are.
        inliers: Counts those of a result, by its place.
        most: How many of the first to look at.
        enough: Points that have to agree.

    Returns:
        All results.

    Example:
        >>> [place for place, _ in rerank(4, [0, 30, 5, 90].__getitem__, most=3)]
        [1, 0, 2, 3]
    """
    counts = [inliers(place) if place < most else -1 for place in range(count)]
    order = sorted(range(count), key=lambda k: -counts[k] if counts[k] >= enough else 0)
    return [Verified(place, counts[place]) for place in order]
