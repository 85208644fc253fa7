"""Losses of pairs, triplets and lists against plain loops over them, in float64."""

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


def triplet(x, y):
    f = unit(x)
    return mean(
        [max(0, distance(f[a], f[p]) ** 2 - distance(f[a], f[n]) ** 2 + 0.2)
         for a, p, n in triplets(y)]
    )  # fmt: skip


def lifted(x, y):
    terms = []
    for i, j in pairs(y)[0]:
        others = [k for k in range(len(y)) if y[k] != y[i]]
        push = sum(math.exp(1 - distance(x[e], x[k])) for e in (i, j) for k in others)
        terms.append(max(0, math.log(push) + distance(x[i], x[j])) ** 2 / 2)
    return mean(terms)


def npairs(x, y):
    first = []
    for c in sorted(set(y.tolist())):
        members = [i for i in range(len(y)) if y[i] == c]
        first.append((members[0], members[1]))
    terms = []
    for a, p in first:
        others = sum(math.exp(dot(x[a], x[q]) - dot(x[a], x[p])) for b, q in first if b != a)
        terms.append(math.log(1 + others))
    return mean(terms) + 0.005 * mean([dot(v, v) for v in x])


def angular(x, y):
    f, t = unit(x), math.tan(math.radians(45)) ** 2
    terms = []
    for a, p in pairs(y)[0]:
        total = 1.0
        for n in range(len(y)):
            if y[n] != y[a]:
                total += math.exp(4 * t * dot(f[a] + f[p], f[n]) - 2 * (1 + t) * dot(f[a], f[p]))
        terms.append(math.log(total))
    return mean(terms)


def margin(x, y):
    f = unit(x)
    terms = []
    for a, p, n in triplets(y):
        terms.append(max(0, distance(f[a], f[p]) - 1.2 + 0.2))
        terms.append(max(0, 1.2 - distance(f[a], f[n]) + 0.2))
    return sum(terms) / sum(term > 0 for term in terms)


def multi_similarity(x, y):
    f = unit(x)
    terms = []
    for i in range(len(y)):
        near = [math.exp(-2 * (dot(f[i], f[k]) - 0.5)) for a, k in pairs(y)[0] if a == i]
        far = [math.exp(50 * (dot(f[i], f[k]) - 0.5)) for a, k in pairs(y)[1] if a == i]
        terms.append(math.log(1 + sum(near)) / 2 + math.log(1 + sum(far)) / 50)
    return mean(terms)


def variance(values):
    return sum((v - mean(values)) ** 2 for v in values) / (len(values) - 1)


def snr(x, y):
    def ratio(i, j):
        return variance((x[i] - x[j]).tolist()) / variance(x[i].tolist())

    same, other = ([ratio(i, j) for i, j in part] for part in pairs(y))
    far = [1 - d for d in other if d < 1]
    return mean(same) + mean(far) + 0.005 * mean([abs(sum(v.tolist())) for v in x])


def ranked_list(x, y):
    f, terms = unit(x), []
    for i in range(len(y)):
        near = [distance(f[i], f[k]) - 0.8 for a, k in pairs(y)[0] if a == i]
        near = [d for d in near if d > 0]
        far = [1.2 - distance(f[i], f[k]) for a, k in pairs(y)[1] if a == i]
        far = [d for d in far if d > 0]
        weights = [math.exp(10 * d) for d in far]
        floor = 1e-5 * len(y)  # what keeps the means from dividing by 0
        pull = sum(near) / (len(near) + floor)
        push = sum(w * d for w, d in zip(weights, far, strict=True)) / (sum(weights) + floor)
        terms.append((pull + push) / 2)
    return mean(terms)


def fastap(x, y):
    f, terms, width = unit(x), [], 0.4
    for i in range(len(y)):
        own, everything = [0.0] * 11, [0.0] * 11
        for j in range(len(y)):
            for b in range(11 if j != i else 0):
                share = max(0, 1 - abs(distance(f[i], f[j]) ** 2 - b * width) / width)
                everything[b] += share
                own[b] += share * bool(y[i] == y[j])
        R = sum(bool(y[i] == y[j]) for j in range(len(y))) - 1
        total = sum(
            own[b] * sum(own[: b + 1]) / sum(everything[: b + 1]) for b in range(11) if own[b]
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


def degenerate():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, generator=generator)
    four = torch.arange(4).repeat_interleave(2)
    return {
        "one class": (x, torch.zeros(8, dtype=torch.int64)),
        "one of each class": (x, torch.arange(8)),
        "duplicates": (x[:1].repeat(8, 1), four),
        "some duplicates": (x[[0, 0, 0, 0, 4, 5, 6, 7]], four),
        "two": (torch.tensor([[1.0], [2.0]]).repeat(1, 1), torch.tensor([0, 1])),
        "nearly the same": (x[:1] + 1e-7 * x, four),
    }


