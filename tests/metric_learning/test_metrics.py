import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from flowmatch.metric_learning.metrics import (
    clustering_scores,
    compare_clusterings,
    nearest_others,
    retrieval_scores,
)
from flowmatch.metric_learning.verification import roc, verify_pairs


def brute_force(x, y, ks, gallery=None, gallery_labels=None):
    """Return R@K, RP, MAP@R and the number of queries, by sorting in plain Python."""
    self_search = gallery is None
    gallery, z = (x, y) if self_search else (gallery, gallery_labels)
    recalls, rp, ap = {k: [] for k in ks}, [], []
    for q in range(len(x)):
        others = [j for j in range(len(gallery)) if not (self_search and j == q)]
        R = sum(int(z[j] == y[q]) for j in others)
        if R == 0:
            continue
        others.sort(key=lambda j: (math.dist(x[q].tolist(), gallery[j].tolist()), j))
        hits = [bool(z[j] == y[q]) for j in others]
        for k in ks:
            recalls[k].append(any(hits[:k]))
        rp.append(sum(hits[:R]) / R)
        ap.append(
            sum(sum(hits[: i + 1]) / (i + 1) for i in range(min(R, len(hits))) if hits[i]) / R
        )
    mean = {k: float(np.mean(v)) for k, v in recalls.items()}
    return mean, float(np.mean(rp)), float(np.mean(ap)), len(rp)


def check(x, y, ks, **gallery):
    scores = retrieval_scores(x, y, ks, **gallery)
    recall, rp, ap, queries = brute_force(x, y, ks, *gallery.values())
    assert scores.queries == queries
    assert scores.recall == pytest.approx(recall, nan_ok=True)
    assert scores.r_precision == pytest.approx(rp, nan_ok=True)
    assert scores.map_at_r == pytest.approx(ap, nan_ok=True)
    assert 1 not in ks or scores.precision_at_1 == pytest.approx(recall[1], nan_ok=True)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=2, max_size=12),
    st.integers(0, 9),
)
def test_retrieval_with_ties_equals_brute_force(rows, seed):
    # Few distinct points, so that most distances tie and most items have a duplicate.
    x = torch.tensor([[float(a), float(a * a % 3)] for a, _ in rows], dtype=torch.float64)
    y = torch.tensor([b for _, b in rows])
    if len(torch.unique(y)) < len(y):
        check(x, y, (1, 2, 5, 40))


def test_retrieval_equals_brute_force():
    x, y = torch.randn(60, 5), torch.randint(0, 7, (60,))
    check(x, y, (1, 2, 4, 8, 100))
    check(x, y, (3,), gallery=torch.randn(50, 5), gallery_labels=torch.randint(3, 12, (50,)))


def test_retrieval_in_chunks(monkeypatch):
    import flowmatch.metric_learning.metrics as module

    x, y = torch.randn(60, 5), torch.randint(0, 7, (60,))
    whole = retrieval_scores(x, y)
    monkeypatch.setattr(module, "_CHUNK", 100)
    parts = retrieval_scores(x, y)
    assert parts.recall == whole.recall and parts.map_at_r == pytest.approx(whole.map_at_r)


def test_retrieval_agrees_with_the_library():
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    x, y = torch.randn(60, 5), torch.randint(0, 7, (60,))
    names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    knn = CustomKNN(LpDistance(normalize_embeddings=False))
    calculator = AccuracyCalculator(include=names, k="max_bin_count", knn_func=knn)
    theirs = calculator.get_accuracy(x, y)
    ours = retrieval_scores(x, y)
    scores = (ours.precision_at_1, ours.r_precision, ours.map_at_r)
    assert scores == pytest.approx(tuple(theirs[name] for name in names))


def test_an_item_is_left_out_by_its_index():
    x = torch.zeros(5, 2)
    index = nearest_others(x, x, 2, "l2", torch.arange(5))
    assert index.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]


def test_queries_without_relevant_items_do_not_count():
    x = torch.tensor([[0.0], [0.1], [0.2]])
    scores = retrieval_scores(x, torch.tensor([0, 1, 0]), ks=(1, 2))
    assert scores.queries == 2 and scores.recall == {1: 0.0, 2: 1.0}
    scores = retrieval_scores(x, torch.arange(3))
    assert scores.queries == 0 and math.isnan(scores.map_at_r) and math.isnan(scores.recall[1])
    scores = retrieval_scores(torch.tensor([[0.0], [0.0], [math.nan]]), torch.tensor([0, 0, 0]))
    assert scores.recall[1] == pytest.approx(2 / 3)


def test_retrieval_refusals():
    x, y = torch.randn(4, 2), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match="gallery and gallery_labels come together"):
        retrieval_scores(x, y, gallery=x)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        retrieval_scores(x, y, ks=(0,))
    with pytest.raises(ValueError, match=r"labels must be whole numbers \[4\]"):
        retrieval_scores(x, y[:3])


