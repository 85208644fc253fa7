"""Methods of matching by name: what finds features in an image, and what matches two of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.imaging import check_image, resize_within
from flowmatch.matching._array_matching import match_arrays
from flowmatch.matching.classical import CLASSICAL, describe_classically, root_sift
from flowmatch.matching.features import (
    FeatureExtractor,
    FeatureMatcher,
    Features,
    Matches,
    image_size,
    without_geometry,
)
from flowmatch.matching.frame import Size
from flowmatch.matching.keypoints import (
    DETECTORS,
    KeypointDetector,
    Keypoints,
    detect_and_describe_sift,
    detect_keypoints,
)
from flowmatch.matching.options import MatchOptions

# PyTorch is imported by networks only: its start takes longer than a small panorama.
if TYPE_CHECKING:
    import torch
    from torch import nn

    from flowmatch.matching.networks import DescriptorNetwork


class Methods(NamedTuple):
    """What finds features in an image, and what matches two of them."""

    extractor: FeatureExtractor
    matcher: FeatureMatcher


class DescribedKeypoints:
    """Keypoints of a detector, described by a network or by OpenCV, as a `FeatureExtractor`.

    Args:
        detector: Name for `detect_keypoints`, or a network.
        network: Descriptor network, or ``"rootsift"``, ``"sift"``, ``"orb"``.
        options: Magnification, batch and precision.
    """

    def __init__(
        self,
        detector: str | KeypointDetector,
        network: "DescriptorNetwork | str",
        options: MatchOptions,
    ) -> None:
        self.detector, self.network, self.options = detector, network, options

    def extract(self, image: ArrayLike, keypoints: int) -> Features:
        """Detect and describe at most `keypoints` keypoints in a uint8 image."""
        if self.detector == "sift" and self.network in ("sift", "rootsift"):
            # One pyramid instead of two.
            points, sift = detect_and_describe_sift(image, keypoints)
            described = root_sift(sift) if self.network == "rootsift" else sift
            return Features(points, described, image_size(image))
        points = detect_keypoints(image, self.detector, keypoints=keypoints)
        if isinstance(self.network, str) and self.network in CLASSICAL:
            described = describe_classically(image, points, self.network)
            return Features(points, described, image_size(image))
        from flowmatch.matching.describe import describe_keypoints

        descriptors = describe_keypoints(
            image,
            points,
            model=self.network,
            magnification=self.options.magnification,
            batch=self.options.batch,
            precision=self.options.precision,
        )
        return Features(points, descriptors, image_size(image))


class NearestMatcher:
    """Nearest neighbours of descriptors, as a `FeatureMatcher`.

    Args:
        ratio: Threshold of the ratio test; None turns the test off.
        mutual: Accept mutual nearest neighbours only.
    """

    def __init__(self, ratio: float | None = 0.8, mutual: bool = True) -> None:
        self.ratio, self.mutual = ratio, mutual

    def match(self, first: Features, second: Features) -> Matches:
        """Match descriptors of equal length and type."""
        pairs = match_features(first, second, ratio=self.ratio, mutual=self.mutual)
        return without_geometry(first.keypoints, second.keypoints, *pairs)


def match_features(
    first: Features, second: Features, *, ratio: float | None = 0.8, mutual: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Match descriptors by distance.

    Args:
        first: Features of one image.
        second: Features of the other image, by the same descriptor.
        ratio: Threshold of the ratio test; None turns the test off.
        mutual: Accept mutual nearest neighbours only.

    Returns:
        Index pairs ``[K, 2]``, by increasing distance, and their distances ``[K]``.

    Raises:
        ValueError: The descriptors differ in length or type, or `ratio` is out of range.
    """
    queries, references = first.descriptors, second.descriptors
    if isinstance(queries, np.ndarray) and isinstance(references, np.ndarray):
        return match_arrays(queries, references, ratio=ratio, mutual=mutual)
    import torch

    from flowmatch.ops import nearest

    queries, references = torch.as_tensor(queries), torch.as_tensor(references)
    metric = "hamming" if queries.dtype == torch.uint8 else "l2"
    neighbours = nearest(queries, references, 1, metric, ratio=ratio, mutual=mutual)
    index, distance = neighbours.index[:, 0], neighbours.distance[:, 0].float()
    accepted = index >= 0 if neighbours.accepted is None else neighbours.accepted
    chosen = accepted.nonzero()[:, 0]
    chosen = chosen[distance[chosen].argsort(stable=True)]
    matches = torch.stack([chosen, index[chosen]], dim=1)
    return matches.cpu().numpy(), distance[chosen].cpu().numpy()


