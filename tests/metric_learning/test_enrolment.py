import math

import pytest
import torch

from flowmatch.metric_learning import enrol
from flowmatch.metric_learning.verification import pair_distances, verify_pairs


@pytest.fixture
def people():
    """Noisy examples of three people, and their labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(6)
    return 4 * torch.eye(5)[labels] + 0.6 * torch.randn(18, 5, generator=generator), labels


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_queries_are_the_nearest_example_within_the_threshold(people, metric):
    examples, labels = people
    known = enrol(examples, labels, ("ann", "ben", "cat"), metric, false_accept_rate=0.05)
    distances, same = pair_distances(examples, labels, metric)
    assert verify_pairs(distances, same, known.threshold).false_accept_rate <= 0.05
    queries = torch.cat([4 * torch.eye(5)[:4], 9 * torch.ones(1, 5)])
    for query, answer in zip(queries, known.query(queries), strict=True):
        plain = []
        for example, label in zip(examples, labels.tolist(), strict=True):
            if metric == "l2":
                distance = math.dist(query.tolist(), example.tolist())
            else:
                distance = 1 - float(torch.cosine_similarity(query, example, dim=0))
            plain.append((distance, label))
        distance, label = min(plain)
        assert answer.distance == pytest.approx(distance, abs=1e-5)
        expected = ("ann", "ben", "cat")[label] if distance <= known.threshold else None
        assert answer.name == expected
    names = [answer.name for answer in known.query(4 * torch.eye(5)[:4])]
    assert names == ["ann", "ben", "cat", None]


def test_a_new_class_needs_no_training(people):
    known = enrol(*people, ("ann", "ben", "cat"))
    new = 4 * torch.eye(5)[[3]]
    extended = known.add("dan", new)
    assert known.query(new)[0].name is None and extended.query(new)[0].name == "dan"
    assert extended.threshold == known.threshold and extended.names == ("ann", "ben", "cat", "dan")
    assert extended.add("ann", new).labels[-1] == 0
    with pytest.raises(ValueError, match=r"embeddings must be \[M, 5\], got \[1, 4\]"):
        known.add("eve", torch.ones(1, 4))


def test_the_threshold_is_that_of_validation_data(people):
    examples, labels = people
    loose = enrol(examples, labels, "abc", validation=(9 * examples, labels), metric="l2")
    assert loose.threshold > 2 * enrol(examples, labels, "abc", metric="l2").threshold
    with pytest.raises(ValueError, match="labels must be in 0..1, one for each name, got 0..2"):
        enrol(examples, labels, ("a", "b"))
    with pytest.raises(ValueError, match="both kinds"):
        enrol(examples[:6], labels[:6], ("a",))
    empty = enrol(examples[:0], labels[:0], "abc", validation=(examples, labels))
    with pytest.raises(ValueError, match="nothing is enrolled"):
        empty.query(examples)


def test_examples_without_a_usable_threshold_are_refused(people):
    examples, labels = people
    with pytest.raises(ValueError, match="two examples of each: .* got 0 of one class among 3"):
        enrol(examples[::6], labels[::6], "abc")
    crossed = torch.tensor([[0.0], [4.0], [0.1], [4.1]])
    with pytest.raises(ValueError, match="nearer than those of one: allow more than 0.01 of false"):
        enrol(crossed, torch.tensor([0, 0, 1, 1]), "ab", "l2")
