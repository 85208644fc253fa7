"""Options of matching two images."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from flowmatch.matching.features import FeatureExtractor, FeatureMatcher
from flowmatch.matching.keypoints import DETECTORS, KeypointDetector
from flowmatch.matching.learned import DESCRIBING_DETECTORS, LEARNED_DETECTORS, LEARNED_MATCHERS

if TYPE_CHECKING:
    from torch import nn

    from flowmatch.matching.networks import PatchComparator

# Geometric models, and the number of matches that each needs.
GEOMETRIES = {"homography": 4, "fundamental": 8, "essential": 5}

ALL_DETECTORS = (*DETECTORS, *LEARNED_DETECTORS)
"""Names of detectors: OpenCV's and a grid, then those of kornia."""
MATCHERS = ("nearest", *LEARNED_MATCHERS)
"""Names of matchers: nearest neighbours of descriptors, then those of kornia."""

Intrinsics = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True)
class MatchOptions:
    """Options of `match_images`.

    Attributes:
        detector: Keypoint detector: ``"sift"``, ``"orb"`` or ``"grid"``, see `detect_keypoints`;
            by kornia ``"keynet"``, and ``"disk"``, ``"aliked"`` or ``"xfeat"``, which describe
            their keypoints themselves; or an object with such a method.
        detector_weights: File of weights of a detector of kornia; None lets kornia download them.
        keypoints: Maximum number of keypoints per image; those with the best scores are kept.
        max_side: Longer side to which larger images are reduced before features are detected,
            pixels; None reduces none. Results are in pixels of the images as given.
        matcher: ``"nearest"``, the nearest neighbours of descriptors; by kornia ``"lightglue"``,
            for the detectors disk, aliked and xfeat and for sift with the model rootsift, or
            ``"loftr"``, which needs no keypoints; or an object with such a method.
        matcher_weights: File of weights of a matcher of kornia; None lets kornia download them.
        ratio: Threshold of the ratio test of ``"nearest"``: a match is accepted if its distance is
            at most `ratio` times that of the second nearest neighbour. None turns the test off.
        mutual: Accept mutual nearest neighbours only, for ``"nearest"``.
        filter_model: Network that compares the patches of each match and rejects dissimilar ones:
            ``"siam"``, ``"2ch"``, a file of weights or a module. None turns the filter off.
        min_score: Similarity that a match must exceed in `filter_model`; 0 is the networks'
            decision boundary.
        geometry: Geometric model that inliers agree on: ``"homography"`` (a plane, or a camera that
            only rotated), ``"fundamental"`` or ``"essential"`` (any rigid scene). None fits no
            model.
        threshold: Maximum error of an inlier, pixels.
        intrinsics: Camera matrices ``[3, 3]`` of both images; required by ``"essential"``.
        guided: Match keypoints without an inlier once more, where the homography expects them, and
            fit it again: after ``"nearest"`` without a filter, unless chance explains the
            homography.
        magnification: Half the side of a patch, in keypoint scales, for networks; None takes the
            value that each network was trained with.
        batch: Number of patches described at once; None chooses it by device.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``, see `describe_keypoints`.

    Raises:
        ValueError: An option is out of range, ``"essential"`` lacks intrinsics, or a file of
            weights or a detector is given that would not be used.

    Example:
        >>> MatchOptions(geometry="fundamental", threshold=1.0).ratio
        0.8
    """

    detector: str | KeypointDetector | FeatureExtractor = "sift"
    detector_weights: str | Path | None = None
    keypoints: int = 8000
    max_side: int | None = None
    matcher: str | FeatureMatcher = "nearest"
    matcher_weights: str | Path | None = None
    ratio: float | None = 0.8
    mutual: bool = True
    filter_model: "PatchComparator | nn.Module | str | Path | None" = None
    min_score: float = 0.0
    geometry: str | None = "homography"
    threshold: float = 3.0
    intrinsics: Intrinsics | None = None
    guided: bool = True
    magnification: float | None = None
    batch: int | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        self._check_methods()
        for name in ("keypoints", "max_side", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(f"expected 0 < ratio <= 1, or None, got {self.ratio}")
        if not np.isfinite(self.min_score):
            raise ValueError(f"min_score must be finite, got {self.min_score}")
        if self.magnification is not None and not 0 < self.magnification < np.inf:
            raise ValueError(f"magnification must be positive, got {self.magnification}")
        if self.precision != "float32":
            from flowmatch.devices import check_precision  # imports torch

            check_precision(self.precision)
        check_geometry(self.geometry, self.threshold, self.intrinsics)

    def _check_methods(self) -> None:
        for name, known in (("detector", ALL_DETECTORS), ("matcher", MATCHERS)):
            value = getattr(self, name)
            if isinstance(value, str) and value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if self.matcher == "loftr" and self.detector != "sift":
            raise ValueError(
                f"matcher loftr finds its keypoints itself: it takes no detector, "
                f"got {self.detector!r}"
            )
        for name, learned in (("detector", LEARNED_DETECTORS), ("matcher", LEARNED_MATCHERS)):
            value, weights = getattr(self, name), getattr(self, f"{name}_weights")
            if weights is not None and value not in learned:
                raise ValueError(
                    f"weights of the {name} are for {', '.join(learned)}, got {weights} "
                    f"for {value!r}"
                )

    @property
    def takes_model(self) -> bool:
        """Whether a descriptor describes the keypoints, rather than detector or matcher."""
        if isinstance(self.detector, str):
            return self.matcher != "loftr" and self.detector not in DESCRIBING_DETECTORS
        return isinstance(self.detector, KeypointDetector)


def check_geometry(
    geometry: str | None, threshold: float = 3.0, intrinsics: Intrinsics | None = None
) -> None:
    """Raise ValueError for an unknown model, missing intrinsics or an invalid threshold."""
    if geometry is not None and geometry not in GEOMETRIES:
        known = ", ".join(GEOMETRIES)
        raise ValueError(f"geometry must be one of {known}, or None, got {geometry!r}")
    if not 0 < threshold < np.inf:
        raise ValueError(f"threshold must be a positive number of pixels, got {threshold}")
    if geometry == "essential":
        shapes = [np.shape(K) for K in intrinsics] if intrinsics is not None else None
        if shapes != [(3, 3), (3, 3)]:
            raise ValueError(
                "an essential matrix needs intrinsics, [3, 3] for both images, "
                f"got {'none' if shapes is None else shapes}"
            )
