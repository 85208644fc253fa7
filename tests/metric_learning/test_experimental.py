"""Reconstructions of DAMLRRM and DE-DSP: trees, streams, policy."""

import itertools

import pytest
import torch

from flowmatch.metric_learning.data.images import LabelledImages
from flowmatch.metric_learning.fit import Recipe
from flowmatch.metric_learning.methods.experimental import (
    AsymmetricStreamsMethod,
    PolicyBatches,
    SamplingPolicy,
    SamplingPolicyMethod,
    StreamBatches,
    spanning_trees,
)


def test_trees_are_the_shortest_ones():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 2, generator=generator)
    x[1] = x[0]  # a distance of 0 is an edge, too
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2])
    edges = spanning_trees(x, y)
    assert len(edges) == 9 - 3 and (y[edges[:, 0]] == y[edges[:, 1]]).all()
    for items in ([0, 1, 2, 3], [4, 5, 6], [7, 8]):
        own = [(a, b) for a, b in edges.tolist() if a in items]
        length = sum((x[a] - x[b]).norm().item() for a, b in own)
        possible = itertools.combinations(itertools.combinations(items, 2), len(items) - 1)
        trees = [tree for tree in possible if len({i for e in tree for i in e}) == len(items)]
        # With one edge less than items, all of which occur, a graph of up to 4 items is a tree
        # unless it has two parts, which a triangle and no other item would be.
        best = min(sum((x[a] - x[b]).norm().item() for a, b in tree) for tree in trees)
        assert length == pytest.approx(best, abs=1e-5)


def test_streams_interlace():
    edges = torch.tensor([[0, 1], [2, 3], [4, 5]])
    batches = StreamBatches(edges, count=7, pairs=1, singles=1, seed=1)
    assert len(batches) == 3
    met = [tuple(batch) for _ in range(7) for batch in batches]
    assert len(set(met)) == 21  # each edge has met each item of the other stream once
    assert {pair[:2] for pair in met} == {(0, 1), (2, 3), (4, 5)}


def test_a_policy_samples_triplets():
    torch.manual_seed(0)
    x, y = torch.randn(8, 3), torch.tensor([0, 0, 0, 1, 1, 1, 2, 3])
    policy = SamplingPolicy(3)
    parts = policy(x, y, torch.tensor([0, 4]))
    expected = ([[1, 2], [3, 5]], [[3, 4, 5, 6, 7], [0, 1, 2, 6, 7]])
    for part, items in zip(parts, expected, strict=True):
        assert part.exp().sum(1).tolist() == pytest.approx([1, 1])
        assert [row.nonzero()[:, 0].tolist() for row in part.exp()] == items
    batches = PolicyBatches(policy, x, y, triplets=4, seed=0)
    assert len(batches) == 1
    for batch in itertools.chain.from_iterable(itertools.repeat(batches, 20)):
        a, p, n = torch.tensor(batch).view(3, 4)
        assert (y[a] == y[p]).all() and (a != p).all() and (y[a] != y[n]).all()
    with pytest.raises(ValueError, match="a class of two items and another class"):
        PolicyBatches(policy, x, torch.zeros(8, dtype=torch.int64), 4, 0)


@pytest.mark.parametrize("kind", [AsymmetricStreamsMethod, SamplingPolicyMethod])
def test_losses_are_those_of_their_equations(kind, digit_parts):
    torch.manual_seed(0)
    train = digit_parts[0]
    few = LabelledImages(train.pictures[:60], train.labels[:60], train.classes)
    method = kind(Recipe(dimension=4), few, 0)
    method.begin_epoch(0, 0.0)
    items = torch.tensor(next(iter(method.batches)))
    pictures = torch.from_numpy(few.pictures[items.numpy()])[:, None].float() / 255
    labels = torch.from_numpy(few.labels)[items]
    value = method.train().loss(pictures, labels, items)
    x = method(pictures).detach()
    torch.testing.assert_close(x.norm(dim=1), torch.ones(len(x)))
    if kind is AsymmetricStreamsMethod:
        k = method.pairs
        near = (x[:k] - x[k : 2 * k]).square().sum(1).mean()
        far = [
            max(0, 1 - (x[a] - x[n]).norm().item()) ** 2
            for a in range(2 * k)
            for n in range(2 * k, len(x))
            if labels[a] != labels[n]
        ]
        assert value.item() == pytest.approx(near.item() / 2 + sum(far) / len(far) / 2, rel=1e-4)
        value.backward()
    else:
        a, p, n = x.view(3, method.triplets, -1)
        hinge = ((a - p).square().sum(1) - (a - n).square().sum(1) + 0.2).clamp(min=0)
        to_p, to_n = method.policy(method.features, torch.from_numpy(few.labels), items[: len(a)])
        places = items.view(3, -1)
        chosen = to_p.gather(1, places[1, :, None]) + to_n.gather(1, places[2, :, None])
        policy = -((hinge - hinge.mean()) * chosen[:, 0]).mean()
        assert value.item() == pytest.approx((hinge.mean() + policy).item(), rel=1e-4)
        value.backward()
        assert all(p.grad is not None and p.grad.any() for p in method.policy.parameters())
    assert method.network.embedding.weight.grad.any()
