"""Options of matching two images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from flowmatch.devices import check_precision
from flowmatch.matching.keypoints import DETECTORS
from flowmatch.matching.networks import PatchComparator

# Geometric models, and the number of matches that each needs.
GEOMETRIES = {"homography": 4, "fundamental": 8, "essential": 5}

Intrinsics = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True)
class MatchOptions:
    """Options of `match_images`.

    Attributes:
        detector: Keypoint detector: ``"sift"``, ``"orb"`` or ``"grid"``, see `detect_keypoints`.
        keypoints: Maximum number of keypoints per image; those with the best scores are kept.
        ratio: Threshold of the ratio test: a match is accepted if its distance is at most `ratio`
            times that of the second nearest neighbour. None turns the test off.
        mutual: Accept mutual nearest neighbours only.
        filter_model: Network that compares the patches of each match and rejects dissimilar ones:
            ``"siam"``, ``"2ch"``, a file of weights or a module. None turns the filter off.
        min_score: Similarity that a match must exceed in `filter_model`; 0 is the networks'
            decision boundary.
        geometry: Geometric model that inliers agree on: ``"homography"`` (a plane, or a camera that
            only rotated), ``"fundamental"`` or ``"essential"`` (any rigid scene). None fits no
            model.
        threshold: Maximum error of an inlier, pixels.
        intrinsics: Camera matrices ``[3, 3]`` of both images; required by ``"essential"``.
        magnification: Half the side of a patch, in keypoint scales, for networks; None takes the
            value that each network was trained with.
        batch: Number of patches described at once; None chooses it by device.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``, see `describe_keypoints`.

    Raises:
        ValueError: An option is out of range, or ``"essential"`` lacks intrinsics.

    Example:
        >>> MatchOptions(geometry="fundamental", threshold=1.0).ratio
        0.8
    """

    detector: str = "sift"
    keypoints: int = 8000
    ratio: float | None = 0.8
    mutual: bool = True
    filter_model: PatchComparator | nn.Module | str | Path | None = None
    min_score: float = 0.0
    geometry: str | None = "homography"
    threshold: float = 3.0
    intrinsics: Intrinsics | None = None
    magnification: float | None = None
    batch: int | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.detector not in DETECTORS:
            known = ", ".join(DETECTORS)
            raise ValueError(f"detector must be one of {known}, got {self.detector!r}")
        for name in ("keypoints", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(f"expected 0 < ratio <= 1, or None, got {self.ratio}")
        if not np.isfinite(self.min_score):
            raise ValueError(f"min_score must be finite, got {self.min_score}")
        if self.magnification is not None and not 0 < self.magnification < np.inf:
            raise ValueError(f"magnification must be positive, got {self.magnification}")
        check_precision(self.precision)
        check_geometry(self.geometry, self.threshold, self.intrinsics)


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
