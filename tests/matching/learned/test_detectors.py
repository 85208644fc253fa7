"""Detectors of kornia, with random weights: positions, order, numbers, and what needs them."""

import numpy as np
import pytest
import torch

from flowmatch.matching.describe import describe_keypoints
from flowmatch.matching.features import FeatureExtractor
from flowmatch.matching.keypoints import KeypointDetector
from flowmatch.matching.learned import DESCRIBING_DETECTORS
from flowmatch.matching.learned import detectors as module
from flowmatch.matching.learned.detectors import LearnedFeatures, load_detector
from flowmatch.matching.match import match_images
from flowmatch.matching.methods import extract_features, load_methods
from flowmatch.matching.options import MatchOptions


@pytest.mark.parametrize("name", DESCRIBING_DETECTORS)
def test_features(name, published, photo):
    extractor = load_detector(name, published(name), "cpu")
    assert isinstance(extractor, FeatureExtractor) and not isinstance(extractor, KeypointDetector)
    features = extractor.extract(photo, 50)
    points, descriptors = features.keypoints, features.descriptors
    assert features.size == (451, 300)
    assert 20 < len(points.xy) <= 50 and descriptors.shape == (len(points.xy), extractor.dim)
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(len(points.xy)))
    assert (np.diff(points.score) <= 0).all()
    assert (points.xy >= 0).all() and (points.xy <= (450, 299)).all()
    np.testing.assert_allclose(points.scale * 6, 16)  # patches of 32 pixels
    assert not descriptors.requires_grad and not descriptors.is_inference()
    # The same weights are loaded once.
    assert load_detector(name, published(name), "cpu") is extractor


@pytest.mark.parametrize("name", DESCRIBING_DETECTORS)
def test_an_image_that_is_too_small_has_no_features(name, published):
    features = load_detector(name, published(name), "cpu").extract(np.zeros((31, 90), np.uint8), 9)
    assert len(features.keypoints.xy) == len(features.descriptors) == 0


def test_positions_of_xfeat_are_those_of_the_image(published):
    """XFeat reduces 94 x 63 pixels to 64 x 32: its pixel 0 covers half a pixel before and after."""

    class Network(torch.nn.Linear):
        def detectAndCompute(self, image, top_k):
            return [{
                "keypoints": torch.tensor([[0.0, 0.0], [63.0 * 94 / 64, 31.0 * 63 / 32]]),
                "scores": torch.tensor([1.0, 2.0]), "descriptors": torch.eye(2),
            }]  # fmt: skip

    extractor = LearnedFeatures("xfeat", Network(1, 1), 2, module._detect_xfeat)
    xy = extractor.extract(np.zeros((63, 94), np.uint8), 5).keypoints.xy
    # The outermost pixels are equally far from their borders.
    first = (94 / 64 - 1) / 2, (63 / 32 - 1) / 2
    np.testing.assert_allclose(xy, [[93 - first[0], 62 - first[1]], first], atol=1e-4)


def test_keynet_detects_for_any_descriptor(published, photo):
    detector = load_detector("keynet", published("keynet"), "cpu")
    assert isinstance(detector, KeypointDetector) and not isinstance(detector, FeatureExtractor)
    points = detector.detect(photo, 40)
    assert 10 < len(points.xy) <= 40
    assert (points.scale > 0).all() and (points.score > 0).all()
    assert describe_keypoints(photo, points, model="rootsift").shape == (len(points.xy), 128)
    assert len(detector.detect(photo[:20], 40).xy) == 0


def test_keynet_gives_the_centre_the_side_and_the_angle_of_a_frame(photo):
    """A frame that takes the unit circle to radius 12, turned by 30 degrees, around (40, 50)."""
    cos, sin = 12 * np.cos(np.pi / 6), 12 * np.sin(np.pi / 6)

    class Network(torch.nn.Linear):
        def forward(self, image):
            frame = torch.tensor([[cos, -sin, 40.0], [sin, cos, 50.0]])
            return torch.stack([frame, 0 * frame])[None], torch.tensor([[0.7, 0.0]])

    points = module.KeyNetDetector(Network(1, 1)).detect(photo, 2)
    np.testing.assert_allclose(points.xy, [[40, 50]])
    np.testing.assert_allclose(points.scale, [2], rtol=1e-6)
    np.testing.assert_allclose(points.angle, [np.pi / 6], rtol=1e-6)
    np.testing.assert_allclose(points.score, [0.7])


def test_a_shift_is_found_with_random_weights(published, photo):
    options = MatchOptions(
        detector="disk", detector_weights=published("disk"), keypoints=500, ratio=None
    )
    result = match_images(photo[:200, :304], photo[16:216, 32:336], device="cpu", options=options)
    np.testing.assert_allclose(result.matrix, [[1, 0, -32], [0, 1, -16], [0, 0, 1]], atol=1e-3)
    with pytest.raises(ValueError, match="detector disk describes its keypoints itself"):
        match_images(photo, photo, model="rootsift", device="cpu", options=options)


def test_a_large_image_is_reduced_and_positions_are_not(published, photo):
    wide = np.ascontiguousarray(photo.repeat(2, axis=0).repeat(2, axis=1))
    options = MatchOptions(detector="disk", detector_weights=published("disk"), keypoints=200)
    extractor = load_methods("default", "cpu", options).extractor
    small = extract_features(photo, extractor, options)
    reduced = extract_features(wide, extractor, MatchOptions(keypoints=200, max_side=451))
    assert reduced.size == (902, 600)
    # The pixel (x, y) covers those from (2x, 2y) to (2x + 1, 2y + 1) in the large image.
    np.testing.assert_allclose(reduced.keypoints.xy, 2 * small.keypoints.xy + 0.5)
    np.testing.assert_allclose(reduced.keypoints.scale, 2 * small.keypoints.scale, rtol=1e-6)
    torch.testing.assert_close(reduced.descriptors, small.descriptors)
