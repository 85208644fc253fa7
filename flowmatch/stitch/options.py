"""Options of stitching."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from flowmatch.matching.features import FeatureExtractor, FeatureMatcher
from flowmatch.matching.keypoints import KeypointDetector
from flowmatch.matching.options import MatchOptions
from flowmatch.stitch.cameras import CAMERA_MODELS
from flowmatch.stitch.project import PROJECTIONS

WAVES = ("auto", "horizontal", "vertical", "none")
EXPOSURES = ("blocks", "gain", "channels", "channel_blocks", "none")
SEAMS = ("graphcut", "graphcut_grad", "dp", "dp_grad", "voronoi", "none")
BLENDS = ("multiband", "feather", "none")
CHOICES: dict[str, tuple[str, ...]] = {
    "motion": CAMERA_MODELS,
    "wave": WAVES,
    "projection": ("auto", *PROJECTIONS),
    "exposure": EXPOSURES,
    "seams": SEAMS,
    "blend": BLENDS,
}
"""Allowed values of each option that takes a name."""


@dataclass(frozen=True, kw_only=True)
class StitchOptions:
    """Options of `stitch_photos`: first those that find cameras, then those that render.

    Attributes:
        detector: Keypoint detector, as in `flowmatch.matching.MatchOptions`.
        detector_weights: File of its weights, as there.
        matcher: Matcher, as there.
        matcher_weights: File of its weights, as there.
        keypoints: Maximum number of keypoints per photo.
        ratio: Threshold of the ratio test, at most 1; None accepts every nearest neighbour.
        neighbours: Number of following photos with which each is matched, for photos given in the
            order in which they were taken; the order is round, so that a full circle closes. None
            finds all photos that overlap.
        similar: Number of most similar photos with which each is matched, for hundreds of photos
            in any order; with `neighbours`, in addition to these. None finds all photos that
            overlap.
        confidence: Smallest ``inliers / (8 + 0.3 * matches)`` of two photos that overlap.
        motion: Motion of the camera between photos: ``"rotation"`` about one place, or
            ``"affine"`` for scans and other flat things from above, which are shifted, rotated
            and scaled.
        wave: Straightening of the horizon, so that up in the photos is up in the panorama:
            ``"horizontal"`` takes the photos' sides to be level, ``"vertical"`` the photos to be
            upright on average, ``"auto"`` both, each as far as it is determined; ``"none"``
            leaves it to the first camera.
        keypoint_megapixels: Size to which photos are reduced before keypoints are detected.
        projection: Surface of the panorama, a name in `PROJECTIONS`; ``"auto"`` takes the one that
            the cameras were saved with: a sphere, or a plane for scans.
        turn: Angles in degrees by which the view is turned after straightening: to the right,
            upwards and clockwise, see `turn_view`.
        exposure: Compensation of brightness: ``"blocks"`` (a gain for each block near seams, a
            tenth of a photo wide, more in panoramas of more than 20 photos), ``"gain"`` (one for
            each photo), ``"channels"`` and ``"channel_blocks"`` (the same for each colour, which
            also balances white), ``"none"``.
        seams: Method that finds the seams between photos: ``"graphcut"`` or ``"dp"`` (dynamic
            programming), by colour or, with ``"_grad"``, also by gradients; ``"voronoi"``;
            ``"none"``.
        blend: ``"multiband"``, ``"feather"`` or ``"none"``.
        blend_width: Width of the blended band in percent of the square root of the panorama's
            area.
        crop: Whether to crop to the largest rectangle without holes.
        megapixels: Size to which photos are reduced for the panorama; None keeps them as they are.
        max_side: Longer side of the panorama, pixels; photos are reduced until it fits. None
            leaves it to `megapixels`.
        seam_megapixels: Size to which photos are reduced for exposure and seams; None takes 0.1.

    Raises:
        ValueError: A value is unknown or out of range.

    Example:
        >>> StitchOptions(motion="affine", crop=False).projection
        'auto'
    """

    detector: str | KeypointDetector | FeatureExtractor = "sift"
    detector_weights: str | Path | None = None
    matcher: str | FeatureMatcher = "nearest"
    matcher_weights: str | Path | None = None
    keypoints: int = 4000
    ratio: float | None = 0.8
    neighbours: int | None = None
    similar: int | None = None
    confidence: float = 1.0
    motion: str = "rotation"
    wave: str = "auto"
    keypoint_megapixels: float = 0.6
    projection: str = "auto"
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    exposure: str = "blocks"
    seams: str = "graphcut"
    blend: str = "multiband"
    blend_width: float = 5.0
    crop: bool = True
    megapixels: float | None = None
    max_side: int | None = None
    seam_megapixels: float | None = None

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        self.matching()
        for name in ("confidence", "keypoint_megapixels", "megapixels", "seam_megapixels"):
            number = getattr(self, name)
            if number is None and name in ("megapixels", "seam_megapixels"):
                continue
            if not 0 < number < math.inf:
                raise ValueError(f"{name} must be positive, got {number}")
        for name in ("neighbours", "similar", "max_side"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"{name} must be positive, got {count}")
        if len(self.turn) != 3 or not all(abs(angle) <= 360 for angle in self.turn):
            raise ValueError(f"turn must be three angles of at most 360 degrees, got {self.turn}")
        if any(self.turn) and self.motion == "affine":
            raise ValueError("turn is for motion rotation: the view of scans cannot be turned")
        if not 0 <= self.blend_width <= 100:
            raise ValueError(f"blend_width must be a percentage, got {self.blend_width}")

    def preview(self) -> "StitchOptions":
        """Return these options for a small panorama in a tenth of the time, or less.

        Keypoints are searched for in 0.2 megapixels of a photo, and the panorama is made of photos
        of 0.1 megapixels.
        """
        return replace(
            self,
            keypoints=min(self.keypoints, 1500),
            keypoint_megapixels=min(self.keypoint_megapixels, 0.2),
            megapixels=min(self.megapixels or 0.1, 0.1),
        )

    def matching(self) -> MatchOptions:
        """Return the options by which two photos are matched.

        Raises:
            ValueError: One is unknown or out of range.
        """
        return MatchOptions(
            detector=self.detector,
            detector_weights=self.detector_weights,
            matcher=self.matcher,
            matcher_weights=self.matcher_weights,
            keypoints=self.keypoints,
            ratio=self.ratio,
        )
