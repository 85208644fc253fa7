"""Pairs of similar images: each once, none with itself, none of what cannot be described."""

from pathlib import Path

import pytest
import torch

from flowmatch.retrieval.index import Entry, Index
from flowmatch.retrieval.pairs import similar_pairs

ANGLES = torch.tensor([0.0, 10.0, 25.0, 100.0, 105.0])


def index_of(descriptors):
    entries = [Entry(f"{k}.jpg", 0, 0) for k in range(len(descriptors))]
    return Index("a describer", Path("photos"), entries, descriptors.half())


def circle(angles):
    radians = torch.deg2rad(angles)
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def test_the_most_similar():
    pairs = [(p.first[0], p.second[0]) for p in similar_pairs(index_of(circle(ANGLES)), 1)]
    assert pairs == [("0", "1"), ("1", "2"), ("3", "4")]
    assert len(similar_pairs(index_of(circle(ANGLES)), 4)) == 10
    assert len(similar_pairs(index_of(circle(ANGLES)), 99)) == 10


def test_images_that_are_equal_are_no_pairs_with_themselves():
    pairs = similar_pairs(index_of(torch.ones(4, 2)), 1)
    assert all(pair.first < pair.second for pair in pairs) and len(pairs) >= 2


def test_images_that_cannot_be_described_are_left_out():
    descriptors = circle(ANGLES)
    descriptors[1] = 0
    names = {name for pair in similar_pairs(index_of(descriptors), 2) for name in pair}
    assert names == {"0.jpg", "2.jpg", "3.jpg", "4.jpg"}
    with pytest.raises(ValueError, match="pairs need two described images, the index has 1"):
        similar_pairs(index_of(descriptors[:2]), 1)
    with pytest.raises(ValueError, match="count must be positive, got 0"):
        similar_pairs(index_of(descriptors), 0)
