"""Losses of pairs, triplets and ranked lists, against plain loops in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmatch.metric_learning import losses
from flowmatch.metric_learning.losses import LOSSES, make_loss
from flowmatch.metric_learning.tuples import Pairs, Triplets, all_triplets

N, D, CLASSES = 9, 4, 3


def distance(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)))


def unit(x):
    return x / x.norm(dim=1, keepdim=True)


def dot(a, b):
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def mean(values):
    return sum(values) / len(values) if values else 0.0


def pairs(y):
    everything = [(i, j) for i in range(len(y)) for j in range(len(y)) if i != j]
    same = [(i, j) for i, j in everything if y[i] == y[j]]
    return same, [(i, j) for i, j in everything if y[i] != y[j]]


def triplets(y):
    same, _ = pairs(y)
    return [(a, p, n) for a, p in same for n in range(len(y)) if y[n] != y[a]]


def contrastive(x, y):
    same, other = pairs(y)
    near = mean([distance(x[i], x[j]) ** 2 for i, j in same])
    return near + mean([max(0, 1.5**2 - distance(x[i], x[j]) ** 2) for i, j in other])


def hadsell(x, y):
    same, other = pairs(y)
    near = mean([distance(x[i], x[j]) ** 2 for i, j in same])
    return near / 2 + mean([max(0, 1.5 - distance(x[i], x[j])) ** 2 for i, j in other]) / 2


def triplet(x, y, m=0.2):
    f = unit(x)
    return mean(
        [max(0, distance(f[a], f[p]) ** 2 - distance(f[a], f[n]) ** 2 + m)
         for a, p, n in triplets(y)]
    )  # fmt: skip


def lifted(x, y, m=1):
    terms = []
    for i, j in pairs(y)[0]:
        others = [k for k in range(len(y)) if y[k] != y[i]]
        push = sum(math.exp(m - distance(x[e], x[k])) for e in (i, j) for k in others)
        terms.append(max(0, math.log(push) + distance(x[i], x[j])) ** 2 / 2)
    return mean(terms)


def npairs(x, y, w=0.005):
    first = []
    for c in sorted(set(y.tolist())):
        members = [i for i in range(len(y)) if y[i] == c]
        first.append((members[0], members[1]))
    terms = []
    for a, p in first:
        others = sum(math.exp(dot(x[a], x[q]) - dot(x[a], x[p])) for b, q in first if b != a)
        terms.append(math.log(1 + others))
    return mean(terms) + w * mean([dot(v, v) for v in x])


def angular(x, y, degrees=45):
    f, t = unit(x), math.tan(math.radians(degrees)) ** 2
    terms = []
    for a, p in pairs(y)[0]:
        total = 1.0
        for n in range(len(y)):
            if y[n] != y[a]:
                total += math.exp(4 * t * dot(f[a] + f[p], f[n]) - 2 * (1 + t) * dot(f[a], f[p]))
        terms.append(math.log(total))
    return mean(terms)


def margin(x, y, m=0.2, beta=1.2, nu=0):
    f = unit(x)
    terms = []
    for a, p, n in triplets(y):
        terms.append(max(0, distance(f[a], f[p]) - beta + m))
        terms.append(max(0, beta - distance(f[a], f[n]) + m))
    boundaries = nu * beta * len(triplets(y))
    return (sum(terms) + boundaries) / sum(term > 0 for term in terms)


def multi_similarity(x, y, a=2, b=50, base=0.5):
    f = unit(x)
    terms = []
    for i in range(len(y)):
        near = [math.exp(-a * (dot(f[i], f[k]) - base)) for j, k in pairs(y)[0] if j == i]
        far = [math.exp(b * (dot(f[i], f[k]) - base)) for j, k in pairs(y)[1] if j == i]
        terms.append(math.log(1 + sum(near)) / a + math.log(1 + sum(far)) / b)
    return mean(terms)


def variance(values):
    return sum((v - mean(values)) ** 2 for v in values) / (len(values) - 1)


def snr(x, y, m=1, w=0.005):
    def ratio(i, j):
        return variance((x[i] - x[j]).tolist()) / variance(x[i].tolist())

    same, other = ([ratio(i, j) for i, j in part] for part in pairs(y))
    far = [m - d for d in other if d < m]
    return mean(same) + mean(far) + w * mean([abs(sum(v.tolist())) for v in x])


def ranked_list(x, y, outer=1.2, m=0.4, T=10, b=0.5):
    f, terms = unit(x), []
    for i in range(len(y)):
        near = [distance(f[i], f[k]) - (outer - m) for a, k in pairs(y)[0] if a == i]
        near = [d for d in near if d > 0]
        far = [outer - distance(f[i], f[k]) for a, k in pairs(y)[1] if a == i]
        far = [d for d in far if d > 0]
        weights = [math.exp(T * d) for d in far]
        floor = 1e-5 * len(y)  # avoids a division by 0
        pull = sum(near) / (len(near) + floor)
        push = sum(w * d for w, d in zip(weights, far, strict=True)) / (sum(weights) + floor)
        terms.append((1 - b) * pull + b * push)
    return mean(terms)


def fastap(x, y, bins=10):
    f, terms, width = unit(x), [], 4 / bins
    for i in range(len(y)):
        own, everything = [0.0] * (bins + 1), [0.0] * (bins + 1)
        for j in range(len(y)):
            for b in range(bins + 1 if j != i else 0):
                share = max(0, 1 - abs(distance(f[i], f[j]) ** 2 - b * width) / width)
                everything[b] += share
                own[b] += share * bool(y[i] == y[j])
        R = sum(bool(y[i] == y[j]) for j in range(len(y))) - 1
        total = sum(
            own[b] * sum(own[: b + 1]) / sum(everything[: b + 1]) for b in range(bins + 1) if own[b]
        )
        terms.append(1 - total / R)
    return mean(terms)


CASES = {
    "contrastive": (contrastive, {"margin": 1.5}),
    "hadsell": (hadsell, {"margin": 1.5}),
    "triplet": (triplet, {}),
    "lifted": (lifted, {}),
    "npairs": (npairs, {}),
    "angular": (angular, {}),
    "npairs-angular": (lambda x, y: npairs(x, y) + 2 * angular(x, y), {}),
    "margin": (margin, {}),
    "multi-similarity": (multi_similarity, {}),
    "snr": (snr, {}),
    "bias-corrected": (triplet, {}),  # without a miner there is no bias
    "ranked-list": (ranked_list, {}),
    "fastap": (fastap, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_a_loop(name, batch):
    loop, options = CASES[name]
    value = make_loss(name, classes=CLASSES, dimension=D, **options)(*batch)
    assert loop(*batch) > 0.01
    assert value.item() == pytest.approx(loop(*batch), rel=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_equals_a_loop_on_a_batch_that_is_not_in_order(name, batch):
    loop, options = CASES[name]
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    x, y = batch[0][order], batch[1][order]
    value = make_loss(name, classes=CLASSES, dimension=D, **options)(x, y)
    assert value.item() == pytest.approx(loop(x, y), rel=1e-6)


# Arguments that are not the defaults, each with a loop of the documented formula.
OPTIONS = [
    ("triplet", {"margin": 0.7}, lambda x, y: triplet(x, y, m=0.7)),
    ("lifted", {"margin": 2.5}, lambda x, y: lifted(x, y, m=2.5)),
    ("npairs", {"weight": 0.3}, lambda x, y: npairs(x, y, w=0.3)),
    ("angular", {"degrees": 36.0}, lambda x, y: angular(x, y, degrees=36)),
    (
        "npairs-angular",
        {"degrees": 36.0, "weight": 0.5},
        lambda x, y: npairs(x, y) + angular(x, y, degrees=36) / 2,
    ),
    ("margin", {"nu": 1.0}, lambda x, y: margin(x, y, nu=1)),
    (
        "margin",
        {"nu": 0.3, "margin": 0.1, "beta": 0.9},
        lambda x, y: margin(x, y, m=0.1, beta=0.9, nu=0.3),
    ),
    (
        "multi-similarity",
        {"alpha": 3.0, "beta": 20.0, "base": 0.2},
        lambda x, y: multi_similarity(x, y, a=3, b=20, base=0.2),
    ),
    ("snr", {"margin": 3.0, "zero_mean": 0.2}, lambda x, y: snr(x, y, m=3, w=0.2)),
    (
        "ranked-list",
        {"alpha": 1.4, "margin": 0.6, "temperature": 2.0, "imbalance": 0.2},
        lambda x, y: ranked_list(x, y, outer=1.4, m=0.6, T=2, b=0.2),
    ),
    ("fastap", {"bins": 6}, lambda x, y: fastap(x, y, bins=6)),
]


@pytest.mark.parametrize(("name", "options", "loop"), OPTIONS)
def test_arguments_are_those_of_the_formula(name, options, loop, batch):
    value = make_loss(name, classes=CLASSES, dimension=D, **options)(*batch)
    assert value.item() == pytest.approx(loop(*batch), rel=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.integers(0, 99))
def test_any_labels(labels, seed):
    x = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(seed)).double()
    y = torch.tensor(labels)
    for name in ("hadsell", "triplet", "bias-corrected", "facility-location"):
        assert make_loss(name, classes=4, dimension=3)(x, y).isfinite()
    assert make_loss("triplet", classes=4, dimension=3)(x, y).item() == pytest.approx(triplet(x, y))
    assert make_loss("hadsell", classes=4, dimension=3, margin=1.5)(x, y).item() == pytest.approx(
        hadsell(x, y)
    )


# ---- Tuples of miners --------------------------------------------------------------------------


def test_only_mined_tuples_count(batch):
    x, y = batch
    chosen = Triplets(*(torch.tensor([i]) for i in (0, 1, 3)))
    f = unit(x)
    expected = distance(f[0], f[1]) ** 2 - distance(f[0], f[3]) ** 2 + 0.2
    assert losses.TripletLoss()(x, y, chosen).item() == pytest.approx(max(0, expected))
    value = losses.HadsellLoss(9.0)(x, y, chosen).item()
    far = (9 - distance(x[0], x[3])) ** 2
    assert value == pytest.approx((distance(x[0], x[1]) ** 2 + far) / 2)
    two = Pairs(*(torch.tensor([i]) for i in (0, 1, 4, 7)))
    value = losses.HadsellLoss(9.0)(x, y, two).item()
    far = (9 - distance(x[4], x[7])) ** 2
    assert value == pytest.approx((distance(x[0], x[1]) ** 2 + far) / 2)


def test_a_single_mined_pair_counts(batch):
    x, y = batch
    f, d = unit(x), distance(x[0], x[3]) ** 2
    both = Pairs(*(torch.tensor([i]) for i in (0, 1, 0, 3)))
    value = losses.ContrastiveLoss(9.0)(x, y, both).item()
    assert value == pytest.approx(distance(x[0], x[1]) ** 2 + 81 - d)
    negative = Pairs(*(torch.tensor(p, dtype=torch.int64) for p in ([], [], [0], [3])))
    assert losses.ContrastiveLoss(9.0)(x, y, negative).item() == pytest.approx(81 - d)
    near, far = dot(f[0], f[1]), dot(f[0], f[3])
    expected = math.log(1 + math.exp(1 - 2 * near)) / 2 + math.log(1 + math.exp(50 * far - 25)) / 50
    value = losses.MultiSimilarityLoss()(x, y, both).item()
    assert value * N == pytest.approx(expected)


def test_lifted_structure_of_mined_pairs(batch):
    """A negative counts as often as it is selected; a pair without negatives counts as 0."""
    x, y = batch
    chosen = Pairs(*(torch.tensor(p) for p in ([0, 3, 7], [1, 4, 8], [0, 0, 1, 0], [3, 4, 5, 3])))
    d = {(i, j): distance(x[i], x[j]) for i in range(N) for j in range(N)}
    push = 2 * math.exp(1 - d[0, 3]) + math.exp(1 - d[0, 4]) + math.exp(1 - d[1, 5])
    expected = max(0, math.log(push) + d[0, 1]) ** 2 / 2 / 3
    assert expected > 0.01
    x.requires_grad_()
    value = losses.LiftedStructureLoss()(x, y, chosen)
    assert value.item() == pytest.approx(expected)
    value.backward()
    assert x.grad.isfinite().all() and not x.grad[[7, 8]].any()
    single = Pairs(*(torch.tensor([i]) for i in (0, 1, 0, 3)))
    expected = max(0, 1 - d[0, 3] + d[0, 1]) ** 2 / 2
    assert losses.LiftedStructureLoss()(x, y, single).item() == pytest.approx(expected)
    triplets = Triplets(*(torch.tensor(p) for p in ([0, 3], [1, 4], [3, 0])))
    first, second = 1 - d[0, 3] + d[0, 1], 1 - d[3, 0] + d[3, 4]
    expected = (max(0, first) ** 2 + max(0, second) ** 2) / 4
    assert losses.LiftedStructureLoss()(x, y, triplets).item() == pytest.approx(expected)


def test_bias_of_a_selection(batch):
    x, y = batch
    chosen = Triplets(torch.tensor([0, 0]), torch.tensor([1, 1]), torch.tensor([3, 4]))
    f = unit(x)
    first = (2 * f[0] + 2 * f[1]) / 4 - f[:3].mean(0)
    second = (f[3] + f[4]) / 2 - f[3:7].mean(0)
    expected = dot(first, first) + dot(second, second)
    with_bias = losses.BiasCorrectedTripletLoss(weight=3.0)(x, y, chosen)
    without = losses.TripletLoss()(x, y, chosen)
    assert (with_bias - without).item() == pytest.approx(3 * expected)


def test_the_loss_without_mined_tuples_is_0(batch):
    none = Triplets(*(torch.empty(0, dtype=torch.int64),) * 3)
    for name, make in LOSSES.items():
        loss = make_loss(name, classes=CLASSES, dimension=D)
        if make.takes_tuples and name not in (
            "npairs",
            "npairs-angular",
            "multi-similarity",
            "snr",
        ):
            assert loss(*batch, none).item() == 0, name
    assert len(all_triplets(batch[1]).anchor) == len(triplets(batch[1]))
