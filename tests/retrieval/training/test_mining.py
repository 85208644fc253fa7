"""Training pairs without labels, and hard negatives."""

import numpy as np
import pytest
import torch

from flowmatch.retrieval.training.mining import (
    VerifiedPair,
    find_verified_pairs,
    mine_tuples,
    object_labels,
)
from flowmatch.retrieval.verify import count_inliers, local_features


def texture(seed):
    """Return random gray blocks, which have corners."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (16, 20), np.uint8)
    return np.kron(coarse, np.ones((12, 12), np.uint8))


@pytest.fixture(scope="module")
def features():
    """Features of two objects, three views each, and of one view of a third."""
    images = [texture(k)[top:, left : left + 220] for k in (0, 1) for top, left in
                ((0, 0), (12, 17), (24, 5))]  # fmt: skip
    return [local_features(image, keypoints=300) for image in (*images, texture(2))]


def test_views_of_an_object_are_pairs(features):
    calls = []
    pairs = find_verified_pairs(features, candidates=3, progress=lambda *call: calls.append(call))
    assert {(pair.first, pair.second) for pair in pairs} == {
        (0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)
    }  # fmt: skip
    assert calls == [("verifying", k, 7) for k in range(1, 8)]
    for first, second, inliers in pairs:
        assert inliers == count_inliers(features[first], features[second]) >= 24
    assert object_labels(7, pairs).tolist() == [0, 0, 0, 1, 1, 1, 2]


def test_minimum_number_of_inliers(features):
    assert find_verified_pairs(features, min_inliers=10_000) == []
    with pytest.raises(ValueError, match="at least two images, got 1"):
        find_verified_pairs(features[:1])
    nothing = local_features(np.zeros((50, 50), np.uint8))
    with pytest.raises(ValueError, match="32 words need as many keypoints, got 0"):
        find_verified_pairs([nothing, nothing])


def test_a_chain_of_pairs_is_one_object():
    assert object_labels(3, []).tolist() == [0, 1, 2]
    assert object_labels(5, [VerifiedPair(0, 1, 9), VerifiedPair(1, 4, 9)]).tolist() == [
        0,
        0,
        1,
        2,
        0,
    ]


def test_negatives_are_the_most_similar_of_other_objects():
    angles = torch.tensor([0.0, 0.1, 0.2, 0.3, 1.0, 2.0])
    descriptors = torch.stack([angles.cos(), angles.sin()], 1)
    labels = np.array([0, 0, 1, 1, 2, 3])
    tuples = mine_tuples(
        descriptors, [VerifiedPair(0, 1, 30), VerifiedPair(2, 3, 30)], labels, negatives=2
    )
    assert [(item.query, item.positive) for item in tuples] == [(0, 1), (1, 0), (2, 3), (3, 2)]
    # None of the same object, and at most one of each other object.
    assert [item.negatives for item in tuples] == [(2, 4), (2, 4), (1, 4), (1, 4)]
    assert len(mine_tuples(descriptors, [VerifiedPair(0, 1, 30)], labels, 9)[0].negatives) == 3
    with pytest.raises(ValueError, match="show one object"):
        mine_tuples(descriptors, [VerifiedPair(0, 1, 30)], np.zeros(6, np.int64))
