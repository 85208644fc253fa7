"""What agrees with the query comes first, and what does not stays where it was."""

import numpy as np
import pytest
from skimage import data

from flowmatch._opencv import cv2
from flowmatch.retrieval import Verifier, verify_results
from flowmatch.retrieval.search import Result
from flowmatch.retrieval.verify import rerank


@pytest.fixture(scope="module")
def verifier():
    turn = cv2.getRotationMatrix2D((225, 150), 40, 0.8)
    return Verifier(cv2.warpAffine(data.chelsea(), turn, (451, 300)), keypoints=500)


def test_counts_points_of_the_same_thing_only(verifier):
    assert verifier.inliers(data.chelsea()) > 50
    for other in (data.astronaut(), data.coffee(), np.zeros((60, 80), np.uint8)):
        assert verifier.inliers(other) < 12
    # A mirror image is no view of the same thing.
    assert verifier.inliers(np.ascontiguousarray(data.chelsea()[:, ::-1])) < 12


def test_rerank():
    found = rerank(5, [3, 12, 0, 40, 99].__getitem__, most=4)
    assert found == [(3, 40), (1, 12), (0, 3), (2, 0), (4, -1)]


def test_missing_pictures_do_not_count(tmp_path):
    results = [Result("gone.png", 0.5), Result("later.png", 0.4)]
    found = verify_results(results, np.zeros((60, 80), np.uint8), tmp_path, most=1)
    assert found == [Result("gone.png", 0.5, 0), Result("later.png", 0.4, None)]
