"""Verification by homographies, and the order of verified results."""

import numpy as np
import pytest
from skimage import data

from flowmatch._opencv import cv2
from flowmatch.retrieval import Verifier
from flowmatch.retrieval.verify import count_inliers, local_features, rerank


@pytest.fixture(scope="module")
def verifier():
    turn = cv2.getRotationMatrix2D((225, 150), 40, 0.8)
    return Verifier(cv2.warpAffine(data.chelsea(), turn, (451, 300)), keypoints=500)


def test_inliers_of_the_same_object_only(verifier):
    assert verifier.inliers(data.chelsea()) > 50
    for other in (data.astronaut(), data.coffee(), np.zeros((60, 80), np.uint8)):
        assert verifier.inliers(other) < 12
    # A mirror image is not a view of the same object.
    assert verifier.inliers(np.ascontiguousarray(data.chelsea()[:, ::-1])) < 12


def test_rerank():
    order = rerank(5, [3, 12, 0, 40, 99].__getitem__, candidates=4)
    assert order == [(3, 40), (1, 12), (0, 3), (2, 0), (4, -1)]


def test_features_are_in_pixels_of_the_reduced_image(verifier):
    features = local_features(data.chelsea(), keypoints=200, side=100)
    assert features.keypoints.xy.max() < 100 < verifier.query.keypoints.xy.max()
    assert len(features.descriptors) == len(features.keypoints.xy) <= 200
    assert count_inliers(features, features) > 0.8 * len(features.descriptors)
    nothing = local_features(np.zeros((60, 80), np.uint8))
    assert count_inliers(features, nothing) == 0