def test_clustering_of_separate_classes_is_perfect():
    y = torch.arange(3).repeat_interleave(5) + 4
    x = 10 * torch.nn.functional.one_hot(y - 4) + 0.1 * torch.randn(15, 3)
    scores = clustering_scores(x, y)
    assert (scores.nmi, scores.nmi_geometric, scores.ami) == pytest.approx((1, 1, 1))
    assert clustering_scores(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])).nmi == 0


def test_mutual_information_by_its_definition():
    a, b = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 2, 2])

    def entropy(values):
        return -sum(
            values.count(v) / len(values) * math.log(values.count(v) / len(values))
            for v in set(values)
        )

    A, B = a.tolist(), b.tolist()
    ha, hb = entropy(A), entropy(B)
    shared = ha + hb - entropy(list(zip(A, B, strict=True)))
    scores = compare_clusterings(a, b)
    assert scores.nmi == pytest.approx(2 * shared / (ha + hb))
    assert scores.nmi_geometric == pytest.approx(shared / math.sqrt(ha * hb))
    assert scores.ami < scores.nmi


def test_mutual_information_as_published():
    # Manning, Raghavan & Schütze, Introduction to Information Retrieval, figure 16.1 and
    # table 16.2: three clusters of x, o and diamonds have an NMI of 0.36 (arithmetic mean).
    clusters = torch.tensor([0] * 6 + [1] * 6 + [2] * 5)
    classes = torch.tensor([0, 0, 0, 0, 0, 1] + [0, 1, 1, 1, 1, 2] + [0, 0, 2, 2, 2])
    assert round(compare_clusterings(clusters, classes).nmi, 2) == 0.36


# ---- Verification ------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30))
def test_roc_equals_counting(rows):
    d, same = torch.tensor([float(a) for a, _ in rows]), torch.tensor([b for _, b in rows])
    if same.all() or not same.any():
        with pytest.raises(ValueError, match="both kinds"):
            roc(d, same)
        return
    curve = roc(d, same)
    P, N = int(same.sum()), int((~same).sum())
    points = sorted(set(d.tolist()))
    assert curve.threshold.tolist() == [-math.inf, *points]
    for t, far, tar in zip(
        points,
        curve.false_accept_rate[1:].tolist(),
        curve.true_accept_rate[1:].tolist(),
        strict=True,
    ):
        accepted = [(v <= t, s) for v, s in zip(d.tolist(), same.tolist(), strict=True)]
        assert far == pytest.approx(sum(a and not s for a, s in accepted) / N)
        assert tar == pytest.approx(sum(a and s for a, s in accepted) / P)
        verification = verify_pairs(d, same, t)
        assert (verification.false_accept_rate, verification.false_reject_rate) == pytest.approx(
            (far, 1 - tar)
        )
        assert verification.accuracy == pytest.approx(sum(a == s for a, s in accepted) / len(rows))
    assert curve.area == pytest.approx(sk.roc_auc_score(same.numpy(), -d.numpy()))
    for rate in (0, 0.1, 0.5, 1):
        t = curve.threshold_for(rate)
        assert verify_pairs(d, same, t).false_accept_rate <= rate + 1e-9
        larger = [p for p in points if p > t]
        assert not larger or verify_pairs(d, same, larger[0]).false_accept_rate > rate
    for recall in (0.5, 0.95):
        first = min(
            t for t in points if verify_pairs(d, same, t).false_reject_rate <= 1 - recall + 1e-9
        )
        expected = verify_pairs(d, same, first).false_accept_rate
        assert curve.false_accept_rate_at(recall) == pytest.approx(expected)
        assert curve.false_accept_rate_at(recall, interpolate=True) <= expected + 1e-9


def test_equal_error_rate():
    same = torch.tensor([1, 1, 0, 1, 0, 0, 1, 0]).bool()
    # The nearest four have three of the four positives and one negative: 1/4 of either.
    assert roc(torch.arange(8.0), same).equal_error_rate == pytest.approx(0.25)
    assert roc(torch.zeros(8), same).equal_error_rate == pytest.approx(0.5)
    assert roc(-torch.arange(4.0), torch.tensor([1, 1, 0, 0]).bool()).equal_error_rate == 1


def test_fpr95():
    d = torch.arange(40.0)
    same = torch.ones(40, dtype=torch.bool)
    same[[10, 30, 38]] = False  # 95 % of the 37 positives are reached at the 36th
    curve = roc(d, same)
    assert curve.false_accept_rate_at() == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"recall must be in 0\.\.1, got 95"):
        curve.false_accept_rate_at(95)
    with pytest.raises(ValueError, match=r"false_accept_rate must be in 0\.\.1"):
        curve.threshold_for(-0.1)
    with pytest.raises(ValueError, match="finite"):
        roc(torch.tensor([math.nan, 1]), torch.tensor([True, False]))
    with pytest.raises(ValueError, match=r"distances and same must be \[P\]"):
        verify_pairs(d, same[:3], 1.0)
