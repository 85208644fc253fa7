"""Losses with parameters or a search, against plain loops."""

import itertools
import math

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from flowmatch.metric_learning import losses

N, D, CLASSES = 9, 4, 3


def units(x):
    return [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in x.tolist()]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cross_entropy(logits, labels):
    terms = []
    for row, y in zip(logits, labels.tolist(), strict=True):
        terms.append(math.log(sum(math.exp(v - row[y]) for v in row)))
    return sum(terms) / len(terms)


def cosines(x, directions):
    return [[dot(f, p) for p in units(directions)] for f in units(x)]


def test_proxynca(batch):
    x, y = batch
    loss = losses.ProxyNCALoss(CLASSES, D).double()
    total = 0.0
    for row, label in zip(cosines(x, loss.proxies), y.tolist(), strict=True):
        near = [math.exp(-9 * (2 - 2 * c)) for c in row]
        total -= math.log(near[label] / sum(v for c, v in enumerate(near) if c != label))
    assert loss(x, y).item() == pytest.approx(total / N)


def test_proxynca_plus_plus(batch):
    x, y = batch
    loss = losses.ProxyNCAPlusPlusLoss(CLASSES, D).double()
    logits = [[-9 * (2 - 2 * c) for c in row] for row in cosines(x, loss.wrapped.proxies)]
    assert loss(x, y).item() == pytest.approx(cross_entropy(logits, y))


def test_softtriple(batch):
    x, y = batch
    loss = losses.SoftTripleLoss(CLASSES, D, centres=3).double()
    centres = loss.wrapped.fc.detach().T
    all_cosines = cosines(x, centres)
    logits = []
    for row, label in zip(all_cosines, y.tolist(), strict=True):
        of_class = []
        for c in range(CLASSES):
            s = row[3 * c : 3 * c + 3]
            weights = [math.exp(v / 0.1) for v in s]
            soft = sum(w * v for w, v in zip(weights, s, strict=True)) / sum(weights)
            of_class.append(20 * (soft - 0.01 * (c == label)))
        logits.append(of_class)
    w = units(centres)
    gaps = [
        math.sqrt(2 - 2 * dot(w[3 * c + i], w[3 * c + j]))
        for c in range(CLASSES)
        for i, j in itertools.combinations(range(3), 2)
    ]
    expected = cross_entropy(logits, y) + 0.2 * sum(gaps) / len(gaps) / 2
    assert loss(x, y).item() == pytest.approx(expected, rel=1e-5)


def test_normalised_softmax(batch):
    x, y = batch
    loss = losses.NormalisedSoftmaxLoss(CLASSES, D).double()
    logits = [[c / 0.05 for c in row] for row in cosines(x, loss.wrapped.W.T)]
    assert loss(x, y).item() == pytest.approx(cross_entropy(logits, y))


def test_cosface(batch):
    x, y = batch
    loss = losses.CosFaceLoss(CLASSES, D).double()
    logits = cosines(x, loss.wrapped.W.T)
    for row, label in zip(logits, y.tolist(), strict=True):
        row[label] -= 0.35
    assert loss(x, y).item() == pytest.approx(
        cross_entropy([[64 * v for v in row] for row in logits], y)
    )


def test_arcface(batch):
    x, y = batch
    loss = losses.ArcFaceLoss(CLASSES, D).double()
    x[0] = -loss.directions[0].detach()  # past 180 degrees
    logits, m, past = cosines(x, loss.directions), math.radians(28.6), 0
    for row, label in zip(logits, y.tolist(), strict=True):
        angle = math.acos(max(-1, min(1, row[label])))
        past += angle + m > math.pi
        row[label] = math.cos(angle + m) if angle + m <= math.pi else row[label] - m * math.sin(m)
    assert past
    expected = cross_entropy([[64 * v for v in row] for row in logits], y)
    assert loss(x, y).item() == pytest.approx(expected)


def test_arcface_where_an_embedding_meets_its_direction():
    loss = losses.ArcFaceLoss(2, 2)
    loss.directions.data.copy_(torch.eye(2))
    x = torch.eye(2).requires_grad_()
    loss(x, torch.tensor([0, 1])).backward()
    assert x.grad.isfinite().all() and loss.directions.grad.isfinite().all()


