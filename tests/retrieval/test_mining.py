"""Pairs without labels: views of a picture are found, others are not, and negatives are hard."""

import numpy as np
import pytest
import torch

from flowmatch.retrieval.mining import Pair, clusters, hard_tuples, verified_pairs
from flowmatch.retrieval.verify import count_inliers, local_features


def texture(seed):
    """Blobs of random size: with corners, and unlike any other."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (16, 20), np.uint8)
    return np.kron(coarse, np.ones((12, 12), np.uint8))


@pytest.fixture(scope="module")
def features():
    """Two things, three views each, and one thing seen once."""
    pictures = [texture(k)[top:, left : left + 220] for k in (0, 1) for top, left in
                ((0, 0), (12, 17), (24, 5))]  # fmt: skip
    return [local_features(picture, keypoints=300) for picture in (*pictures, texture(2))]


def test_views_of_a_thing_are_pairs(features):
    seen = []
    pairs = verified_pairs(features, candidates=3, progress=seen.append)
    assert {(pair.first, pair.second) for pair in pairs} == {
        (0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)
    }  # fmt: skip
    assert seen == list(range(1, 8))
    for first, second, inliers in pairs:
        assert inliers == count_inliers(features[first], features[second]) >= 24
    assert clusters(7, pairs).tolist() == [0, 0, 0, 1, 1, 1, 2]


def test_how_many_have_to_agree(features):
    assert verified_pairs(features, enough=10_000) == []
    with pytest.raises(ValueError, match="two pictures at least, got 1"):
        verified_pairs(features[:1])
    nothing = local_features(np.zeros((50, 50), np.uint8))
    with pytest.raises(ValueError, match="32 words need as many keypoints, got 0"):
        verified_pairs([nothing, nothing])


def test_a_chain_of_pairs_is_one_thing():
    assert clusters(3, []).tolist() == [0, 1, 2]
    assert clusters(5, [Pair(0, 1, 9), Pair(1, 4, 9)]).tolist() == [0, 0, 1, 2, 0]


def test_negatives_are_the_most_alike_of_other_things():
    angles = torch.tensor([0.0, 0.1, 0.2, 0.3, 1.0, 2.0])
    described = torch.stack([angles.cos(), angles.sin()], 1)
    things = np.array([0, 0, 1, 1, 2, 3])
    found = hard_tuples(described, [Pair(0, 1, 30), Pair(2, 3, 30)], things, negatives=2)
    assert [(one.query, one.positive) for one in found] == [(0, 1), (1, 0), (2, 3), (3, 2)]
    # Never one of its own thing, and only one of each.
    assert [one.negatives for one in found] == [(2, 4), (2, 4), (1, 4), (1, 4)]
    assert len(hard_tuples(described, [Pair(0, 1, 30)], things, 9)[0].negatives) == 3
    with pytest.raises(ValueError, match="of one thing"):
        hard_tuples(described, [Pair(0, 1, 30)], np.zeros(6, np.int64))
