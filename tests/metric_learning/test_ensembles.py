"""Ensembles, against plain loops."""

import itertools
import math

import pytest
import torch
from torch import nn

from flowmatch.metric_learning import ensembles as e
from flowmatch.metric_learning.losses import HadsellLoss


def unit(x, dim=1):
    return x / x.norm(dim=dim, keepdim=True)


@pytest.fixture
def parts():
    generator = torch.Generator().manual_seed(2)
    sizes = (2, 3, 5)
    embeddings = [unit(torch.randn(7, s, generator=generator, dtype=torch.float64)) for s in sizes]
    return embeddings, torch.tensor([0, 0, 0, 1, 1, 2, 3])


def kinds(y):
    pairs = list(itertools.permutations(range(len(y)), 2))
    return [p for p in pairs if y[p[0]] == y[p[1]]], [p for p in pairs if y[p[0]] != y[p[1]]]


# ---- Divide and Conquer ------------------------------------------------------------------------


def test_slices():
    embedding = e.DividedEmbedding(6, 10, learners=4)
    features = torch.randn(5, 6)
    slices = embedding.slices(features)
    assert [s.shape[1] for s in slices] == [3, 3, 2, 2]
    for s in slices:
        torch.testing.assert_close(s.norm(dim=1), torch.ones(5))
    whole = embedding(features)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(whole, unit(torch.cat(slices, 1)))
    with pytest.raises(ValueError, match="dimension must be at least 8, got 4"):
        e.DividedEmbedding(6, 4, learners=8)


def test_clusters_are_matched_as_the_best_permutation_would():
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        new, old = (torch.randint(0, 4, (30,), generator=generator) for _ in range(2))
        matched = e.match_clusters(new, old, 4)
        best = max(
            sum(p[a] == b for a, b in zip(new.tolist(), old.tolist(), strict=True))
            for p in itertools.permutations(range(4))
        )
        assert int((matched == old).sum()) == best
        groups = {tuple((new == c).tolist()) for c in range(4)}
        assert {tuple((matched == c).tolist()) for c in range(4)} == groups


def test_divide():
    centres = torch.eye(3)
    truth = torch.arange(3).repeat_interleave(5)
    x = centres[truth] + 0.01 * torch.randn(15, 3)
    labels = torch.tensor([0, 0, 1, 1, 9, *[2] * 5, 3, 3, 3, 4, 4])
    clusters = e.divide(x, labels, 3)
    assert clusters[4] == -1  # alone of its class
    assert all(len(set(clusters[s].tolist())) == 1 for s in (slice(4), slice(5, 10), slice(10, 15)))
    assert len(set(clusters.tolist())) == 4
    renamed = (clusters + 1) % 3
    again = e.divide(x, labels, 3, previous=torch.where(clusters < 0, -1, renamed), seed=3)
    assert again.tolist() == torch.where(clusters < 0, -1, renamed).tolist()
    with pytest.raises(ValueError, match="16 clusters need that many items, got 15"):
        e.divide(x, labels, 16)


def test_cluster_batches():
    labels = torch.arange(4).repeat(6).tolist()
    clusters = torch.tensor([0, 0, 1, 1] * 6)
    clusters[0] = -1
    batches = e.ClusterBatches(labels, clusters, classes=2, samples_per_class=2)
    seen = list(batches)
    assert len(seen) == len(batches)
    for batch in seen:
        assert 0 not in batch and len({int(clusters[i]) for i in batch}) == 1 and len(batch) == 4
    assert {int(clusters[b[0]]) for b in seen} == {0, 1}
    assert list(batches) != seen


def test_only_the_clusters_slice_learns():
    embedding = e.DividedEmbedding(6, 8, learners=2)
    loss = e.DivideAndConquerLoss(2, HadsellLoss)
    features, labels = torch.randn(4, 6), torch.tensor([0, 0, 1, 1])
    value = loss(embedding, features, labels, cluster=1)
    torch.testing.assert_close(value, HadsellLoss()(embedding.slices(features)[1], labels))
    value.backward()
    assert embedding.heads[0].weight.grad is None
    assert embedding.heads[1].weight.grad.abs().sum() > 0
    loss(embedding, features, labels).backward()
    assert embedding.heads[0].weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match=r"cluster must be in 0\.\.1, got 2"):
        loss(embedding, features, labels, cluster=2)


# ---- BIER --------------------------------------------------------------------------------------


def test_bier(parts):
    embedded, y = parts
    same, other = kinds(y)
    account, weight, total = {}, {}, 0.0
    for pair in same + other:
        account[pair], weight[pair] = 0.5, 1.0
    for part in embedded:
        for group, m in ((same, 1.0), (other, -25.0)):
            for i, j in group:
                score = 2 * m * (float(part[i] @ part[j]) - 0.5)
                total += weight[i, j] * math.log(1 + math.exp(-score)) / len(group) / 3
                account[i, j] += 0.06 * score
                weight[i, j] = 1 / (1 + math.exp(account[i, j])) * (1 if m == 1 else 2)
    assert e.BierLoss()(embedded, y).item() == pytest.approx(total)


def test_bier_parts_weigh_by_size():
    heads = e.BoostedHeads(4, (1, 3))
    slices = heads(torch.randn(5, 4))
    combined = heads.combine(slices)
    torch.testing.assert_close(combined[:, :1].norm(dim=1), torch.full((5,), 0.25))
    torch.testing.assert_close(combined[:, 1:].norm(dim=1), torch.full((5,), 0.75))


