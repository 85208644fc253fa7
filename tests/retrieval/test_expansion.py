"""Query expansion and database augmentation, by hand."""

import pytest
import torch
import torch.nn.functional as F

from flowmatch.retrieval import augment_database, expand_queries


@pytest.fixture
def reference():
    return F.normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.2]]), dim=1)


@pytest.fixture
def query():
    return F.normalize(torch.tensor([[1.0, -0.3]]), dim=1)


@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_expansion_by_hand(reference, query, alpha):
    similarity = reference @ query[0]
    expected = query[0] + sum(similarity[k] ** alpha * reference[k] for k in (0, 1))
    expanded = expand_queries(query, reference, 2, alpha=alpha)
    torch.testing.assert_close(expanded[0], F.normalize(expected, dim=0))


def test_no_neighbours_change_nothing(reference, query):
    assert torch.equal(expand_queries(query, reference, 0), query)
    assert torch.equal(
        augment_database(reference, 0).round(decimals=6), reference.round(decimals=6)
    )


def test_dissimilar_neighbours_count_for_alpha_0_only(reference, query):
    torch.testing.assert_close(
        expand_queries(query, reference, 3, alpha=3), expand_queries(query, reference, 2, alpha=3)
    )
    everything = expand_queries(query, reference, 3)
    torch.testing.assert_close(everything[0], F.normalize(query[0] + reference.sum(0), dim=0))
    assert torch.equal(expand_queries(query, reference, 99), everything)


def test_augmentation_by_hand(reference):
    augmented = augment_database(reference, 1)
    torch.testing.assert_close(augmented[0], F.normalize(reference[0] + reference[1], dim=0))
    weighted = augment_database(reference, 1, alpha=3.0)
    weight = (reference[0] @ reference[1]) ** 3
    expected = F.normalize(reference[0] + weight * reference[1], dim=0)
    torch.testing.assert_close(weighted[0], expected)


def test_errors(reference, query):
    with pytest.raises(ValueError, match="k and alpha must not be negative, got -1 and 0"):
        expand_queries(query, reference, -1)
    with pytest.raises(ValueError, match="k and alpha must not be negative, got 2 and -1.0"):
        augment_database(reference, 1, alpha=-1.0)
