"""Supervised contrastive, NT-Xent, Circle, Proxy-Anchor, sub-centre ArcFace, cross-batch memory."""

import math

import pytest
import torch

from flowmatch.metric_learning import losses

N, D, CLASSES = 9, 4, 3


def cosines(x, other):
    a, b = (part / part.norm(dim=1, keepdim=True) for part in (x.detach(), other.detach()))
    return (a @ b.T).tolist()


def mean(values):
    return sum(values) / len(values)


def others(y, i):
    same = [j for j in range(len(y)) if j != i and y[j] == y[i]]
    return same, [j for j in range(len(y)) if y[j] != y[i]]


def test_supcon(batch):
    x, y = batch
    c, terms = cosines(x, x), []
    for i in range(N):
        same, different = others(y, i)
        total = sum(math.exp(c[i][k] / 0.2) for k in same + different)
        terms.append(mean([math.log(total) - c[i][p] / 0.2 for p in same]))
    assert losses.SupConLoss(0.2)(x, y).item() == pytest.approx(mean(terms))


def test_nt_xent(batch):
    x, y = batch
    c, terms = cosines(x, x), []
    for i in range(N):
        same, different = others(y, i)
        total = sum(math.exp(c[i][n] / 0.2) for n in different)
        terms += [math.log(1 + total / math.exp(c[i][p] / 0.2)) for p in same]
    assert losses.NTXentLoss(0.2)(x, y).item() == pytest.approx(mean(terms))


def test_circle(batch):
    x, y = batch
    c, terms, m, g = cosines(x, x), [], 0.3, 2.0
    for i in range(N):
        same, different = others(y, i)
        a = sum(math.exp(-g * max(0, 1 + m - c[i][p]) * (c[i][p] - 1 + m)) for p in same)
        b = sum(math.exp(g * max(0, c[i][n] + m) * (c[i][n] - m)) for n in different)
        terms.append(math.log(1 + a * b))
    assert losses.CircleLoss(m, g)(x, y).item() == pytest.approx(mean(terms))


def test_proxy_anchor(batch):
    x, y = batch[0], (batch[1] % 2)  # class 2 has a proxy and no item
    loss = losses.ProxyAnchorLoss(CLASSES, D, margin=0.2, scale=3.0).double()
    c = cosines(x, loss.wrapped.proxies)
    positive, negative = [], []
    for p in range(CLASSES):
        near = [math.exp(-3 * (c[i][p] - 0.2)) for i in range(N) if y[i] == p]
        far = [math.exp(3 * (c[i][p] + 0.2)) for i in range(N) if y[i] != p]
        positive += [math.log(1 + sum(near))] if near else []
        negative.append(math.log(1 + sum(far)))
    assert loss(x, y).item() == pytest.approx(mean(positive) + mean(negative))


def test_sub_centre_arcface(batch):
    x, y = batch
    loss = losses.SubCentreArcFaceLoss(CLASSES, D, centres=2, degrees=20, scale=5.0).double()
    c, terms = cosines(x, loss.directions), []
    for row, label in zip(c, y.tolist(), strict=True):
        best = [max(row[2 * k : 2 * k + 2]) for k in range(CLASSES)]
        best[label] = math.cos(math.acos(best[label]) + math.radians(20))
        terms.append(math.log(sum(math.exp(5 * v) for v in best)) - 5 * best[label])
    assert loss(x, y).item() == pytest.approx(mean(terms))


def test_cross_batch_memory(batch):
    x, y = batch
    loss = losses.CrossBatchMemoryLoss(D, size=5, margin=0.1)
    assert torch.equal(loss(x, y), loss(x, y))  # the loss itself does not change the queue
    earlier = torch.randn(7, D, generator=torch.Generator().manual_seed(9))
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    loss.remember(earlier[:3], labels[:3])
    loss.remember(earlier[3:], labels[3:])  # the first two are replaced
    queue, queue_labels = earlier[2:], labels[2:]
    total = 0.0
    for rows, classes, own in ((x, y, True), (queue.double(), queue_labels, False)):
        c = cosines(x, rows)
        for i in range(N):
            for j in range(len(rows)):
                if classes[j] == y[i]:
                    total += 0 if own and i == j else 1 - c[i][j]
                else:
                    total += max(0, c[i][j] - 0.1)
    assert loss(x, y).item() == pytest.approx(total / N, rel=1e-6)
    again = losses.CrossBatchMemoryLoss(D, size=5, margin=0.1)
    again.load_state_dict(loss.state_dict())  # a resumed run continues with the queue
    assert torch.equal(again(x, y), loss(x, y))
    loss.remember(earlier, labels)  # more than the queue has
    assert sorted(loss.queue_labels.tolist()) == sorted(labels[2:].tolist())
    with pytest.raises(ValueError, match="must have the memory's dimension 4, got 2"):
        loss(x[:, :2], y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.NTXentLoss(0), "temperature must be at least 1e-06, got 0"),
        (lambda: losses.SupConLoss(-1), "temperature must be at least 1e-06, got -1"),
        (lambda: losses.CircleLoss(scale=-1), "scale must be at least 0, got -1"),
        (lambda: losses.ProxyAnchorLoss(2, 0), "dimension must be at least 1, got 0"),
        (lambda: losses.SubCentreArcFaceLoss(2, 2, centres=0), "centres must be at least 1, got 0"),
        (lambda: losses.CrossBatchMemoryLoss(2, size=0), "size must be at least 1, got 0"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