def test_activation_diversity():
    heads = e.BoostedHeads(4, (2, 3)).double()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    first, second = (head(x).detach() for head in heads.heads)
    together = [
        float(first[n, i] * second[n, j]) ** 2
        for n, i, j in itertools.product(range(5), range(2), range(3))
    ]
    units = sum(
        sum((float(row @ row) - 1) ** 2 for row in head.weight.detach()) / len(head.weight)
        for head in heads.heads
    )
    loss = e.ActivationDiversity(weight=0.5, unit_weight=3.0)(heads, x)
    assert loss.item() == pytest.approx(0.5 * (sum(together) / 30 + 3 * units))
    loss.backward()
    assert x.grad is None and heads.heads[0].weight.grad.abs().sum() > 0


def test_learners_and_regressors_have_opposite_gradients():
    heads = e.BoostedHeads(4, (2, 3))
    diversity = e.AdversarialDiversity((2, 3), hidden=6, weight=1.0, unit_weight=0.0)
    x = torch.randn(8, 4)

    def predicted():
        first, second = (head(x) for head in heads.heads)
        return (first * diversity.regressors["1to0"](second)).square().mean()

    before = predicted()
    loss = diversity(heads, x)
    assert loss.item() == pytest.approx(-before.item())
    loss.backward()
    for group, sign in ((heads.heads, -1), (diversity.regressors, 1)):
        backup = [p.detach().clone() for p in group.parameters()]
        with torch.no_grad():
            for p in group.parameters():
                p -= 0.01 * p.grad
        assert sign * (predicted() - before) > 0  # descent: learners lower it, regressors raise it
        with torch.no_grad():
            for p, old in zip(group.parameters(), backup, strict=True):
                p.copy_(old)


# ---- HDC ---------------------------------------------------------------------------------------


def test_cascade(parts):
    embedded, y = parts
    left, total = kinds(y), 0.0
    for part, share in zip(embedded, (1.0, 0.5, 0.2), strict=True):
        d = {
            (i, j): float((part[i] - part[j]).norm())
            for i, j in itertools.permutations(range(7), 2)
        }
        near, far = ({p: v**2 for p, v in d.items()}, {p: max(0, 1 - v) ** 2 for p, v in d.items()})
        kept = []
        for pairs, loss in zip(left, (near, far), strict=True):
            ranked = sorted(pairs, key=lambda p: (-loss[p], p))  # noqa: B023
            kept.append(ranked[: math.ceil(len(ranked) * share - 1e-9)])
            total += sum(loss[p] for p in kept[-1]) / len(kept[-1]) / 2
        left = kept
    assert e.CascadeLoss()(embedded, y).item() == pytest.approx(total)
    combined = e.CascadeLoss.combine(embedded)
    assert combined.shape == (7, 10)
    with pytest.raises(ValueError, match="parts must be of 3 heads, got 2"):
        e.CascadeLoss()(embedded[:2], y)


def test_hardest_rounds_shares_as_decimals():
    everything = torch.ones(5, 1, dtype=torch.bool)
    assert int(e.hardest(torch.rand(5, 1), everything, 0.2).sum()) == 1
    assert int(e.hardest(torch.rand(5, 1), everything, 0.21).sum()) == 2
    assert int(e.hardest(torch.rand(5, 1), ~everything, 0.5).sum()) == 0


# ---- ABE ---------------------------------------------------------------------------------------


def test_attention_ensemble():
    branch, backbone = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 6, 3)
    ensemble = e.AttentionEnsemble(branch, 4, 3, backbone, 6, learners=2, dimension=10)
    x = torch.randn(3, 3, 7, 8)
    embeddings = ensemble(x)
    for m in range(2):
        masked = x * torch.sigmoid(ensemble.masks[m](branch(x)))
        torch.testing.assert_close(
            embeddings[:, m], unit(ensemble.embed(backbone(masked).mean(3).mean(2)))
        )
    assert ensemble.combine(embeddings).shape == (3, 10)
    coarse = e.AttentionEnsemble(nn.Conv2d(3, 4, 3, 2), 4, 3, backbone, 6, learners=2, dimension=10)
    assert coarse(x).shape == (3, 2, 5)  # masks are scaled
    with pytest.raises(ValueError, match="dimension must be a multiple of 2, got 9"):
        e.AttentionEnsemble(branch, 4, 3, backbone, 6, learners=2, dimension=9)


def test_attention_ensemble_loss():
    f = unit(torch.randn(6, 3, 2, dtype=torch.float64), dim=2)
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    same, other = kinds(y)
    total = 0.0
    for m in range(3):
        total += sum((1 - float(f[i, m] @ f[j, m])) ** 2 for i, j in same) / len(same) / 2
        over = [float(f[i, m] @ f[j, m]) - 0.5 for i, j in other]
        over = [v for v in over if v > 0]
        total += sum(over) / len(over) / 2
    excess = [
        float(f[i, k] @ f[i, m]) - 0.5
        for i in range(6)
        for k, m in itertools.combinations(range(3), 2)
    ]
    excess = [v for v in excess if v > 0]
    assert excess
    total += sum(excess) / len(excess)
    assert e.AttentionEnsembleLoss()(f, y).item() == pytest.approx(total)


# ---- Degenerate batches ------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[0] * 4, [0, 1, 2, 3], [0, 0, 1, 1], [0]])
@pytest.mark.parametrize("collapsed", [True, False])
def test_gradients_are_finite(labels, collapsed):
    y = torch.tensor(labels)
    raw = torch.ones(len(y), 9) if collapsed else torch.randn(len(y), 9)
    raw.requires_grad_()
    three = [torch.nn.functional.normalize(p, dim=1) for p in raw.split(3, 1)]
    losses = (
        e.BierLoss()(three, y),
        e.CascadeLoss()(three, y),
        e.AttentionEnsembleLoss()(torch.stack(three, 1), y),
    )
    for loss in losses:
        assert loss.isfinite()
        (grad,) = torch.autograd.grad(loss, raw, retain_graph=True)
        assert grad.isfinite().all()
