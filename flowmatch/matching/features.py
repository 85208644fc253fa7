"""Features of images, their matches, and the interfaces of the methods that find them."""

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.matching.frame import Size
from flowmatch.matching.keypoints import Keypoints

if TYPE_CHECKING:
    from torch import Tensor


class Features(NamedTuple):
    """Keypoints of an image with their descriptors.

    Attributes:
        keypoints: N keypoints.
        descriptors: ``[N, D]``: a tensor of a network; an array of OpenCV.
        size: Width and height of the image, or None if they are not known.
        image: Gray image in [0, 1], ``[H, W]``, for methods that find keypoints in both images at
            once; None for all others. It may be smaller than `size`.
        mask: ``[H, W]`` uint8 of `size`, 0 where such a method may find none; None: everywhere.
    """

    keypoints: Keypoints
    descriptors: "Tensor | NDArray[Any]"
    size: Size | None = None
    image: NDArray[np.float32] | None = None
    mask: NDArray[np.uint8] | None = None

    def select(self, index: NDArray[np.bool_]) -> "Features":
        """Return the features where a mask is true."""
        return self._replace(
            keypoints=self.keypoints.select(index), descriptors=self.descriptors[index]
        )

    def strongest(self, count: int) -> "Features":
        """Return the first `count` features: those with the best scores."""
        return self._replace(
            keypoints=self.keypoints.select(slice(count)), descriptors=self.descriptors[:count]
        )


class Matches(NamedTuple):
    """Matches of two images.

    Attributes:
        keypoints0: All keypoints of the first image.
        keypoints1: All keypoints of the second image.
        matches: ``[K, 2]`` int64, indices into `keypoints0` and `keypoints1`.
        distances: ``[K]`` float32, descriptor distances; of matchers that report a confidence,
            1 - confidence.
        inliers: ``[K]`` bool, which matches agree with the geometric model; all of them if no model
            was requested.
        matrix: ``[3, 3]`` float64, the geometric model from the first image to the second; None if
            no model was requested, or the fit failed.
        geometry: Name of the geometric model, such as ``"homography"``, or None.
        scores: ``[K]`` float32, similarities by the filter network; None without a filter.
    """

    keypoints0: Keypoints
    keypoints1: Keypoints
    matches: NDArray[np.int64]
    distances: NDArray[np.float32]
    inliers: NDArray[np.bool_]
    matrix: NDArray[np.float64] | None
    geometry: str | None
    scores: NDArray[np.float32] | None = None

    def points(self, *, inliers: bool = False) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the matched points of both images, ``[K, 2]`` each, or only the inliers."""
        matches = self.matches[self.inliers] if inliers else self.matches
        return self.keypoints0.xy[matches[:, 0]], self.keypoints1.xy[matches[:, 1]]

    def unmirrored(self, width: int) -> "Matches":
        """Return matches with a mirrored second image in pixels of it as it was.

        Descriptors tell an image from its mirror image, so that one is matched mirrored.

        Args:
            width: Width of the second image, which was mirrored left to right, pixels.

        Raises:
            ValueError: The matches have an essential matrix: no motion of a camera mirrors a scene.
        """
        if self.geometry == "essential":
            raise ValueError("no motion of a camera mirrors a scene: expected another geometry")
        points = self.keypoints1
        xy = np.stack([width - 1 - points.xy[:, 0], points.xy[:, 1]], axis=1).astype(np.float32)
        keypoints = points._replace(xy=xy, angle=(np.pi - points.angle).astype(np.float32))
        matrix = self.matrix
        if matrix is not None:
            flip = np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]])  # its own inverse
            matrix = (flip if self.geometry == "homography" else flip.T) @ matrix
        return self._replace(keypoints1=keypoints, matrix=matrix)

    @property
    def trusted(self) -> bool:
        """Whether more matches agree with the geometric model than chance explains.

        Of n matches between unrelated images, at most 8 + 0.3 n agree. Without a geometric model,
        any match counts.

        Reference:
            Brown & Lowe, Automatic Panoramic Image Stitching using Invariant Features, IJCV 2007,
            section 3.2.
        """
        if self.geometry is None:
            return len(self.matches) > 0
        count = int(self.inliers.sum())
        return self.matrix is not None and count > 8 + 0.3 * len(self.matches)


@runtime_checkable
class FeatureExtractor(Protocol):
    """Interface of methods that detect the keypoints of an image and describe them."""

    def extract(self, image: ArrayLike, keypoints: int) -> Features:
        """Detect and describe at most `keypoints` keypoints in a uint8 image."""


@runtime_checkable
class FeatureMatcher(Protocol):
    """Interface of methods that match the features of two images."""

    def match(self, first: Features, second: Features) -> Matches:
        """Match two images, by increasing distance, without a geometric model."""


def without_geometry(
    keypoints0: Keypoints,
    keypoints1: Keypoints,
    matches: NDArray[np.int64],
    distances: NDArray[np.float32],
) -> Matches:
    """Return matches to which no geometric model was fitted: all of them are inliers."""
    inliers = np.ones(len(matches), np.bool_)
    return Matches(keypoints0, keypoints1, matches, distances, inliers, None, None)


def image_size(image: ArrayLike) -> Size:
    """Return width and height of an image."""
    H, W = np.shape(image)[:2]
    return W, H


def sizes_of(first: Features, second: Features) -> tuple[Size, Size] | None:
    """Return the sizes of both images, or None unless both are known."""
    return (first.size, second.size) if first.size and second.size else None
