"""Miners, samplers and the class tree, against plain loops."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmatch.metric_learning.hierarchy import (
    ClassTree,
    HierarchicalTripletLoss,
    NeighbourhoodBatches,
)
from flowmatch.metric_learning.miners import MINERS, DistanceWeightedMiner, EasyPositiveMiner
from flowmatch.metric_learning.samplers import ClassBatches
from flowmatch.metric_learning.tuples import Pairs, Triplets, all_triplets, as_triplets


def batch(seed=0, n=12, classes=3, d=4):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator)
    return x / x.norm(dim=1, keepdim=True), torch.randint(0, classes, (n,), generator=generator)


def rows(tuples):
    return sorted(zip(*(part.tolist() for part in tuples), strict=True))


def squares(x):
    return (x[:, None] - x).square().sum(2)


def loop(x, y, keep):
    d, N = squares(x).tolist(), range(len(x))
    return sorted(
        (a, p, n) for a in N for p in N for n in N
        if a != p and y[a] == y[p] and y[a] != y[n] and keep(d[a][p], d[a][n])
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_hard_and_semi_hard(seed):
    x, y = batch(seed)
    assert rows(MINERS["hard"]()(x, y)) == loop(x, y, lambda p, n: n <= p)
    semi = loop(x, y, lambda p, n: p < n <= p + 0.2)
    assert semi and rows(MINERS["semi-hard"]()(x, y)) == semi


@pytest.mark.parametrize("seed", range(3))
def test_batch_hard_and_easy_positive(seed):
    x, y = batch(seed)
    d, N = squares(x).tolist(), range(len(x))
    hard, easy, easy_hard = [], [], []
    for a in N:
        same = [i for i in N if i != a and y[i] == y[a]]
        other = [i for i in N if y[i] != y[a]]
        if not same or not other:
            continue
        far, near = max(same, key=lambda i: d[a][i]), min(same, key=lambda i: d[a][i])
        hard.append((a, far, min(other, key=lambda i: d[a][i])))
        easy_hard.append((a, near, min(other, key=lambda i: d[a][i])))
        behind = [i for i in other if d[a][i] > d[a][near]]
        if behind:
            easy.append((a, near, min(behind, key=lambda i: d[a][i])))
    assert rows(MINERS["batch-hard"]()(x, y)) == hard
    assert rows(EasyPositiveMiner()(x, y)) == easy
    assert rows(EasyPositiveMiner("hard")(x, y)) == easy_hard


def test_multi_similarity():
    x, y = batch()
    s, N = (x @ x.T).tolist(), range(len(x))
    near, far = [], []
    for a in N:
        same = [i for i in N if i != a and y[i] == y[a]]
        other = [i for i in N if y[i] != y[a]]
        near += [(a, i) for i in same if s[a][i] < max(s[a][k] for k in other) + 0.1]
        far += [(a, i) for i in other if s[a][i] > min(s[a][k] for k in same) - 0.1]
    tuples = MINERS["multi-similarity"]()(x, y)
    assert isinstance(tuples, Pairs)
    assert rows(tuples[:2]) == sorted(near) and rows(tuples[2:]) == sorted(far)


def test_distance_weights():
    x, y = batch(d=6)
    miner = DistanceWeightedMiner()
    different = y[:, None] != y
    d = squares(x).sqrt()
    weights = miner.weights(d, different, 6)
    for a, row in enumerate(weights.tolist()):
        raw = []
        for n in range(len(y)):
            v = max(0.5, float(d[a, n]))
            density = v ** (6 - 2) * (1 - v * v / 4) ** ((6 - 3) / 2)
            raw.append(1 / density if different[a, n] and d[a, n] < 1.4 else 0.0)
        raw = raw if any(raw) else different[a].double().tolist()
        assert row == pytest.approx([v / max(raw) for v in raw], rel=1e-4)


def test_distance_weights_are_uniform_if_all_are_0():
    x = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0], [-1.0, 0, 0], [0, -1.0, 0]])
    y = torch.tensor([0, 0, 1, 1, 2])
    weights = DistanceWeightedMiner(largest=1.0).weights(squares(x).sqrt(), y[:, None] != y, 3)
    assert weights[0].tolist() == [0, 0, 1, 1, 1]
    negatives = {rows(DistanceWeightedMiner(largest=1.0)(x, y))[0][2] for _ in range(60)}
    assert negatives == {2, 3, 4}


@pytest.mark.parametrize("name", ["random", "distance-weighted"])
def test_sampled_triplets_have_every_positive_pair_once(name):
    x, y = batch(d=300)  # exponents of 300 leave the range of float32
    tuples = MINERS[name]()(x, y)
    pairs = [(a, p) for a, p in itertools.permutations(range(len(y)), 2) if y[a] == y[p]]
    assert [row[:2] for row in rows(tuples)] == sorted(pairs)
    assert (y[tuples.negative] != y[tuples.anchor]).all()


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.booleans())
def test_any_batch(labels, collapsed):
    y = torch.tensor(labels)
    x = torch.ones(len(y), 3) if collapsed else torch.randn(len(y), 3)
    for name, make in MINERS.items():
        tuples = make()(x, y)
        assert (y[tuples[0]] == y[tuples[1]]).all() and (tuples[0] != tuples[1]).all(), name
        assert (y[tuples[-1]] != y[tuples[-2 if len(tuples) == 4 else 0]]).all(), name
        triplets = as_triplets(tuples, y)
        assert isinstance(triplets, Triplets) and len(triplets.anchor) == len(triplets.negative)


@pytest.mark.parametrize("name", MINERS)
def test_an_empty_batch_gives_no_tuples(name):
    tuples = MINERS[name]()(torch.zeros(0, 3), torch.zeros(0, dtype=torch.uint8))
    assert isinstance(tuples, Pairs if name == "multi-similarity" else Triplets)
    assert all(part.shape == (0,) and part.dtype == torch.int64 for part in tuples)


@pytest.mark.parametrize("name", MINERS)
def test_embeddings_that_are_not_finite_give_no_tuples(name):
    x, y = batch()
    assert not len(MINERS[name]()(torch.full_like(x, torch.nan), y)[0])


def test_triplets_of_pairs():
    _, y = batch()
    same = [(a, p) for a, p in itertools.permutations(range(len(y)), 2) if y[a] == y[p]]
    every = [(a, p, n) for a, p in same for n in range(len(y)) if y[n] != y[a]]
    assert rows(all_triplets(y)) == sorted(every)


# ---- Batches -----------------------------------------------------------------------------------


def test_class_batches():
    labels = torch.arange(6).repeat_interleave(7).tolist()
    batches = ClassBatches(labels, classes=3, samples_per_class=4, seed=5)
    first = list(batches)
    assert len(first) == len(batches) == 4
    for items in first:
        assert len(set(items)) == 12
        assert sorted(labels[i] for i in items)[::4] == sorted({labels[i] for i in items})
    assert list(batches) != first  # the next epoch
    batches.set_epoch(0)
    assert list(batches) == first
    with pytest.raises(ValueError, match="batches of 7 classes need that many, got 6"):
        ClassBatches(labels, 7, 1)


@pytest.mark.parametrize("sizes", [[90] * 10, [1000] + [10] * 10, [5] * 78, [20] * 78])
def test_an_epoch_has_as_many_places_as_items(sizes):
    """Its classes are random, so that some items have no place and others several."""
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    batches = ClassBatches(labels, classes=5, samples_per_class=8)
    items = [i for batch in batches for i in batch]
    assert len(labels) <= len(items) < len(labels) + 40
    assert 0.1 < len(set(items)) / len(labels) < 1
    batches = NeighbourhoodBatches(labels, ClassTree(*random_items(labels)), 2, 2, 8)
    assert len(batches) == -(-len(labels) // 32)


def random_items(labels):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(labels), 3, generator=generator), torch.tensor(labels)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_labels_of_batches_may_be_of_any_kind(kind):
    labels = [0] * 5 + [1] * 5
    assert list(ClassBatches(kind(labels), 2, 2)) == list(ClassBatches(labels, 2, 2))


@pytest.mark.parametrize("labels", [[0.5, 0.7], [[0, 1], [1, 0]], ["a", "b"], [True, False]])
def test_labels_of_batches_must_be_whole_numbers(labels):
    with pytest.raises(ValueError, match=r"labels must be whole numbers \[N\], got"):
        ClassBatches(labels, 1, 1)


def test_a_negative_number_of_batches_is_refused():
    x, y = random_items([0, 0, 1, 1])
    for make in (
        lambda: ClassBatches(y.tolist(), 1, 1, batches=-1),
        lambda: NeighbourhoodBatches(y.tolist(), ClassTree(x, y), 1, 1, 1, batches=-1),
    ):
        with pytest.raises(ValueError, match="batches must be at least 0, got -1"):
            make()


def test_small_classes_repeat_items_only_if_necessary():
    for items in ClassBatches([0, 0, 0, 1], classes=2, samples_per_class=3, batches=9):
        assert items.count(3) == 3 and sorted(i for i in items if i != 3) == [0, 1, 2]


def test_all_items_are_sampled_equally_often():
    labels = [0] * 5 + [1] * 5
    seen = [i for items in ClassBatches(labels, 2, 2, batches=5) for i in items]
    assert sorted(seen) == sorted(2 * list(range(10)))


# ---- The tree ----------------------------------------------------------------------------------


def clustered():
    """Embeddings and labels of four classes, in two near pairs."""
    y = torch.arange(4).repeat_interleave(4)
    centres = torch.tensor([[1.0, 0, 0], [1.0, 0.3, 0], [-1, 0, 0.5], [-1, 0, 0.9]])
    x = centres[y] + 0.05 * torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    return x.double(), y + 10


def test_tree_equals_a_loop():
    x, y = clustered()
    f = x / x.norm(dim=1, keepdim=True)
    d = squares(f)
    tree = ClassTree(x, y, levels=16)
    assert tree.classes.tolist() == [10, 11, 12, 13]
    members = [[i for i in range(16) if y[i] == c] for c in range(10, 14)]
    for a, b in itertools.permutations(range(4), 2):
        mean = sum(float(d[i, j]) for i in members[a] for j in members[b]) / 16
        assert float(tree.distances[a, b]) == pytest.approx(mean)
    spread = [sum(float(d[i, j]) for i in m for j in m) / 12 for m in members]
    assert tree.spreads.tolist() == pytest.approx(spread)
    d0 = sum(spread) / 4
    thresholds = [d0 + level * (4 - d0) / 16 for level in range(17)]
    assert tree.thresholds.tolist() == pytest.approx(thresholds)
    first = next(i for i, t in enumerate(thresholds) if float(tree.distances[0, 1]) < t)
    assert int(tree.merged_at[0, 1]) == first < int(tree.merged_at[0, 2])
    assert torch.equal(tree.merged_at, tree.merged_at.T)
    margins = tree.margins(torch.tensor([10, 10]), torch.tensor([11, 12]))
    assert float(margins[0]) == pytest.approx(0.1 + thresholds[first] - spread[0])
    assert margins[1] > margins[0]
    with pytest.raises(ValueError, match="the tree has no class of label 9"):
        tree.margins(torch.tensor([9]), torch.tensor([10]))


def test_hierarchical_triplet_loss_equals_a_loop():
    x, y = clustered()
    tree = ClassTree(x, y)
    noisy = (x + torch.randn(x.shape, dtype=x.dtype)).requires_grad_()
    loss = HierarchicalTripletLoss(tree)
    f = (noisy / noisy.norm(dim=1, keepdim=True)).detach()
    terms = []
    for a, p, n in itertools.product(range(16), repeat=3):
        if a != p and y[a] == y[p] and y[a] != y[n]:
            margin = float(tree.margins(y[a : a + 1], y[n : n + 1]))
            gap = float((f[a] - f[p]).norm() - (f[a] - f[n]).norm())
            terms.append(max(0, gap + margin))
    value = loss(noisy, y)
    assert value.item() == pytest.approx(sum(terms) / len(terms) / 2)
    value.backward()
    assert noisy.grad.isfinite().all()


def test_degenerate_trees():
    tree = ClassTree(torch.ones(3, 2), torch.arange(3))  # one item of each class, all equal
    assert tree.spreads.tolist() == [0, 0, 0] and int(tree.merged_at.max()) == 1
    assert ClassTree(torch.ones(2, 2), torch.zeros(2, dtype=torch.int64)).merged_at.tolist() == [
        [0]
    ]
    x = torch.ones(4, 2, requires_grad=True)
    loss = HierarchicalTripletLoss(ClassTree(x, torch.arange(4)))
    assert loss(x, torch.arange(4)).item() == 0
    y = torch.tensor([0, 0, 1, 1])
    loss = HierarchicalTripletLoss(ClassTree(x, y))
    loss(x, y).backward()
    assert x.grad.isfinite().all()
    with pytest.raises(ValueError, match="N of 1 or more"):
        ClassTree(torch.empty(0, 2), torch.empty(0, dtype=torch.int64))


def test_neighbourhoods():
    x, y = clustered()
    batches = NeighbourhoodBatches(
        y.tolist(), ClassTree(x, y), anchors=1, neighbours=2, samples_per_class=3, batches=20
    )
    seen = {tuple(sorted({int(y[i]) for i in items})) for items in batches}
    assert seen == {(10, 11), (12, 13)}
    assert all(len(set(items)) == 6 for items in batches)
