"""The comparison of losses: folds, confidence intervals, verification."""

import math

import numpy as np
import pytest
import torch

from flowmatch.metric_learning.fit import Recipe
from flowmatch.metric_learning.losses import LOSSES
from flowmatch.metric_learning.methods import train_method
from flowmatch.metric_learning.protocol import (
    class_folds,
    compare,
    estimate,
    evaluate_recipe,
    verification_scores,
)


def test_every_loss_trains(digit_parts):
    rows = list(compare(Recipe(steps=2), *digit_parts, losses=tuple(LOSSES), seeds=1))
    assert [row.name for row in rows] == ["pixels", "untrained", *LOSSES]
    for row in rows:
        assert all(0 <= e.mean <= 1 and math.isnan(e.margin) for e in row.scores.values())


def test_a_loss_that_does_not_fit_fails_alone(digit_parts):
    recipe = Recipe(steps=1, classes=2, samples_per_class=2, dimension=8)
    rows = list(compare(recipe, *digit_parts, losses=("deep-spectral", "hadsell"), seeds=1))
    assert "more embeddings than dimensions" in rows[2].problem
    assert math.isnan(rows[2].scores["R@1"].mean) and rows[3].problem is None
    with pytest.raises(ValueError, match="method must be one of htl"):
        train_method("magic", recipe, digit_parts[0])


def test_folds(digit_parts):
    train, test = digit_parts
    recipe = Recipe(loss="hadsell", steps=2, dimension=3)
    alone = evaluate_recipe(recipe, train, test, folds=2)
    both = evaluate_recipe(recipe, train, test, folds=2, together=True)
    assert alone != both
    for kept, left in class_folds(7, 3):
        assert sorted(kept + left) == list(range(7)) and left
    with pytest.raises(ValueError, match="classes must be at least 3, got 2"):
        class_folds(2, 3)


def test_estimate():
    values = [0.2, 0.4, 0.9]
    result = estimate(values)
    assert result.mean == pytest.approx(0.5)
    # Student's t with 2 degrees of freedom: 4.302653 at 97.5 %.
    assert result.margin == pytest.approx(4.302653 * np.std(values, ddof=1) / math.sqrt(3))
    assert math.isnan(estimate([0.3]).margin)


def test_verification_uses_another_half():
    y = torch.arange(5).repeat(40)
    x = torch.nn.functional.one_hot(y).float() + 0.4 * torch.randn(200, 5)
    scores = verification_scores(x, y, "l2", 0.05)
    assert scores["false accepts"] == pytest.approx(0.05, abs=0.02)
    assert 0 < scores["EER"] < 0.3 and scores["threshold"] > 0
    # The halves have alternating items, so both have every class.
    assert verification_scores(x, y, "cosine", 1.0)["false rejects"] == pytest.approx(0, abs=0.01)


def missing(labels):
    y = torch.tensor(labels)
    x = torch.nn.functional.one_hot(y).float() + torch.arange(len(y))[:, None] / 100
    scores = verification_scores(x, y, "l2", 0.1)
    return {name for name, score in scores.items() if math.isnan(score)}


def test_scores_without_the_pairs_they_need_are_missing():
    everything = {"EER", "FPR95", "threshold", "false accepts", "false rejects"}
    assert missing([0, 0, 0, 0, 1, 1, 1, 1]) == set()
    assert missing(list(range(10)) * 2) == everything  # each half has one item of a class
    assert missing([0] * 8) == missing([0, 1]) == missing([0]) == everything
    # The second half has one item of each class, or one class.
    assert missing([0, 0, 0, 1, 1]) == {"EER", "FPR95", "false rejects"}
    assert missing([0, 1, 1, 1, 1]) == {"EER", "FPR95", "false accepts"}
    # The first half, which gives the threshold, has one class.
    assert missing([0, 0, 0, 0, 0, 1]) == {"threshold", "false accepts", "false rejects"}
    with pytest.raises(ValueError, match="false_accept_rate must be in 0..1, got 2"):
        verification_scores(torch.eye(2), torch.arange(2), "l2", 2)