@pytest.mark.parametrize("case", degenerate())
@pytest.mark.parametrize("name", LOSSES)
def test_degenerate_batches_give_finite_gradients(name, case):
    x, y = degenerate()[case]
    if name == "snr" and x.shape[1] == 1:
        x = torch.cat([x, -x], 1)  # one entry has no variance, and is refused
    x = x.clone().requires_grad_()
    loss = make_loss(name, classes=8, dimension=x.shape[1])
    value = loss(x, y)
    assert value.shape == () and value.isfinite()
    value.backward()
    for tensor in (x, *loss.parameters()):
        assert tensor.grad is None or tensor.grad.isfinite().all()
    assert x.grad is not None


@pytest.mark.parametrize("name", LOSSES)
def test_an_empty_batch_is_no_loss(name):
    x = torch.zeros(0, D, requires_grad=True)
    value = make_loss(name, classes=CLASSES, dimension=D)(x, torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert value.item() == 0 and x.grad.shape == (0, D)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", LOSSES)
def test_embeddings_that_are_not_finite_are_not_hidden(name, value, batch):
    x = torch.full_like(batch[0], value).requires_grad_()
    found = make_loss(name, classes=CLASSES, dimension=D)(x, batch[1])
    found.backward()
    assert found.isnan() and x.grad.isnan().all()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_the_value(name, batch):
    x, y = batch[0][:, :3].clone().requires_grad_(), batch[1]
    loss = make_loss(name, classes=CLASSES, dimension=3).double()

    def value(x):
        torch.manual_seed(5)  # the group loss draws who is told the truth
        return loss(x, y)

    assert torch.autograd.gradcheck(value, (x,))


@pytest.mark.parametrize("name", LOSSES)
def test_half_types_are_computed_in_float32(name, batch):
    x, y = batch[0].bfloat16(), batch[1]
    torch.manual_seed(0)
    loss = make_loss(name, classes=CLASSES, dimension=D)
    torch.manual_seed(1)
    full = loss(x.float(), y)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        half = loss(x.float(), y)
    torch.manual_seed(1)
    torch.testing.assert_close(half, full)
    torch.testing.assert_close(loss(x, y), full)


@pytest.mark.parametrize("name", LOSSES)
def test_descent_separates_classes(name):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(6).repeat_interleave(2)
    x = torch.randn(12, 4, generator=generator).requires_grad_()
    loss = make_loss(name, classes=6, dimension=4)
    optimizer = torch.optim.Adam([x, *loss.parameters()], lr=0.05)

    def separation():
        f = torch.nn.functional.normalize(x.detach(), dim=1)
        same = y[:, None] == y
        return ((f @ f.T)[same].mean() - (f @ f.T)[~same].mean()).item()

    before, first = separation(), loss(x, y).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()
    if name != "softtriple":  # a class of several centres need not become one cluster
        assert separation() > before
    assert loss(x, y).item() < first - 0.2 * abs(first)


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


def test_a_miner_chooses_what_counts(batch):
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


def test_nothing_mined_is_no_loss(batch):
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


# ---- Refusals ----------------------------------------------------------------------------------


def test_refuses_what_does_not_fit(batch):
    x, y = batch
    loss = losses.HadsellLoss()
    with pytest.raises(ValueError, match=r"embeddings must be floats \[N, D\], got .*\(9,\)"):
        loss(x[:, 0], y)
    with pytest.raises(ValueError, match=r"labels must be whole numbers \[9\], got .*\(8,\)"):
        loss(x, y[:8])
    with pytest.raises(ValueError, match="labels must be whole numbers"):
        loss(x, y.double())
    with pytest.raises(ValueError, match="FastAPLoss compares the whole batch and takes no tuples"):
        losses.FastAPLoss()(x, y, all_triplets(y))
    with pytest.raises(ValueError, match="margin must be at least 0, got -1"):
        losses.TripletLoss(-1)
    with pytest.raises(ValueError, match="D of 2 or more"):
        losses.SNRLoss()(x[:, :1], y)
    with pytest.raises(ValueError, match="loss must be one of contrastive, .*got 'quadruplet'"):
        make_loss("quadruplet", classes=2, dimension=2)
    with pytest.raises(ValueError, match="loss triplet takes margin, got scale"):
        make_loss("triplet", classes=2, dimension=2, scale=3)


@pytest.mark.parametrize(
    "name",
    [
        "margin", "proxynca", "proxynca++", "softtriple", "normalised-softmax", "cosface",
        "arcface", "group",
    ],
)  # fmt: skip
def test_refuses_labels_without_parameters(name, batch):
    loss = make_loss(name, classes=2, dimension=D)
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.1, got 0\.\.2"):
        loss(*batch)


def test_without_the_library(monkeypatch, batch):
    import sys

    for name in list(sys.modules):
        if name.split(".")[0] == "pytorch_metric_learning":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    with pytest.raises(ImportError, match=r"pytorch-metric-learning.*flowmatch\[train\]"):
        make_loss("triplet", classes=2, dimension=2)
    assert make_loss("hadsell", classes=2, dimension=2)(*batch) > 0


@pytest.mark.parametrize("value", [1.5, math.inf, math.nan])
def test_refuses_parts_of_what_is_counted(value):
    assert make_loss("fastap", classes=3, dimension=D, bins=8.0) is not None
    with pytest.raises(
        ValueError, match=f"bins of loss fastap must be a whole number, got {value}"
    ):
        make_loss("fastap", classes=3, dimension=D, bins=value)
