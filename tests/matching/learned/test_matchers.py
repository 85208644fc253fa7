"""LightGlue and LoFTR: what they are given, order, positions, and what needs them."""

import numpy as np
import pytest
import torch

from flowmatch.matching.features import FeatureMatcher, Features, without_geometry
from flowmatch.matching.keypoints import Keypoints
from flowmatch.matching.learned.matchers import (
    LIGHTGLUE_FEATURES,
    LightGlueMatcher,
    LoFTRMatcher,
    WholeImages,
    load_lightglue,
    load_loftr,
)
from flowmatch.matching.match import match_images
from flowmatch.matching.methods import extract_features, load_methods
from flowmatch.matching.options import MatchOptions

KF = pytest.importorskip("kornia.feature")


def at(xy):
    xy = np.asarray(xy, np.float32)
    ones = np.ones(len(xy), np.float32)
    return Keypoints(xy, 2 * ones, 0.5 * ones, ones)


class Recorder(torch.nn.Linear):
    """A network that keeps its input and returns what it was told."""

    def __init__(self, **result):
        super().__init__(1, 1)
        self.result = result

    def forward(self, data):
        self.data = data
        return self.result


def test_lightglue_is_given_what_it_expects():
    network = Recorder(
        matches=[torch.tensor([[0, 1], [1, 0]])], scores=[torch.tensor([0.25, 0.75])]
    )
    first = Features(at([[-0.25, 3], [7, 5]]), torch.eye(2), (40, 30))
    second = Features(at([[1, 2], [3, 4]]), torch.eye(2), (20, 10))
    result = LightGlueMatcher(network).match(first, second)
    np.testing.assert_array_equal(result.matches, [[1, 0], [0, 1]])
    np.testing.assert_allclose(result.distances, [0.25, 0.75])  # 1 - confidence
    assert result.geometry is None and result.inliers.all()
    given = network.data["image0"]
    assert given["keypoints"].tolist() == [[[0, 3], [7, 5]]]  # within the image
    assert given["image_size"].tolist() == [[40, 30]]
    assert given["scales"].tolist() == [[2, 2]] and given["oris"].tolist() == [[0.5, 0.5]]
    none = first._replace(keypoints=at(np.empty((0, 2))), descriptors=torch.empty(0, 2))
    assert LightGlueMatcher(network).match(none, second).matches.shape == (0, 2)
    with pytest.raises(ValueError, match="LightGlue needs the sizes of the images"):
        LightGlueMatcher(network).match(first._replace(size=None), second)


@pytest.mark.parametrize("features", LIGHTGLUE_FEATURES)
def test_lightglue_of_a_file(features, tmp_path):
    settings = {k: v for k, v in KF.LightGlue.features[features].items() if k != "weights"}
    torch.manual_seed(0)
    # As published: layers under their old names, without buffers.
    state = {
        key: value
        for key, value in KF.LightGlue(None, **settings).state_dict().items()
        if key != "confidence_thresholds"
    }
    old = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "transformers":
            key = ".".join([parts[2], parts[1], *parts[3:]])
        old[key] = value
    torch.save(old, tmp_path / "lightglue.pth")
    matcher = load_lightglue(features, tmp_path / "lightglue.pth", "cpu")
    assert isinstance(matcher, FeatureMatcher)
    loaded = matcher.network.state_dict()
    torch.testing.assert_close({key: loaded[key] for key in state}, state)
    dim = KF.LightGlue.features[features]["input_dim"]
    described = torch.nn.functional.normalize(torch.randn(6, dim), dim=1)
    points = at(np.random.default_rng(0).uniform(0, 30, (6, 2)))
    result = matcher.match(*[Features(points, described, (40, 30))] * 2)
    assert result.matches.shape[1] == 2 and len(result.distances) == len(result.matches)


def test_sift_goes_with_rootsift_only(tmp_path, photo):
    with pytest.raises(ValueError, match="for sift with the model rootsift"):
        match_images(photo, photo, device="cpu", options=MatchOptions(matcher="lightglue"))


def test_loftr_has_positions_of_pixels_of_full_size():
    network = Recorder(
        keypoints0=torch.tensor([[8.0, 16.0], [0.0, 8.0]]),
        keypoints1=torch.tensor([[9.5, 17.5], [1.0, 9.0]]),
        confidence=torch.tensor([0.5, 0.75]),
    )
    matcher = LoFTRMatcher(network, keypoints=5)
    image = np.full((80, 128), 51, np.uint8)
    first, second = (
        extract_features(image, WholeImages(), MatchOptions(max_side=side)) for side in (None, 64)
    )
    assert first.image.shape == (80, 128) and second.image.shape == (40, 64)
    assert first.size == second.size == (128, 80)
    result = matcher.match(first, second)
    assert network.data["image1"].shape == (1, 1, 40, 64)
    np.testing.assert_allclose(network.data["image0"].unique(), 0.2)
    # The most confident first. LoFTR's centre of the first pixel is (0.5, 0.5).
    np.testing.assert_allclose(result.keypoints0.xy, [[-0.5, 7.5], [7.5, 15.5]])
    np.testing.assert_allclose(result.keypoints1.xy, [[1.5, 17.5], [18.5, 34.5]])
    np.testing.assert_array_equal(result.matches, [[0, 0], [1, 1]])
    np.testing.assert_allclose(result.distances, [0.25, 0.5])
    assert LoFTRMatcher(network, keypoints=1).match(first, second).matches.tolist() == [[0, 0]]
    mask = np.full((80, 128), 255, np.uint8)
    mask[9:, :16] = 0  # around the second match
    first = extract_features(image, WholeImages(), MatchOptions(), mask)
    np.testing.assert_allclose(matcher.match(first, second).keypoints1.xy, [[1.5, 17.5]])


def test_loftr_of_a_file(published, photo):
    options = MatchOptions(matcher="loftr", matcher_weights=published("loftr"), max_side=96)
    result = match_images(photo, photo, device="cpu", options=options)
    assert len(result.keypoints0.xy) == len(result.keypoints1.xy) == len(result.matches)
    assert result.geometry == "homography"
    small = np.zeros((20, 90), np.uint8)
    assert load_loftr(published("loftr"), "cpu").match(
        *[extract_features(small, WholeImages(), options)] * 2
    ).matches.shape == (0, 2)
    with pytest.raises(ValueError, match="loftr finds its keypoints itself: it takes no model"):
        match_images(photo, photo, model="sift", device="cpu", options=options)


def test_methods_of_ones_own(photo):
    class Corners:
        def extract(self, image, keypoints):
            xy = [[0, 0], [9, 0], [0, 9], [9, 9], [4, 2]]
            return Features(at(xy), torch.eye(5), (10, 10))

    class InOrder:
        def match(self, first, second):
            order = np.arange(5)
            return without_geometry(
                first.keypoints, second.keypoints, np.stack([order, order], axis=1),
                np.zeros(5, np.float32),
            )  # fmt: skip

    options = MatchOptions(detector=Corners(), matcher=InOrder(), geometry=None)
    assert len(match_images(photo, photo, options=options).matches) == 5
    assert not options.takes_model
    assert isinstance(load_methods("default", "cpu", options).matcher, InOrder)
