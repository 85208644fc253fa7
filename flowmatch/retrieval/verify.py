"""Whether what was found shows the same thing: do enough points agree on a homography?"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.patches import describe, detect
from flowmatch.patches.match import Features, Matches, fit_geometry, match_features
from flowmatch.patches.networks import DescriptorNetwork
from flowmatch.retrieval.describe import at_most

# Fewer than these agree by chance now and then (Philbin et al., CVPR 2007, take 4 to 20).
ENOUGH = 12


class Verifier:
    """Match one query to pictures, describing it once.

    Args:
        query: uint8 picture.
        descriptor: Local, as in `flowmatch.patches.describe`.
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
        self.query = self._features(query)

    def _features(self, image: ArrayLike) -> Features:
        small = at_most(image, self.side)
        points = detect(small, "sift", keypoints=self.keypoints)
        return Features(points, describe(self.descriptor, small, points))

    def match(self, image: ArrayLike) -> Matches:
        """Match the query to a picture, both as large as they are shrunk to."""
        other = self._features(image)
        pairs, distance = match_features(self.query, other)
        return fit_geometry(
            self.query.keypoints, other.keypoints, pairs, distance, threshold=self.threshold
        )

    def inliers(self, image: ArrayLike) -> int:
        """Count what agrees on a homography; 0 where that folds or squeezes the picture.

        Some matches agree on a homography between any two pictures: most often one that puts all
        points in the same place.
        """
        found = self.match(image)
        if found.matrix is None:
            return 0
        first, second = found.points(inliers=True)
        plausible = len(first) > 0 and _plausible(found.matrix, first) and _apart(second)
        return len(first) if plausible else 0


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