def test_arcface_equals_the_library(batch):
    from pytorch_metric_learning.losses import ArcFaceLoss

    ours, theirs = losses.ArcFaceLoss(CLASSES, D).double(), ArcFaceLoss(CLASSES, D)
    theirs.W.data = ours.directions.data.T.clone()
    torch.testing.assert_close(ours(*batch), theirs(*batch))


@pytest.mark.parametrize("rounds", [1, 3])
def test_group(batch, rounds):
    x, y = batch
    loss = losses.GroupLoss(CLASSES, D, rounds=rounds).double()
    torch.manual_seed(7)
    is_anchor = loss.sample_anchors(y)
    assert [int(is_anchor[y == c].sum()) for c in range(CLASSES)] == [2, 2, 2]
    weight, bias = loss.classifier.weight.tolist(), loss.classifier.bias.tolist()
    logits = [[dot(v, w) + b for w, b in zip(weight, bias, strict=True)] for v in x.tolist()]
    probabilities = []
    for i, row in enumerate(logits):
        e = [math.exp(v / 24) for v in row]
        soft = [v / sum(e) for v in e]
        probabilities.append([float(c == y[i]) for c in range(CLASSES)] if is_anchor[i] else soft)
    centred = units(x - x.mean(1, keepdim=True))
    for _ in range(rounds):
        new = []
        for i in range(N):
            support = [
                sum(max(0, dot(centred[i], centred[j])) * probabilities[j][c] for j in range(N))
                for c in range(CLASSES)
            ]
            row = [b * s for b, s in zip(probabilities[i], support, strict=True)]
            new.append([v / sum(row) for v in row])
        probabilities = new
    refined = sum(-math.log(probabilities[i][y[i]] + 1e-12) for i in range(N)) / N
    torch.manual_seed(7)
    assert loss(x, y).item() == pytest.approx(refined + cross_entropy(logits, y))


# ---- Clusterings -------------------------------------------------------------------------------


def test_deep_spectral(batch):
    x, y = batch
    x.requires_grad_()
    loss = losses.DeepSpectralLoss()(x, y)
    loss.backward()
    one_hot = torch.nn.functional.one_hot(y).double()
    C = one_hot @ torch.diag(1 / one_hot.sum(0)) @ one_hot.T
    F = x.detach()
    inverse = torch.linalg.inv(F.T @ F) @ F.T
    assert loss.item() == pytest.approx(-torch.trace(C @ F @ inverse).item())
    closed = -2 * (torch.eye(N) - F @ inverse) @ C @ inverse.T
    torch.testing.assert_close(x.grad, closed)
    assert -CLASSES <= loss.item() <= 0


def test_deep_spectral_is_minus_k_where_embeddings_are_the_classes():
    y = torch.tensor([0, 0, 1, 2, 2])
    x = torch.nn.functional.one_hot(y).double() @ torch.randn(3, 3, dtype=torch.float64)
    assert losses.DeepSpectralLoss()(x, y).item() == pytest.approx(-3)
    with pytest.raises(ValueError, match="more embeddings than dimensions.*got 3 of 3"):
        losses.DeepSpectralLoss()(x[:3], y[:3])


def facility(x, y, medoids, gamma=1.0):
    """Return F + g delta of medoids, by loops and the NMI of scikit-learn."""
    total, clusters = 0.0, []
    for v in x:
        costs = [((v - x[j]) ** 2).sum().item() for j in medoids]
        total -= min(costs)
        clusters.append(costs.index(min(costs)))
    nmi = normalized_mutual_info_score(y.numpy(), clusters, average_method="geometric")
    return total + gamma * (1 - nmi)


def true_facility(x, y):
    total = 0.0
    for c in set(y.tolist()):
        of = x[y == c]
        total += max(-sum(((a - b) ** 2).sum().item() for b in of) for a in of)
    return total


@pytest.mark.parametrize("seed", range(4))
def test_facility_location(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 2, generator=generator, dtype=torch.float64)
    y = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    medoids = []
    for _ in range(3):  # greedy
        free = [i for i in range(8) if i not in medoids]
        medoids.append(max(free, key=lambda i: facility(x, y, [*medoids, i])))
    for _ in range(5):  # exchanges
        for place in range(3):
            costs = [[((v - x[j]) ** 2).sum().item() for j in medoids] for v in x]
            members = [i for i in range(8) if costs[i].index(min(costs[i])) == place]
            tries = [[*medoids[:place], i, *medoids[place + 1 :]] for i in members]
            medoids = max([medoids, *tries], key=lambda t: facility(x, y, t))
    expected = max(0, facility(x, y, medoids) - true_facility(x, y))
    assert losses.FacilityLocationLoss()(x, y).item() == pytest.approx(expected)
    best = max(facility(x, y, list(m)) for m in itertools.combinations(range(8), 3))
    assert facility(x, y, medoids) <= best + 1e-9


