"""Training methods with losses and batches of their own."""

import pytest
import torch

from flowmatch.metric_learning.fit import Recipe, embed
from flowmatch.metric_learning.methods import METHODS, train_method
from flowmatch.metric_learning.protocol import compare, score


def test_every_method_trains(digit_parts):
    rows = list(
        compare(Recipe(steps=4, samples_per_class=2), *digit_parts, losses=tuple(METHODS), seeds=1)
    )
    assert [row.name for row in rows[2:]] == list(METHODS)
    assert all(row.problem is None for row in rows)


@pytest.mark.parametrize("name", ["htl", "divide-conquer"])
def test_methods_that_cluster_all_data(name, digit_parts):
    train, test = digit_parts
    labels = torch.from_numpy(test.labels)
    recipe = Recipe(loss="proxynca", steps=60)
    seen = []
    method = train_method(name, recipe, train, on_step=lambda report: seen.append(report.step))
    assert seen == list(range(1, 61))
    untrained = embed(train_method(name, Recipe(steps=0), train), test, 8)
    before, after = (score(x, labels, "cosine") for x in (untrained, embed(method, test, 8)))
    assert after["MAP@R"] > before["MAP@R"] + 0.1
    if name == "htl":
        assert method.hierarchical.tree.merged_at.shape == (10, 10)
        # Half of a batch's classes are nearest neighbours of the others.
        batch = next(iter(method.batches))
        assert len({int(train.labels[i]) for i in batch}) <= 4
    else:
        assert method.together and method.clusters.max() == method.learners - 1


def test_the_cluster_of_a_batch_decides_its_learner(digit_parts):
    train, _ = digit_parts
    torch.manual_seed(0)
    method = METHODS["divide-conquer"](Recipe(dimension=8), train, 0).train()
    method.begin_epoch(0, 0.0)
    batch = next(iter(method.batches))
    cluster = int(method.clusters[batch[0]])
    pictures = torch.stack([torch.tensor(train.picture(i)).permute(2, 0, 1) for i in batch])
    labels = torch.from_numpy(train.labels[batch])
    method.loss(pictures.float() / 255, labels, torch.tensor(batch)).backward()
    trained = [head.weight.grad is not None for head in method.divided.heads]
    assert trained == [place == cluster for place in range(2)]