def load_methods(
    model: "DescriptorNetwork | nn.Module | str | Path",
    device: "str | torch.device | None",
    options: MatchOptions,
) -> Methods:
    """Load the detector, the descriptor and the matcher of some options.

    Args:
        model: Descriptor of `match_images`; ``"default"`` if the detector describes its keypoints
            itself, or the matcher needs none.
        device: Device of the networks; None takes a GPU if torch can use one.
        options: Options of `match_images`.

    Raises:
        ValueError: A name is unknown, the methods do not fit each other, or a file does not hold
            the network.
        FileNotFoundError: A file of weights does not exist.
        ImportError: A method needs kornia, which is not installed.
        ConnectionError: Weights cannot be downloaded.
    """
    if options.matcher == "loftr":
        from flowmatch.matching.learned.matchers import WholeImages, load_loftr

        _check_unused(model, "matcher loftr finds its keypoints itself")
        loftr = load_loftr(options.matcher_weights, device, keypoints=options.keypoints)
        return Methods(WholeImages(), loftr)
    extractor = _load_extractor(model, device, options)
    if options.matcher == "nearest":
        return Methods(extractor, NearestMatcher(options.ratio, options.mutual))
    if options.matcher == "lightglue":
        from flowmatch.matching.learned.matchers import load_lightglue

        features = _lightglue_features(extractor)
        return Methods(extractor, load_lightglue(features, options.matcher_weights, device))
    assert not isinstance(options.matcher, str)
    return Methods(extractor, options.matcher)


def _load_extractor(
    model: "DescriptorNetwork | nn.Module | str | Path",
    device: "str | torch.device | None",
    options: MatchOptions,
) -> FeatureExtractor:
    detector: Any = options.detector
    if isinstance(detector, str) and detector not in DETECTORS:
        from flowmatch.matching.learned.detectors import load_detector

        detector = load_detector(detector, options.detector_weights, device)
    if isinstance(detector, FeatureExtractor):
        _check_unused(model, f"detector {_name(detector)} describes its keypoints itself")
        return detector
    if isinstance(model, str) and model in CLASSICAL:
        return DescribedKeypoints(detector, model, options)
    from flowmatch.matching.describe import load_descriptor

    return DescribedKeypoints(detector, load_descriptor(model, device), options)


def _check_unused(model: Any, reason: str) -> None:
    if not isinstance(model, str | Path) or str(model) != "default":
        raise ValueError(f"{reason}: it takes no model, got {model!s:.60}")


def _name(extractor: Any) -> str:
    return str(getattr(extractor, "name", type(extractor).__name__))


def _lightglue_features(extractor: FeatureExtractor) -> str:
    """Return the name of LightGlue's weights for the features of an extractor."""
    if not isinstance(extractor, DescribedKeypoints):
        return _name(extractor)
    if (extractor.detector, extractor.network) != ("sift", "rootsift"):
        raise ValueError(
            "matcher lightglue has weights for the detectors disk, aliked and xfeat, and for sift "
            "with the model rootsift"
        )
    return "sift"


def extract_features(
    image: ArrayLike,
    extractor: FeatureExtractor,
    options: MatchOptions,
    mask: NDArray[np.uint8] | None = None,
) -> Features:
    """Find the features of an image; a large one is reduced to `max_side` before.

    Args:
        image: uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        extractor: What finds them.
        options: `keypoints` and `max_side`.
        mask: ``[H, W]``, 0 where the image is transparent or masked: there, and nearer than their
            scale, keypoints are left out.

    Returns:
        Features in pixels of the image itself.
    """
    pixels = check_image(image)
    reduced = pixels if options.max_side is None else resize_within(pixels, options.max_side)
    features = extractor.extract(reduced, options.keypoints)
    if reduced is not pixels:
        features = _enlarged(features, image_size(pixels), image_size(reduced))
    if mask is None:
        return features
    if features.image is not None:  # the matcher finds the keypoints
        return features._replace(mask=mask)
    return features.select(features.keypoints.inside(mask))


def _enlarged(features: Features, size: Size, reduced: Size) -> Features:
    """Return features of a reduced image in pixels of the image itself."""
    factors = np.divide(size, reduced)
    points = features.keypoints
    xy = (points.xy + 0.5) * factors - 0.5  # the corner of the first pixel is a fixed point
    scale = points.scale * np.sqrt(factors.prod())
    enlarged = Keypoints(
        xy.astype(np.float32), scale.astype(np.float32), points.angle, points.score
    )
    return features._replace(keypoints=enlarged, size=size)