def test_facility_location_is_0_for_separate_classes_and_not_for_crossed_ones():
    x = torch.tensor([[0.0, 0], [0, 0.1], [9, 0], [9, 0.1], [0, 9], [0.1, 9]])
    loss = losses.FacilityLocationLoss()
    assert loss(x, torch.tensor([0, 0, 1, 1, 2, 2])).item() == 0
    assert loss(x, torch.tensor([0, 1, 1, 2, 2, 0])).item() > 100


# ---- Add-ons -----------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", [True, False])
def test_horde(trained):
    horde = losses.HordeLoss(
        3, losses.HadsellLoss, orders=4, width=5, dimension=2, trained=trained
    ).double()
    features = torch.randn(4, 3, 2, 3, dtype=torch.float64)
    W = horde.weights.tolist()
    if not trained:
        assert {abs(v) for v in horde.weights.flatten().tolist()} == {1.0}
    for order, moment in zip((2, 3, 4), horde.moments(features), strict=True):
        for item in range(4):
            phi = [0.0] * 5
            for h, w in itertools.product(range(2), range(3)):
                at = features[item, :, h, w].tolist()
                for e in range(5):
                    phi[e] += math.prod(dot(W[k][e], at) for k in range(order)) / 6
            head = horde.heads[order - 2]
            raw = head(torch.tensor(phi, dtype=torch.float64))
            torch.testing.assert_close(moment[item], raw / raw.norm())
    labels = torch.tensor([0, 0, 1, 1])
    total = sum(losses.HadsellLoss()(m, labels) for m in horde.moments(features))
    torch.testing.assert_close(horde(features, labels), total)
    with pytest.raises(ValueError, match=r"features must be \[N, 3, H, W\]"):
        horde(features[:, :2], labels)


def huber(a, b):
    return (a - b) ** 2 / 2 if abs(a - b) < 1 else abs(a - b) - 0.5


def test_relational_distillation(batch):
    student, teacher = batch[0][:6], 3 * torch.randn(6, 7, dtype=torch.float64)

    def relations(x):
        d = [[(a - b).norm().item() for a in x] for b in x]
        positive = [v for row in d for v in row if v > 0]
        scale = sum(positive) / len(positive)
        corners = {}
        for i, j, k in itertools.product(range(6), repeat=3):
            if i in (j, k):
                corners[i, j, k] = 0.0
            else:
                a, b = ((x[m] - x[i]).tolist() for m in (j, k))
                corners[i, j, k] = dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))
        return [[v / scale for v in row] for row in d], corners

    (d, c), (D_, C) = relations(student), relations(teacher)
    far = sum(huber(d[i][j], D_[i][j]) for i in range(6) for j in range(6)) / 36
    turn = sum(huber(c[key], C[key]) for key in c) / 216
    value = losses.RelationalDistillation()(student, teacher)
    assert value.item() == pytest.approx(far + 2 * turn)


def test_relational_distillation_of_duplicates():
    student = torch.ones(4, 3, requires_grad=True)
    losses.RelationalDistillation()(student, torch.randn(4, 2)).backward()
    assert student.grad.isfinite().all()
    with pytest.raises(ValueError, match="student and teacher must be"):
        losses.RelationalDistillation()(student, torch.randn(3, 2))


def test_relational_distillation_in_half_types():
    """Sums of distances overflow float16."""
    student, teacher = (100 * torch.randn(2, 16, 64)).half()
    full = losses.RelationalDistillation()(student.float(), teacher.float())
    x = student.clone().requires_grad_()
    value = losses.RelationalDistillation()(x, teacher)
    value.backward()
    torch.testing.assert_close(value, full)
    assert x.grad.isfinite().all() and x.grad.any()
    with torch.autocast("cpu", torch.bfloat16):
        again = losses.RelationalDistillation()(student.float(), teacher.float())
    torch.testing.assert_close(again, full)
